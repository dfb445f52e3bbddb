use super::*;

const VECTORS: u16 = 3;
const SIZES: [u16; 2] = [256, 64];
const DEVICE_FEATURE: u64 = 1 << 5;

const STATUS: u64 = 0x14;
const QUEUE_SELECT: u64 = 0x16;
const QUEUE_SIZE: u64 = 0x18;
const QUEUE_VECTOR: u64 = 0x1a;
const QUEUE_ENABLE: u64 = 0x1c;
const DESCRIPTORS: u64 = 0x20;

fn registers() -> Registers {
    Registers::new(DEVICE_FEATURE, &SIZES, VECTORS)
}

fn read<const WIDTH: usize>(registers: &Registers, offset: u64) -> u64 {
    let mut data = [0; WIDTH];
    registers.read(offset, &mut data, Live::default());
    data.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

fn accept(registers: &mut Registers, features: u64) {
    for (select, value) in [(0u32, features), (1, features >> 32)] {
        registers.write(0x08, &select.to_le_bytes());
        registers.write(0x0c, &u32::try_from(value & 0xffff_ffff).unwrap().to_le_bytes());
    }
}

/// Up to FEATURES_OK with VERSION_1 and the device's own bit.
fn negotiated() -> Registers {
    let mut registers = registers();
    registers.write(STATUS, &[ACKNOWLEDGE]);
    registers.write(STATUS, &[ACKNOWLEDGE | DRIVER]);
    accept(&mut registers, 1 << 32 | DEVICE_FEATURE);
    registers.write(STATUS, &[ACKNOWLEDGE | DRIVER | FEATURES_OK]);
    registers
}

fn running() -> Registers {
    let mut registers = negotiated();
    let action = registers.write(STATUS, &[ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK]);
    assert_eq!(action, Action::Start);
    registers
}

#[test]
fn transport_features_are_offered_and_reserved_ones_are_not() {
    let registers = Registers::new(u64::MAX, &SIZES, VECTORS);
    assert_eq!(registers.offered & RESERVED_FEATURES, RING_FEATURES);
    assert_eq!(registers.offered & 0xff_ffff, 0xff_ffff);
}

#[test]
fn features_are_read_in_halves() {
    let mut registers = registers();
    assert_eq!(read::<4>(&registers, 0x04), DEVICE_FEATURE | 1 << 28 | 1 << 29);
    registers.write(0x00, &1u32.to_le_bytes());
    assert_eq!(read::<4>(&registers, 0x04), 1);
    registers.write(0x00, &2u32.to_le_bytes());
    assert_eq!(read::<4>(&registers, 0x04), 0);
}

#[test]
fn features_ok_needs_version_1_and_nothing_that_was_not_offered() {
    for features in [0, DEVICE_FEATURE, 1 << 32 | 1 << 6, 1 << 32 | 1 << 40] {
        let mut registers = registers();
        accept(&mut registers, features);
        registers.write(STATUS, &[ACKNOWLEDGE | DRIVER | FEATURES_OK]);
        assert_eq!(read::<1>(&registers, STATUS), u64::from(ACKNOWLEDGE | DRIVER), "{features:#x}");
    }
    assert_eq!(negotiated().features(), 1 << 32 | DEVICE_FEATURE);
}

#[test]
fn features_are_frozen_by_features_ok() {
    let mut registers = negotiated();
    accept(&mut registers, 0);
    assert_eq!(registers.features(), 1 << 32 | DEVICE_FEATURE);
}

#[test]
fn status_bits_follow_in_order_and_are_never_taken_back() {
    let mut registers = registers();
    assert_eq!(registers.write(STATUS, &[DRIVER_OK]), Action::None);
    assert_eq!(read::<1>(&registers, STATUS), 0);
    let mut registers = negotiated();
    registers.write(STATUS, &[ACKNOWLEDGE]);
    assert_eq!(read::<1>(&registers, STATUS), u64::from(ACKNOWLEDGE | DRIVER | FEATURES_OK));
}

#[test]
fn driver_ok_starts_once() {
    let mut registers = running();
    assert_eq!(registers.write(STATUS, &[0xff]), Action::None);
    assert!(registers.is_running());
}

#[test]
fn zero_asks_for_a_reset_which_forgets_everything() {
    let mut registers = running();
    assert_eq!(registers.write(STATUS, &[0]), Action::Reset);
    registers.reset();
    assert_eq!((read::<1>(&registers, STATUS), registers.features()), (0, 0));
    assert_eq!(registers.queue_vectors(), [NO_VECTOR; 2]);
}

#[test]
fn queue_sizes_are_powers_of_two_within_the_offer() {
    let mut registers = negotiated();
    for (size, expected) in [(128u16, 128), (0, 128), (3, 128), (512, 128), (0x8000, 128), (1, 1), (256, 256)] {
        registers.write(QUEUE_SIZE, &size.to_le_bytes());
        assert_eq!(read::<2>(&registers, QUEUE_SIZE), expected, "after writing {size}");
    }
}

#[test]
fn queue_registers_are_closed_outside_of_negotiation() {
    for mut registers in [registers(), running()] {
        let before = read::<8>(&registers, QUEUE_SIZE);
        registers.write(QUEUE_SIZE, &16u16.to_le_bytes());
        registers.write(QUEUE_VECTOR, &1u16.to_le_bytes());
        registers.write(QUEUE_ENABLE, &1u16.to_le_bytes());
        registers.write(DESCRIPTORS, &0x1000u32.to_le_bytes());
        assert_eq!(read::<8>(&registers, QUEUE_SIZE), before);
        assert_eq!(read::<8>(&registers, DESCRIPTORS), 0);
    }
}

#[test]
fn enabled_queue_is_frozen_before_driver_ok_too() {
    let mut registers = negotiated();
    registers.write(QUEUE_ENABLE, &1u16.to_le_bytes());
    registers.write(QUEUE_SIZE, &16u16.to_le_bytes());
    registers.write(QUEUE_ENABLE, &0u16.to_le_bytes());
    assert_eq!((read::<2>(&registers, QUEUE_SIZE), read::<2>(&registers, QUEUE_ENABLE)), (256, 1));
}

#[test]
fn queue_that_does_not_exist_has_size_zero_and_ignores_writes() {
    let mut registers = negotiated();
    for index in [2u16, 255, 0x8000, u16::MAX] {
        registers.write(QUEUE_SELECT, &index.to_le_bytes());
        for offset in (0x18..0x40).step_by(2) {
            registers.write(offset, &[1, 0]);
            registers.write(offset, &[0, 0x10, 0, 0]);
        }
        assert_eq!(read::<2>(&registers, QUEUE_SIZE), 0);
        assert_eq!(read::<8>(&registers, DESCRIPTORS), 0);
    }
}

#[test]
fn vector_without_an_entry_reads_back_as_none() {
    let mut registers = negotiated();
    for (vector, expected) in [(2u16, 2), (VECTORS, 0xffff), (0x7fff, 0xffff), (0xffff, 0xffff)] {
        registers.write(0x10, &vector.to_le_bytes());
        registers.write(QUEUE_VECTOR, &vector.to_le_bytes());
        assert_eq!((read::<2>(&registers, 0x10), read::<2>(&registers, QUEUE_VECTOR)), (expected, expected));
    }
}

#[test]
fn addresses_are_written_in_halves() {
    let mut registers = negotiated();
    registers.write(DESCRIPTORS, &0x1000u32.to_le_bytes());
    registers.write(DESCRIPTORS + 4, &7u32.to_le_bytes());
    assert_eq!(read::<8>(&registers, DESCRIPTORS), 7 << 32 | 0x1000);
}

#[test]
fn writes_that_are_not_one_field_do_nothing() {
    let mut registers = negotiated();
    let before: Vec<u64> = (0..0x40).map(|offset| read::<1>(&registers, offset)).collect();
    for (offset, width) in [(0x14, 2), (0x14, 4), (0x15, 1), (0x17, 2), (0x18, 4), (0x20, 8), (0x12, 2), (0x40, 4)] {
        registers.write(offset, &[1; 8][..width]);
    }
    let after: Vec<u64> = (0..0x40).map(|offset| read::<1>(&registers, offset)).collect();
    assert_eq!(after, before);
}

#[test]
fn needs_reset_shows_only_while_there_is_something_to_reset() {
    let broken = Live { needs_reset: true, generation: 3 };
    let mut byte = [0];
    running().read(STATUS, &mut byte, broken);
    assert_eq!(byte[0] & NEEDS_RESET, NEEDS_RESET);
    registers().read(STATUS, &mut byte, broken);
    assert_eq!(byte[0], 0);
}

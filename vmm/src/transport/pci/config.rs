//! The 256 bytes of a function's configuration space: a type 0 header and a list of capabilities.

/// Size of conventional configuration space; our functions have no extended one.
pub(crate) const SIZE: usize = 256;
/// Command register and its memory-space enable bit.
pub(crate) const COMMAND: u16 = 0x04;
pub(crate) const MEMORY_SPACE: u8 = 1 << 1;
/// Bus master enable; in the second byte, interrupt disable.
const BUS_MASTER: u8 = 1 << 2;
const INTERRUPT_DISABLE: u8 = 1 << 2;
const STATUS: usize = 0x06;
const STATUS_CAPABILITIES: u8 = 1 << 4;
/// The first base address register.
pub(crate) const BAR0: u16 = 0x10;
const CAPABILITIES: usize = 0x34;
const INTERRUPT_LINE: usize = 0x3c;
const FIRST_CAPABILITY: usize = 0x40;

/// The fixed part of a header.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Identity {
    pub(crate) vendor: u16,
    pub(crate) device: u16,
    pub(crate) revision: u8,
    /// Class, subclass, programming interface: the low 24 bits.
    pub(crate) class: u32,
    pub(crate) subsystem: u16,
}

/// Registers, and which of their bits the guest may change.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    bytes: [u8; SIZE],
    writable: [u8; SIZE],
    /// Where the next capability goes, and the byte that will lead to it.
    next: usize,
    link: usize,
}

impl Config {
    /// A header with one 32-bit memory BAR of `bar_size` (a power of two) at `bar`.
    pub(crate) fn new(identity: &Identity, bar: u32, bar_size: u32) -> Self {
        let mut config = Self { bytes: [0; SIZE], writable: [0; SIZE], next: FIRST_CAPABILITY, link: CAPABILITIES };
        config.put(0x00, &identity.vendor.to_le_bytes());
        config.put(0x02, &identity.device.to_le_bytes());
        config.put(0x08, &(identity.class << 8 | u32::from(identity.revision)).to_le_bytes());
        config.put(usize::from(BAR0), &bar.to_le_bytes());
        config.put(0x2c, &identity.vendor.to_le_bytes());
        config.put(0x2e, &identity.subsystem.to_le_bytes());
        config.allow(usize::from(COMMAND), &[MEMORY_SPACE | BUS_MASTER, INTERRUPT_DISABLE]);
        // Writing all ones and reading back is how the size is found: the low bits never change.
        config.allow(usize::from(BAR0), &(!(bar_size - 1)).to_le_bytes());
        config.allow(INTERRUPT_LINE, &[0xff]);
        config
    }

    /// Appends a capability; `body` starts behind its two-byte head, `writable` says which bits of it may change.
    /// Returns the offset of its head. One that does not fit is left out, which a test of every device would notice.
    pub(crate) fn add_capability(&mut self, id: u8, body: &[u8], writable: &[u8]) -> u16 {
        let at = self.next;
        let end = (at + 2 + body.len()).next_multiple_of(4);
        if end > SIZE {
            return 0;
        }
        let head = u8::try_from(at).unwrap_or_default();
        self.put(self.link, &[head]);
        self.put(STATUS, &[STATUS_CAPABILITIES]);
        self.put(at, &[id, 0]);
        self.put(at + 2, body);
        self.allow(at + 2, writable);
        (self.link, self.next) = (at + 1, end);
        u16::from(head)
    }

    /// Reads from any offset, any width; past the end there is nothing but zeroes.
    fn read(&self, offset: u16, data: &mut [u8]) {
        for (byte, at) in data.iter_mut().zip(usize::from(offset)..) {
            *byte = self.bytes.get(at).copied().unwrap_or_default();
        }
    }

    /// Writes what may be written.
    pub(crate) fn write(&mut self, offset: u16, data: &[u8]) {
        for (value, at) in data.iter().zip(usize::from(offset)..) {
            if let (Some(byte), Some(mask)) = (self.bytes.get_mut(at), self.writable.get(at)) {
                *byte = *byte & !mask | value & mask;
            }
        }
    }

    /// All of it.
    pub(crate) fn bytes(&self) -> [u8; SIZE] {
        self.bytes
    }

    /// Sets bytes whatever the guest may write.
    pub(crate) fn set(&mut self, offset: u16, value: &[u8]) {
        self.put(usize::from(offset), value);
    }

    /// One byte.
    pub(crate) fn byte(&self, offset: u16) -> u8 {
        self.bytes.get(usize::from(offset)).copied().unwrap_or_default()
    }

    /// Four bytes.
    pub(crate) fn word(&self, offset: u16) -> u32 {
        let mut bytes = [0; 4];
        self.read(offset, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    fn put(&mut self, at: usize, value: &[u8]) {
        self.bytes.iter_mut().skip(at).zip(value).for_each(|(byte, value)| *byte = *value);
    }

    fn allow(&mut self, at: usize, mask: &[u8]) {
        self.writable.iter_mut().skip(at).zip(mask).for_each(|(byte, mask)| *byte = *mask);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDENTITY: Identity =
        Identity { vendor: 0x1af4, device: 0x1042, revision: 1, class: 0x018000, subsystem: 0x40 };

    fn config() -> Config {
        Config::new(&IDENTITY, 0xc000_8000, 0x8000)
    }

    #[test]
    fn size_of_the_bar_is_found_by_writing_ones() {
        let mut config = config();
        config.write(BAR0, &[0xff; 4]);
        assert_eq!(config.word(BAR0), 0xffff_8000);
        config.write(BAR0, &0xc001_0000u32.to_le_bytes());
        assert_eq!(config.word(BAR0), 0xc001_0000);
        config.write(BAR0 + 4, &[0xff; 4]);
        assert_eq!(config.word(BAR0 + 4), 0, "there is no second BAR");
    }

    #[test]
    fn identity_cannot_be_overwritten() {
        let mut config = config();
        config.write(0, &[0; 4]);
        config.write(8, &[0; 4]);
        assert_eq!(config.word(0), 0x1042_1af4);
        assert_eq!(config.word(8), 0x0180_0001);
    }

    #[test]
    fn capabilities_form_a_list() {
        let mut config = config();
        let first = config.add_capability(0x11, &[1, 2, 3], &[]);
        let second = config.add_capability(0x09, &[9; 14], &[0, 0xff]);
        assert_eq!((u16::from(config.byte(0x34)), u16::from(config.byte(first + 1))), (first, second));
        assert_eq!((config.byte(second), config.byte(second + 1)), (0x09, 0));
        config.write(second + 2, &[7, 7, 7]);
        assert_eq!((config.byte(second + 2), config.byte(second + 3), config.byte(second + 4)), (9, 7, 9));
        assert_eq!(config.byte(6) & STATUS_CAPABILITIES, STATUS_CAPABILITIES);
    }

    #[test]
    fn capability_that_does_not_fit_is_left_out() {
        let mut config = config();
        assert_eq!(config.add_capability(9, &[0; 200], &[]), 0);
        assert_eq!(config.byte(0x34), 0);
    }

    #[test]
    fn any_access_stays_inside() {
        let mut config = config();
        for offset in (0..=u16::MAX).step_by(3) {
            for width in [0, 1, 2, 3, 4, 8] {
                config.write(offset, &[0xff; 8][..width]);
                config.read(offset, &mut [0; 8][..width]);
            }
        }
        assert_eq!(config.word(0), 0x1042_1af4);
    }
}

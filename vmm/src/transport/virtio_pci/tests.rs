//! The whole function with a real worker and a real device, driven the way a driver would, without KVM.

use std::sync::Arc;
use std::time::{Duration, Instant};

use devices::rng::Rng;
use proptest::prelude::{any, proptest};
use virtio::test_kit::{Buffer, DriverQueue, ram};
use virtio::{Fault, Interrupt, Ram, Supervisor};

use super::capability::{DEVICE, ISR, MSIX_TABLE, NOTIFY};
use super::fake::FakeHypervisor;
use super::function::VirtioFunction;
use crate::transport::pci::PciFunction;

const BAR: u32 = 0xc000_0000;
const COMMAND: u16 = 4;
const BAR0: u16 = 0x10;
/// What "within a moment" means; a worker answers in microseconds.
const PATIENCE: Duration = Duration::from_secs(10);
const STOP_LIMIT: Duration = Duration::from_millis(100);
const GENTLE: u8 = 1 | 2 | 8;
const DRIVER_OK: u8 = 4;
const NEEDS_RESET: u8 = 64;

/// A driver of the entropy device behind the registers.
struct Driver {
    function: VirtioFunction,
    hypervisor: FakeHypervisor,
    ram: Ram,
    queue: DriverQueue,
}

impl Driver {
    fn new() -> Self {
        let (hypervisor, ram) = (FakeHypervisor::default(), ram());
        let function =
            VirtioFunction::new(Box::new(Rng::new()), BAR, ram.clone(), Arc::new(hypervisor.clone())).unwrap();
        function.write_config(COMMAND, &[6, 4]);
        let queue = DriverQueue::new(&ram, 0, 16);
        Self { function, hypervisor, ram, queue }
    }

    fn status(&self) -> u8 {
        let mut byte = [0];
        self.function.read_bar(0x14, &mut byte);
        byte[0]
    }

    /// Everything up to DRIVER_OK, with vector 1 for the queue and vector 0 for configuration.
    fn start(&mut self) {
        let addresses = self.queue.addresses();
        self.start_at(addresses);
    }

    fn start_at(&self, addresses: [u64; 3]) {
        let write = |offset: u64, data: &[u8]| self.function.write_bar(offset, data);
        write(0x14, &[3]);
        write(0x08, &1u32.to_le_bytes());
        write(0x0c, &1u32.to_le_bytes());
        write(0x14, &[GENTLE]);
        assert_eq!(self.status(), GENTLE);
        self.enable_msix();
        write(0x10, &0u16.to_le_bytes());
        write(0x16, &0u16.to_le_bytes());
        write(0x18, &16u16.to_le_bytes());
        write(0x1a, &1u16.to_le_bytes());
        for (offset, address) in [0x20, 0x28, 0x30].into_iter().zip(addresses) {
            write(offset, &address.to_le_bytes()[..4]);
            write(offset + 4, &address.to_le_bytes()[4..]);
        }
        write(0x1c, &1u16.to_le_bytes());
        write(0x14, &[GENTLE | DRIVER_OK]);
    }

    fn enable_msix(&self) {
        let capability = self.function.config()[0x34];
        self.function.write_config(u16::from(capability) + 2, &[0, 0x80]);
        for vector in 0..2u8 {
            let entry = u64::from(MSIX_TABLE.start) + u64::from(vector) * 16;
            self.function.write_bar(entry, &0xfee0_0000u64.to_le_bytes());
            self.function.write_bar(entry + 8, &[vector, 0, 0, 0]);
            self.function.write_bar(entry + 12, &[0; 4]);
        }
    }

    fn kick(&self) {
        self.function.write_bar(u64::from(NOTIFY.start), &[0, 0]);
    }

    fn interrupts(&self, vector: usize) -> usize {
        self.hypervisor.vectors()[vector].sent().len()
    }
}

fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        std::thread::yield_now();
    }
}

#[test]
fn kick_is_served_and_answered_by_the_queues_vector() {
    let mut driver = Driver::new();
    driver.start();
    driver.queue.send(&[Buffer::writable(0x8000, 64)]);
    driver.kick();
    eventually("used buffer", || driver.queue.used().is_some_and(|used| used.length == 64));
    eventually("interrupt", || driver.interrupts(1) == 1);
    assert_eq!(driver.interrupts(0), 0);
}

#[test]
fn doorbells_exist_only_while_the_device_runs_and_follow_the_bar() {
    let mut driver = Driver::new();
    assert_eq!(driver.hypervisor.doorbells(), [0; 0]);
    driver.start();
    let doorbell = u64::from(BAR + NOTIFY.start);
    assert_eq!(driver.hypervisor.doorbells(), [doorbell]);
    driver.function.write_config(COMMAND, &[4]);
    assert_eq!(driver.hypervisor.doorbells(), [0; 0]);
    driver.function.write_config(BAR0, &(BAR + 0x10_0000).to_le_bytes());
    driver.function.write_config(COMMAND, &[6]);
    assert_eq!(driver.hypervisor.doorbells(), [doorbell + 0x10_0000]);
    assert_eq!(driver.function.bar(), Some((u64::from(BAR) + 0x10_0000, 0x8000)));
    driver.function.write_bar(0x14, &[0]);
    assert_eq!(driver.hypervisor.doorbells(), [0; 0]);
}

#[test]
fn reset_stops_the_device_in_time_and_it_starts_again() {
    let mut driver = Driver::new();
    driver.start();
    let before = Instant::now();
    driver.function.write_bar(0x14, &[0]);
    assert!(before.elapsed() < STOP_LIMIT);
    assert_eq!(driver.status(), 0);
    driver.queue = DriverQueue::new(&driver.ram, 0, 16);
    driver.start();
    driver.queue.send(&[Buffer::writable(0x8000, 8)]);
    driver.kick();
    eventually("used buffer", || driver.queue.used().is_some());
}

#[test]
fn kick_before_driver_ok_wakes_nobody() {
    let driver = Driver::new();
    driver.kick();
    assert_eq!(driver.function.kick_count(0), 0);
}

#[test]
fn broken_ring_shows_as_needs_reset_with_an_interrupt() {
    let mut driver = Driver::new();
    driver.start();
    driver.queue.jump(1000);
    driver.kick();
    eventually("NEEDS_RESET", || driver.status() & NEEDS_RESET != 0);
    eventually("configuration interrupt", || driver.interrupts(0) == 1);
    assert_eq!(driver.hypervisor.failures(), [""; 0], "a guest's fault is not the host's");
    driver.function.write_bar(0x14, &[0]);
    assert_eq!(driver.status(), 0);
}

#[test]
fn configuration_change_counts_a_generation_and_interrupts() {
    let mut driver = Driver::new();
    driver.start();
    let generation = || {
        let mut byte = [0];
        driver.function.read_bar(0x15, &mut byte);
        byte[0]
    };
    let before = generation();
    driver.function.notifier().config();
    assert_eq!(generation(), before.wrapping_add(1));
    assert_eq!(driver.interrupts(0), 1);
}

#[test]
fn host_side_failure_is_the_hypervisors_to_judge() {
    let driver = Driver::new();
    driver.function.notifier().faulted(&Fault::Host(std::io::Error::other("disk is gone")));
    assert_eq!(driver.hypervisor.failures(), ["rng"]);
}

#[test]
fn queue_outside_of_memory_never_starts() {
    for address in [1 << 40, !0xfff, 0xfff8] {
        let driver = Driver::new();
        driver.start_at([address, 0x1000, 0x2000]);
        assert_eq!(driver.status() & NEEDS_RESET, NEEDS_RESET, "{address:#x}");
    }
}

#[test]
fn isr_reports_to_a_driver_without_msix_and_clears_on_read() {
    let mut driver = Driver::new();
    driver.start();
    driver.function.write_config(0x42, &[0, 0]);
    driver.queue.send(&[Buffer::writable(0x8000, 8)]);
    driver.kick();
    let mut isr = [0];
    eventually("ISR", || {
        driver.function.read_bar(u64::from(ISR.start), &mut isr);
        isr[0] == 1
    });
    driver.function.read_bar(u64::from(ISR.start), &mut isr);
    assert_eq!(isr[0], 0);
}

#[test]
fn registers_are_reachable_through_the_configuration_access_capability() {
    let driver = Driver::new();
    let at = window(&driver.function);
    driver.function.write_config(at + 8, &0x14u32.to_le_bytes());
    driver.function.write_config(at + 12, &1u32.to_le_bytes());
    driver.function.write_config(at + 16, &[3 | DRIVER_OK]);
    let data = driver.function.config()[usize::from(at) + 16];
    assert_eq!((data, driver.status()), (3, 3), "without FEATURES_OK there is no DRIVER_OK");
}

/// Walks the capability list to the configuration access capability.
fn window(function: &VirtioFunction) -> u16 {
    let byte = |at: u16| function.config()[usize::from(at)];
    let mut at = u16::from(byte(0x34));
    while byte(at + 3) != 5 || byte(at) != 9 {
        at = u16::from(byte(at + 1));
        assert_ne!(at, 0, "the list has ended");
    }
    at
}

#[test]
fn device_area_reads_zero_past_the_devices_configuration() {
    let driver = Driver::new();
    let mut data = [7; 8];
    driver.function.read_bar(u64::from(DEVICE.start) + 0xff8, &mut data);
    assert_eq!(data, [0; 8]);
}

proptest! {
    #[test]
    fn no_access_of_any_kind_panics(accesses in proptest::collection::vec(
        (any::<bool>(), any::<bool>(), any::<u16>(), 0usize..=8, any::<u64>()), 1..200,
    )) {
        let mut driver = Driver::new();
        driver.start();
        for (to_config, write, offset, width, value) in accesses {
            let mut data = value.to_le_bytes();
            let data = &mut data[..width];
            match (to_config, write) {
                (true, true) => driver.function.write_config(offset % 0x120, data),
                (true, false) => drop(driver.function.config()),
                (false, true) => driver.function.write_bar(u64::from(offset), data),
                (false, false) => driver.function.read_bar(u64::from(offset), data),
            }
        }
    }
}

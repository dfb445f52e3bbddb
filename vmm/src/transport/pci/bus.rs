//! The one PCI bus: configuration space by memory (ECAM), and which function a BAR address belongs to.
//!
//! Configuration space is mirrored in memory that the guest may read but not write, so that probing a function, some
//! 200 reads, takes no exit to user space; a write still arrives here. There is no configuration mechanism 1 (ports
//! 0xcf8 and 0xcfc): wherever it answers, Linux prefers it to ECAM, and every access would be two exits.

use std::fmt::Debug;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::config::SIZE;
use crate::boot::layout::{ECAM, ECAM_SIZE, PCI_WINDOW, PCI_WINDOW_SIZE};

/// Devices on a bus. Each of ours has one function.
const MAX_DEVICES: usize = 32;

/// A function as the bus sees it.
pub(crate) trait PciFunction: Send + Sync + Debug {
    /// All of configuration space, which only changes by writes to it.
    fn config(&self) -> [u8; SIZE];
    /// Writes configuration space.
    fn write_config(&self, offset: u16, data: &[u8]);
    /// Where its BAR 0 is now, if its memory space is enabled: address and size.
    fn bar(&self) -> Option<(u64, u64)>;
    /// Reads BAR 0.
    fn read_bar(&self, offset: u64, data: &mut [u8]);
    /// Writes BAR 0.
    fn write_bar(&self, offset: u64, data: &[u8]);
}

/// The bus and what is plugged into it.
#[derive(Debug)]
pub(crate) struct PciBus {
    functions: Vec<Arc<dyn PciFunction>>,
    /// What the guest reads at ECAM. Locked while a function's space changes, so that no older copy overwrites a newer.
    mirror: Mutex<GuestMemoryMmap>,
}

impl PciBus {
    /// An empty bus. Where no function is, its space reads as zero, which no vendor has.
    pub(crate) fn new() -> io::Result<Self> {
        let size = usize::try_from(ECAM_SIZE).map_err(io::Error::other)?;
        let mirror = GuestMemoryMmap::from_ranges(&[(GuestAddress(ECAM), size)]).map_err(io::Error::other)?;
        Ok(Self { functions: Vec::new(), mirror: Mutex::new(mirror) })
    }

    /// The memory to show the guest, read-only, at ECAM.
    pub(crate) fn mirror(&self) -> GuestMemoryMmap {
        self.mirror.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Plugs `function` into the next device number; false when the bus is full.
    pub(crate) fn plug(&mut self, function: Arc<dyn PciFunction>) -> bool {
        let device = self.functions.len();
        if device >= MAX_DEVICES {
            return false;
        }
        self.change(device, || function.config());
        self.functions.push(function);
        true
    }

    /// Reads guest-physical memory that is not RAM; where nothing is, all ones.
    pub(crate) fn read(&self, address: u64, data: &mut [u8]) {
        match self.bar(address) {
            Some((function, offset)) => function.read_bar(offset, data),
            None => data.fill(0xff),
        }
    }

    /// Writes guest-physical memory that is not RAM.
    pub(crate) fn write(&self, address: u64, data: &[u8]) {
        if let Some(place) = address.checked_sub(ECAM).filter(|place| *place < ECAM_SIZE) {
            self.write_config(place, data);
        } else if let Some((function, offset)) = self.bar(address) {
            function.write_bar(offset, data);
        }
    }

    fn write_config(&self, place: u64, data: &[u8]) {
        // Bits 12 to 14 number the function, bits 15 to 19 the device.
        let device = usize::try_from(place >> 15).unwrap_or(usize::MAX);
        let Some(function) = self.functions.get(device).filter(|_| place >> 12 & 7 == 0) else { return };
        self.change(device, || {
            function.write_config(u16::try_from(place & 0xfff).unwrap_or(u16::MAX), data);
            function.config()
        });
    }

    /// Shows the guest the configuration space that `change` leaves.
    fn change(&self, device: usize, change: impl FnOnce() -> [u8; SIZE]) {
        let mirror = self.mirror.lock().unwrap_or_else(PoisonError::into_inner);
        let at = ECAM + ((device as u64) << 15);
        if let Err(error) = mirror.write_slice(&change(), GuestAddress(at)) {
            // Not reached: the mirror has room for all 32 devices.
            tracing::error!(%error, "Cannot show the guest a device's configuration space");
        }
    }

    fn bar(&self, address: u64) -> Option<(&dyn PciFunction, u64)> {
        if !(PCI_WINDOW..PCI_WINDOW + PCI_WINDOW_SIZE).contains(&address) {
            return None;
        }
        self.functions.iter().find_map(|function| {
            let (start, size) = function.bar()?;
            let offset = address.checked_sub(start).filter(|offset| *offset < size)?;
            Some((&**function, offset))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU8, Ordering::SeqCst};

    use super::*;

    /// A function whose space is full of one byte, which the last write chose.
    #[derive(Debug)]
    struct Fake(AtomicU8, Option<(u64, u64)>);

    impl PciFunction for Fake {
        fn config(&self) -> [u8; SIZE] {
            [self.0.load(SeqCst); SIZE]
        }
        fn write_config(&self, _: u16, data: &[u8]) {
            self.0.store(data[0], SeqCst);
        }
        fn bar(&self) -> Option<(u64, u64)> {
            self.1
        }
        fn read_bar(&self, offset: u64, data: &mut [u8]) {
            data.fill(u8::try_from(offset).unwrap());
        }
        fn write_bar(&self, _: u64, _: &[u8]) {}
    }

    fn fake(byte: u8, bar: Option<(u64, u64)>) -> Arc<dyn PciFunction> {
        Arc::new(Fake(AtomicU8::new(byte), bar))
    }

    fn bus() -> PciBus {
        let mut bus = PciBus::new().unwrap();
        assert!(bus.plug(fake(0x10, None)));
        assert!(bus.plug(fake(0x20, Some((PCI_WINDOW + 0x8000, 0x80)))));
        bus
    }

    /// What the guest reads at ECAM without us.
    fn mirrored(bus: &PciBus, place: u64) -> u8 {
        bus.mirror().read_obj(GuestAddress(ECAM + place)).unwrap()
    }

    fn read(bus: &PciBus, address: u64) -> u8 {
        let mut data = [0];
        bus.read(address, &mut data);
        data[0]
    }

    #[test]
    fn guest_sees_each_device_at_its_place_and_zeroes_elsewhere() {
        let bus = bus();
        assert_eq!((mirrored(&bus, 4), mirrored(&bus, (1 << 15) + 2)), (0x10, 0x20));
        assert_eq!(mirrored(&bus, 2 << 15), 0, "no device");
        assert_eq!(mirrored(&bus, 1 << 12), 0, "no second function");
        assert_eq!(mirrored(&bus, 0x100), 0, "no extended space");
    }

    #[test]
    fn write_changes_what_the_guest_sees_of_that_device_only() {
        let bus = bus();
        bus.write(ECAM + (1 << 15) + 8, &[0x55]);
        assert_eq!((mirrored(&bus, 0), mirrored(&bus, 1 << 15)), (0x10, 0x55));
        bus.write(ECAM + (1 << 15) + (1 << 12), &[0x66]);
        bus.write(ECAM + (7 << 15), &[0x66]);
        assert_eq!((mirrored(&bus, 1 << 15), mirrored(&bus, 7 << 15)), (0x55, 0));
    }

    #[test]
    fn bar_is_found_where_it_is_and_not_behind() {
        let bus = bus();
        assert_eq!(read(&bus, PCI_WINDOW + 0x8000 + 0x7f), 0x7f);
        assert_eq!(read(&bus, PCI_WINDOW + 0x8080), 0xff);
        assert_eq!(read(&bus, PCI_WINDOW + 0x7fff), 0xff);
        assert_eq!(read(&bus, u64::MAX), 0xff);
    }

    #[test]
    fn bus_has_room_for_32_devices() {
        let mut bus = PciBus::new().unwrap();
        assert!((0..MAX_DEVICES).all(|_| bus.plug(fake(0, None))));
        assert!(!bus.plug(fake(0, None)));
    }
}

//! The one PCI bus: configuration space by memory (ECAM), and which function a BAR address belongs to.
//!
//! There is no configuration mechanism 1 (ports 0xcf8 and 0xcfc): wherever it answers, Linux prefers it to ECAM, at two
//! exits per access instead of one.

use std::fmt::Debug;
use std::sync::Arc;

use crate::boot::layout::{ECAM, ECAM_SIZE, PCI_WINDOW, PCI_WINDOW_SIZE};

/// Devices on a bus. Each of ours has one function.
const MAX_DEVICES: usize = 32;

/// A function as the bus sees it.
pub(crate) trait PciFunction: Send + Sync + Debug {
    /// Reads configuration space.
    fn read_config(&self, offset: u16, data: &mut [u8]);
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
#[derive(Debug, Default)]
pub(crate) struct PciBus {
    functions: Vec<Arc<dyn PciFunction>>,
}

/// Where an address leads.
enum Target<'a> {
    Config(&'a dyn PciFunction, u16),
    Bar(&'a dyn PciFunction, u64),
}

impl PciBus {
    /// Plugs `function` into the next device number; false when the bus is full.
    pub(crate) fn plug(&mut self, function: Arc<dyn PciFunction>) -> bool {
        let room = self.functions.len() < MAX_DEVICES;
        if room {
            self.functions.push(function);
        }
        room
    }

    /// Reads guest-physical memory that is not RAM; where nothing is, all ones.
    pub(crate) fn read(&self, address: u64, data: &mut [u8]) {
        match self.find(address) {
            Some(Target::Config(function, offset)) => function.read_config(offset, data),
            Some(Target::Bar(function, offset)) => function.read_bar(offset, data),
            None => data.fill(0xff),
        }
    }

    /// Writes guest-physical memory that is not RAM.
    pub(crate) fn write(&self, address: u64, data: &[u8]) {
        match self.find(address) {
            Some(Target::Config(function, offset)) => function.write_config(offset, data),
            Some(Target::Bar(function, offset)) => function.write_bar(offset, data),
            None => {}
        }
    }

    fn find(&self, address: u64) -> Option<Target<'_>> {
        if (ECAM..ECAM + ECAM_SIZE).contains(&address) {
            let place = address - ECAM;
            // Bits 12 to 14 number the function, bits 15 to 19 the device.
            let function = self.functions.get(usize::try_from(place >> 15).ok()?).filter(|_| place >> 12 & 7 == 0)?;
            return Some(Target::Config(&**function, u16::try_from(place & 0xfff).ok()?));
        }
        if !(PCI_WINDOW..PCI_WINDOW + PCI_WINDOW_SIZE).contains(&address) {
            return None;
        }
        self.functions.iter().find_map(|function| {
            let (start, size) = function.bar()?;
            let offset = address.checked_sub(start).filter(|offset| *offset < size)?;
            Some(Target::Bar(&**function, offset))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Fake(u8, Option<(u64, u64)>);

    impl PciFunction for Fake {
        fn read_config(&self, offset: u16, data: &mut [u8]) {
            data.fill(self.0 + u8::try_from(offset & 0xf).unwrap());
        }
        fn write_config(&self, _: u16, _: &[u8]) {}
        fn bar(&self) -> Option<(u64, u64)> {
            self.1
        }
        fn read_bar(&self, offset: u64, data: &mut [u8]) {
            data.fill(u8::try_from(offset).unwrap());
        }
        fn write_bar(&self, _: u64, _: &[u8]) {}
    }

    fn bus() -> PciBus {
        let mut bus = PciBus::default();
        assert!(bus.plug(Arc::new(Fake(0x10, None))));
        assert!(bus.plug(Arc::new(Fake(0x20, Some((PCI_WINDOW + 0x8000, 0x80))))));
        bus
    }

    fn read(bus: &PciBus, address: u64) -> u8 {
        let mut data = [0];
        bus.read(address, &mut data);
        data[0]
    }

    #[test]
    fn ecam_finds_device_and_register() {
        let bus = bus();
        assert_eq!(read(&bus, ECAM + 4), 0x14);
        assert_eq!(read(&bus, ECAM + (1 << 15) + 2), 0x22);
        assert_eq!(read(&bus, ECAM + (2 << 15)), 0xff, "no device");
        assert_eq!(read(&bus, ECAM + (1 << 12)), 0xff, "no second function");
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
        let mut bus = PciBus::default();
        assert!((0..MAX_DEVICES).all(|_| bus.plug(Arc::new(Fake(0, None)))));
        assert!(!bus.plug(Arc::new(Fake(0, None))));
    }
}

//! The monitor's memory table: guest RAM, and the monitor's own addresses for it.

use std::fs::File;
use std::io;
use std::sync::PoisonError;

use vhost::vhost_user::message::VhostUserMemoryRegion;
use virtio::Ram;
use vm_memory::{GuestAddress, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap};

/// Guest RAM as the monitor passed it last.
#[derive(Debug)]
pub(crate) struct Memory {
    ram: Ram,
    windows: Vec<Window>,
}

/// Ring addresses come in the monitor's address space; each region says how that maps to the guest's.
#[derive(Debug, Clone, Copy)]
struct Window {
    monitor: u64,
    guest: u64,
    size: u64,
}

impl Memory {
    pub(crate) fn new() -> Self {
        Self { ram: Ram::new(GuestMemoryMmap::new()), windows: Vec::new() }
    }

    pub(crate) fn ram(&self) -> &Ram {
        &self.ram
    }

    /// Maps a new table in place of the old one. Requests being served keep the old mappings until they are finished.
    pub(crate) fn replace(&mut self, regions: &[VhostUserMemoryRegion], files: Vec<File>) -> io::Result<()> {
        if regions.len() != files.len() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut mapped = Vec::with_capacity(regions.len());
        for (region, file) in regions.iter().zip(files) {
            let mapping = region.mmap_region(file).map_err(io::Error::other)?;
            let start = GuestAddress(region.guest_phys_addr);
            mapped.push(GuestRegionMmap::new(mapping, start).ok_or(io::ErrorKind::InvalidInput)?);
        }
        mapped.sort_by_key(GuestRegionMmap::start_addr);
        let memory = GuestMemoryMmap::from_regions(mapped).map_err(io::Error::other)?;
        // A poisoned lock still guards a whole table: replacing is a single store.
        self.ram.lock().unwrap_or_else(PoisonError::into_inner).replace(memory);
        self.windows = regions
            .iter()
            .map(|region| Window { monitor: region.user_addr, guest: region.guest_phys_addr, size: region.memory_size })
            .collect();
        Ok(())
    }

    /// The guest-physical address of an address of the monitor.
    pub(crate) fn translate(&self, monitor: u64) -> Option<u64> {
        self.windows.iter().find_map(|window| {
            let offset = monitor.checked_sub(window.monitor).filter(|offset| *offset < window.size)?;
            window.guest.checked_add(offset)
        })
    }
}

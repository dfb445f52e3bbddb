//! Gives guest RAM the guest does not use back to the host.
//!
//! Called by the balloon device with ranges the guest named; what is released reads as zeroes from then on.

use std::io;

use rustix::fs::{FallocateFlags, fallocate};
use rustix::mm::{Advice, madvise};
use rustix::param::page_size;
use vm_memory::{GuestAddress, GuestAddressSpace, GuestMemoryBackend, GuestMemoryRegion, GuestRegionMmap};

use crate::Ram;

/// Releases the host pages that lie entirely within `len` bytes of guest RAM from `start`; holes in guest RAM are
/// passed over. Returns how many bytes were released.
pub fn release(ram: &Ram, start: GuestAddress, len: u64) -> io::Result<u64> {
    let end = start.0.checked_add(len).ok_or(io::ErrorKind::InvalidInput)?;
    let mut released = 0;
    for region in ram.memory().iter() {
        let (first, last) = (region.start_addr().0, region.start_addr().0.saturating_add(region.len()));
        let (from, to) = (start.0.max(first), end.min(last));
        if from < to {
            released += release_in(region, from - first, to - from)?;
        }
    }
    Ok(released)
}

/// Releases the whole pages between two offsets into `region`.
fn release_in(region: &GuestRegionMmap, offset: u64, len: u64) -> io::Result<u64> {
    let page = u64::try_from(page_size()).map_err(|_| io::ErrorKind::Unsupported)?;
    let from = offset.next_multiple_of(page);
    let to = (offset + len) / page * page;
    if from >= to {
        return Ok(0);
    }
    let len = to - from;
    let shared = region.flags() & libc::MAP_SHARED != 0;
    match (region.file_offset(), shared) {
        (Some(file), true) => {
            let start = file.start().checked_add(from).ok_or(io::ErrorKind::InvalidInput)?;
            // The pages vanish under the shared mapping, where reads find zeroes from then on: for our side that is the
            // same as the guest having written zeroes.
            fallocate(file.file(), FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, start, len)?;
        }
        (None, false) => drop_private_pages(region, from, len)?,
        // Punching a file that is mapped privately would destroy the file, dropping the pages would bring it back.
        _ => return Err(io::ErrorKind::Unsupported.into()),
    }
    Ok(len)
}

fn drop_private_pages(region: &GuestRegionMmap, from: u64, len: u64) -> io::Result<()> {
    let (from, len) = (length(from)?, length(len)?);
    let start = region.as_ptr().wrapping_add(from);
    // SAFETY: the range lies within the region's own private anonymous mapping (checked by the caller), which `region`
    // keeps alive; guest RAM is only ever accessed by copies, so pages turning to zeroes break no reference.
    Ok(unsafe { madvise(start.cast(), len, Advice::LinuxDontNeed) }?)
}

fn length(value: u64) -> io::Result<usize> {
    usize::try_from(value).map_err(|_| io::ErrorKind::InvalidInput.into())
}

#[cfg(test)]
mod tests {
    use vm_memory::{Bytes, GuestMemoryMmap};

    use super::*;
    use crate::test_kit::{HIGH_START, HOLE, ram};

    const PAGE: u64 = 4096;

    fn byte_at(ram: &Ram, address: u64) -> u8 {
        ram.memory().read_obj(GuestAddress(address)).unwrap()
    }

    fn fill(ram: &Ram, start: u64, len: usize) {
        ram.memory().write_slice(&vec![7; len], GuestAddress(start)).unwrap();
    }

    #[test]
    fn only_whole_pages_inside_the_range_are_released() {
        let ram = ram();
        fill(&ram, 0, 4 * 4096);
        assert_eq!(release(&ram, GuestAddress(PAGE - 1), 2 * PAGE + 2).unwrap(), 2 * PAGE);
        assert_eq!([0, PAGE - 1, PAGE, 3 * PAGE - 1, 3 * PAGE].map(|at| byte_at(&ram, at)), [7, 7, 0, 0, 7]);
    }

    #[test]
    fn memory_returns_to_the_host() {
        let ram = ram();
        fill(&ram, 0, 1 << 20);
        let blocks = || {
            let memory = ram.memory();
            let file = memory.iter().next().unwrap().file_offset().unwrap().file().try_clone().unwrap();
            std::os::unix::fs::MetadataExt::blocks(&file.metadata().unwrap())
        };
        let before = blocks();
        assert_eq!(release(&ram, GuestAddress(0), 1 << 20).unwrap(), 1 << 20);
        assert_eq!(before - blocks(), (1 << 20) / 512);
    }

    #[test]
    fn holes_in_ram_are_passed_over() {
        let ram = ram();
        fill(&ram, HOLE - PAGE, 4096);
        fill(&ram, HIGH_START, 4096);
        let span = HIGH_START + PAGE - (HOLE - PAGE);
        assert_eq!(release(&ram, GuestAddress(HOLE - PAGE), span).unwrap(), 2 * PAGE);
        assert_eq!([HOLE - PAGE, HIGH_START].map(|at| byte_at(&ram, at)), [0, 0]);
    }

    #[test]
    fn ranges_outside_ram_release_nothing() {
        let ram = ram();
        assert_eq!(release(&ram, GuestAddress(HOLE), PAGE).unwrap(), 0);
        assert_eq!(release(&ram, GuestAddress(u64::MAX - PAGE), PAGE).unwrap(), 0);
        assert!(release(&ram, GuestAddress(u64::MAX), 2).is_err());
    }

    #[test]
    fn anonymous_memory_is_released_too() {
        let ram = Ram::new(GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap());
        fill(&ram, 0, 2 * 4096);
        assert_eq!(release(&ram, GuestAddress(PAGE), PAGE).unwrap(), PAGE);
        assert_eq!([0, PAGE].map(|at| byte_at(&ram, at)), [7, 0]);
    }
}

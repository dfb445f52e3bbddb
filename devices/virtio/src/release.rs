//! Gives guest RAM the guest does not use back to the host.
//!
//! Called by the balloon device with ranges the guest named; what is released reads as zeroes from then on.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use vm_memory::{GuestAddress, GuestAddressSpace, GuestMemoryBackend, GuestMemoryRegion, GuestRegionMmap};

use crate::Ram;

/// Releases the host pages that lie entirely within `len` bytes of guest RAM from `start`; holes in guest RAM are passed
/// over. Returns how many bytes were released.
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
    let page = page_size();
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
            punch_hole(file.file().as_raw_fd(), start, len)?;
        }
        (None, false) => drop_private_pages(region, from, len)?,
        // Punching a file that is mapped privately would destroy the file, dropping the pages would bring it back.
        _ => return Err(io::ErrorKind::Unsupported.into()),
    }
    Ok(len)
}

fn punch_hole(fd: RawFd, start: u64, len: u64) -> io::Result<()> {
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    let (start, len) = (offset(start)?, offset(len)?);
    // SAFETY: no memory is passed. The pages vanish under a shared mapping, where reads find zeroes from then on: for
    // our side that is the same as the guest having written zeroes.
    result(unsafe { libc::fallocate(fd, mode, start, len) })
}

fn drop_private_pages(region: &GuestRegionMmap, from: u64, len: u64) -> io::Result<()> {
    let (from, len) = (length(from)?, length(len)?);
    let start = region.as_ptr().wrapping_add(from);
    // SAFETY: the range lies within the region's own private anonymous mapping (checked by the caller), which `region`
    // keeps alive; guest RAM is only ever accessed by copies, so pages turning to zeroes break no reference.
    result(unsafe { libc::madvise(start.cast(), len, libc::MADV_DONTNEED) })
}

fn result(returned: libc::c_int) -> io::Result<()> {
    if returned == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn offset(value: u64) -> io::Result<libc::off_t> {
    libc::off_t::try_from(value).map_err(|_| io::ErrorKind::InvalidInput.into())
}

fn length(value: u64) -> io::Result<usize> {
    usize::try_from(value).map_err(|_| io::ErrorKind::InvalidInput.into())
}

fn page_size() -> u64 {
    // SAFETY: takes no memory and has no precondition.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u64::try_from(size).ok().filter(|size| size.is_power_of_two()).unwrap_or(4096)
}

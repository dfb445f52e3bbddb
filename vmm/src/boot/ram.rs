//! Guest RAM: one sealed memfd, mapped shared in one or two regions around the PCI hole.
//!
//! Nothing is touched or populated here, so making it costs the same for every size. The seals keep anyone who may get
//! the descriptor (a vhost-user peer) from truncating it under us, which would be SIGBUS at the next access.

use std::fs::File;
use std::io;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create, sendfile};
use rustix::io::dup;
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryMmap, GuestRegionMmap, MmapRegion};

use super::layout::{HOLE_END, split};
use crate::Error;

/// Most bytes one `sendfile` call moves (its limit is just below 2 GiB).
const MAX_CHUNK: u64 = 1 << 30;

/// Size of the host's huge pages.
pub(crate) const HUGE_PAGE: usize = 2 << 20;

/// Guest RAM and the memfd behind it.
#[derive(Debug)]
pub(crate) struct GuestRam {
    memory: GuestMemoryMmap,
    file: File,
    size: u64,
}

impl GuestRam {
    /// Makes `size` bytes of zeroed RAM; `size` must be a multiple of the page size.
    pub(crate) fn new(size: u64) -> Result<Self, Error> {
        Self::try_new(size).map_err(|source| Error::Host { doing: "Making guest memory", source })
    }

    fn try_new(size: u64) -> io::Result<Self> {
        let file = File::from(memfd_create("vmm-guest-ram", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?);
        ftruncate(&file, size)?;
        fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        let (low, high) = split(size);
        let mut regions = vec![region(&file, 0, 0, low)?];
        if high > 0 {
            regions.push(region(&file, HOLE_END, low, high)?);
        }
        let memory = GuestMemoryMmap::from_regions(regions).map_err(io::Error::other)?;
        Ok(Self { memory, file, size })
    }

    /// The mapping.
    pub(crate) fn memory(&self) -> &GuestMemoryMmap {
        &self.memory
    }

    /// The mapping as devices hold it; it stays for as long as one of them does.
    pub(crate) fn share(&self) -> virtio::Ram {
        virtio::Ram::new(self.memory.clone())
    }

    /// Bytes of RAM.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// End of the RAM below the hole.
    pub(crate) fn low_end(&self) -> u64 {
        split(self.size).0
    }

    /// End of all RAM.
    pub(crate) fn end(&self) -> u64 {
        match split(self.size) {
            (low, 0) => low,
            (_, high) => HOLE_END + high,
        }
    }

    /// Writes `bytes` at guest address `at`, which our own layout says is RAM.
    pub(crate) fn write(&self, bytes: &[u8], at: u64) -> Result<(), Error> {
        let failed = |source| Error::Host { doing: "Writing to guest memory", source };
        self.memory.write_slice(bytes, GuestAddress(at)).map_err(|error| failed(io::Error::other(error)))
    }

    /// Copies `length` bytes of `source` from `offset` to guest address `at`, below the hole.
    ///
    /// Page cache to memfd inside the host kernel: the pages are neither mapped nor zeroed first, and the file's own
    /// offset is left alone (another VM may be loading from the same open file).
    pub(crate) fn load(&self, source: &File, offset: u64, at: u64, length: u64) -> io::Result<()> {
        if at.checked_add(length).is_none_or(|end| end > self.low_end()) {
            return Err(io::Error::new(io::ErrorKind::OutOfMemory, "does not fit into guest memory"));
        }
        let target = File::from(dup(&self.file)?);
        rustix::fs::seek(&target, rustix::fs::SeekFrom::Start(at))?;
        let (mut from, mut left) = (offset, length);
        while left > 0 {
            let chunk = usize::try_from(left.min(MAX_CHUNK)).map_err(io::Error::other)?;
            let moved = sendfile(&target, source, Some(&mut from), chunk)?;
            if moved == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            left = left.saturating_sub(moved as u64);
        }
        Ok(())
    }
}

/// Maps `size` bytes of `file` from `offset` as guest memory at `at`, aligned to a huge page if that can be had.
fn region(file: &File, at: u64, offset: u64, size: u64) -> io::Result<GuestRegionMmap> {
    let size = usize::try_from(size).map_err(io::Error::other)?;
    let map =
        || MmapRegion::<()>::from_file(FileOffset::new(file.try_clone()?, offset), size).map_err(io::Error::other);
    let first = map()?;
    let excess = first.as_ptr() as usize % HUGE_PAGE;
    let mapping = if excess == 0 {
        first
    } else {
        // The host's kernel places mappings from the top down: behind a padding of that size the next one is aligned.
        // If not, nothing is lost but speed.
        drop(first);
        let _padding = MmapRegion::<()>::new(excess).map_err(io::Error::other)?;
        map()?
    };
    GuestRegionMmap::new(mapping, GuestAddress(at)).ok_or_else(|| io::Error::other("guest memory wraps around"))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use rustix::fs::fcntl_get_seals;
    use vm_memory::{GuestMemoryBackend, GuestMemoryRegion, MemoryRegionAddress};

    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn ram_cannot_be_truncated() {
        let ram = GuestRam::new(4 * MIB).unwrap();
        assert!(fcntl_get_seals(&ram.file).unwrap().contains(SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL));
        assert!(ftruncate(&ram.file, 0).is_err());
    }

    #[test]
    fn large_ram_has_two_regions_and_costs_nothing() {
        let ram = GuestRam::new(8 << 30).unwrap();
        assert_eq!(ram.memory().num_regions(), 2);
        assert_eq!(rustix::fs::fstat(&ram.file).unwrap().st_blocks, 0);
    }

    #[test]
    fn mappings_are_aligned_to_huge_pages() {
        let ram = GuestRam::new(8 << 30).unwrap();
        for region in ram.memory().iter() {
            let address = region.get_host_address(MemoryRegionAddress(0)).unwrap();
            assert_eq!(address as usize % HUGE_PAGE, 0, "at {:?}", region.start_addr());
        }
    }

    #[test]
    fn load_copies_and_leaves_the_source_offset_alone() {
        let mut source = tempfile::tempfile().unwrap();
        source.write_all(b"0123456789").unwrap();
        let before = rustix::fs::tell(&source).unwrap();
        let ram = GuestRam::new(4 * MIB).unwrap();
        ram.load(&source, 2, 0x1003, 5).unwrap();
        let mut copy = [0; 7];
        ram.memory().read_slice(&mut copy, GuestAddress(0x1002)).unwrap();
        assert_eq!(&copy, b"\x0023456\0");
        assert_eq!(rustix::fs::tell(&source).unwrap(), before);
    }

    #[test]
    fn load_past_the_end_of_file_or_ram_is_an_error() {
        let mut source = tempfile::tempfile().unwrap();
        source.write_all(b"short").unwrap();
        let ram = GuestRam::new(4 * MIB).unwrap();
        assert_eq!(ram.load(&source, 0, 0x1000, 6).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(ram.load(&source, 0, 4 * MIB - 2, 5).unwrap_err().kind(), io::ErrorKind::OutOfMemory);
        assert_eq!(ram.load(&source, 0, u64::MAX, 5).unwrap_err().kind(), io::ErrorKind::OutOfMemory);
    }
}

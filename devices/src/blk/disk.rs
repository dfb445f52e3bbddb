//! The host side of a disk: a file and what may be done to it.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;
use virtio::{Reader, Writer};

/// Bytes in a sector, the unit of all positions (virtio 1.2, section 5.2.2).
pub(super) const SECTOR: u64 = 512;

/// Zeroes written at once where the file system cannot zero a range by itself.
const ZEROES: &[u8] = &[0; 64 << 10];

/// Whether the guest may change a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Writing requests fail, and the guest is told not to try.
    ReadOnly,
    /// The guest may write, discard and zero.
    ReadWrite,
}

/// Why a file cannot be a disk.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// Its size cannot be found out.
    #[error("Size of the disk image is unknown")]
    Size(#[source] io::Error),
    /// It holds less than one sector.
    #[error("Disk image of {bytes} bytes is empty: a disk has at least 512 bytes")]
    Empty {
        /// Size of the file.
        bytes: u64,
    },
}

/// A raw disk image. Its size is fixed when it is attached.
#[derive(Debug)]
pub struct Disk {
    file: File,
    access: Access,
    sectors: u64,
}

impl Disk {
    /// Takes an open file or block device, which must be open for writing if the guest may write. Bytes after the last
    /// whole sector are out of the guest's reach.
    pub fn new(mut file: File, access: Access) -> Result<Self, DiskError> {
        // Works for block devices too, whose metadata say 0.
        let bytes = file.seek(SeekFrom::End(0)).map_err(DiskError::Size)?;
        let sectors = bytes / SECTOR;
        if sectors == 0 {
            return Err(DiskError::Empty { bytes });
        }
        Ok(Self { file, access, sectors })
    }

    /// Size in sectors of 512 bytes.
    pub fn sectors(&self) -> u64 {
        self.sectors
    }

    /// The same disk on another file, for tests of a failing host.
    #[cfg(test)]
    pub(super) fn on(self, file: File) -> Self {
        Self { file, ..self }
    }

    pub(super) fn is_writable(&self) -> bool {
        self.access == Access::ReadWrite
    }

    /// The byte range of some sectors, if they are all on the disk.
    pub(super) fn range(&self, sector: u64, bytes: u64) -> Option<Range> {
        let end = sector.checked_add(bytes / SECTOR)?;
        if !bytes.is_multiple_of(SECTOR) || end > self.sectors {
            return None;
        }
        Some(Range { start: sector.checked_mul(SECTOR)?, bytes })
    }

    pub(super) fn read(&self, range: Range, to: &mut Writer<'_>) -> io::Result<()> {
        to.write_exact_from_at(self.file.as_fd(), range.len()?, range.start)
    }

    pub(super) fn write(&self, range: Range, from: &mut Reader<'_>) -> io::Result<()> {
        from.read_exact_to_at(self.file.as_fd(), range.len()?, range.start)
    }

    /// Makes everything written so far survive a host crash.
    pub(super) fn flush(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Gives the space back to the host, where the file system can. The guest does not rely on it.
    pub(super) fn discard(&self, range: Range) -> io::Result<()> {
        match self.punch(range) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
            result => Ok(result?),
        }
    }

    /// Makes the range read as zeroes; gives its space back only if that is allowed.
    pub(super) fn zero(&self, range: Range, may_unmap: bool) -> io::Result<()> {
        let result = if may_unmap { self.punch(range) } else { self.zero_in_place(range) };
        match result {
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => self.write_zeroes(range),
            result => Ok(result?),
        }
    }

    fn punch(&self, range: Range) -> Result<(), Errno> {
        let how = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fallocate(&self.file, how, range.start, range.bytes)
    }

    fn zero_in_place(&self, range: Range) -> Result<(), Errno> {
        let how = FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE;
        fallocate(&self.file, how, range.start, range.bytes)
    }

    fn write_zeroes(&self, range: Range) -> io::Result<()> {
        let mut left = range.len()?;
        let mut at = range.start;
        while left > 0 {
            let chunk = ZEROES.get(..left).unwrap_or(ZEROES);
            self.file.write_all_at(chunk, at)?;
            left -= chunk.len();
            at = range.end() - u64::try_from(left).map_err(io::Error::other)?;
        }
        Ok(())
    }
}

/// Bytes that are on the disk, whole sectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Range {
    start: u64,
    bytes: u64,
}

impl Range {
    pub(super) fn is_empty(self) -> bool {
        self.bytes == 0
    }

    fn end(self) -> u64 {
        self.start + self.bytes
    }

    fn len(self) -> io::Result<usize> {
        usize::try_from(self.bytes).map_err(io::Error::other)
    }
}

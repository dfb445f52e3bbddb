//! The device-readable part of a request.

use std::io;
use std::os::fd::BorrowedFd;

use vm_memory::ByteValued;

use crate::segment::{Cursor, Segment, Transfer};

/// Reads what the driver sent, front to back; also straight into a file, without a copy in between.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    cursor: Cursor<'a>,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(segments: &'a [Segment]) -> Self {
        Self { cursor: Cursor::new(segments) }
    }

    /// Bytes not yet read. Descriptors may overlap, so this can exceed guest RAM: never allocate as much unbounded.
    pub fn available_bytes(&self) -> usize {
        self.cursor.left()
    }

    /// Bytes read so far.
    pub fn bytes_read(&self) -> usize {
        self.cursor.done()
    }

    /// Ends `self` after `count` bytes and returns a reader of the rest; nothing when there are fewer.
    pub fn split_at(&mut self, count: usize) -> Option<Reader<'a>> {
        self.cursor.split_at(count).map(|cursor| Reader { cursor })
    }

    /// Passes over `count` bytes, or as many as there are.
    pub fn skip(&mut self, count: usize) {
        self.cursor.advance(count);
    }

    /// Reads one object in the guest's byte order (little-endian, as are all fields of virtio 1.x).
    pub fn read_obj<T: ByteValued>(&mut self) -> io::Result<T> {
        let mut object = T::zeroed();
        io::Read::read_exact(self, object.as_mut_slice())?;
        Ok(object)
    }

    /// Writes up to `count` bytes into `file` at `offset` with one system call; returns how many went.
    pub fn read_to_at(&mut self, file: BorrowedFd<'_>, count: usize, offset: u64) -> io::Result<usize> {
        self.cursor.transfer(file, count, Transfer::WriteAt(offset))
    }

    /// Writes exactly `count` bytes into `file` at `offset`.
    pub fn read_exact_to_at(&mut self, file: BorrowedFd<'_>, count: usize, offset: u64) -> io::Result<()> {
        if count > self.available_bytes() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut done = 0;
        while done < count {
            match self.read_to_at(file, count - done, advanced(offset, done)?)? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                moved => done += moved,
            }
        }
        Ok(())
    }

    /// Writes up to `count` bytes into `file` (a socket, a pipe) with one system call; returns how many went.
    pub fn read_to(&mut self, file: BorrowedFd<'_>, count: usize) -> io::Result<usize> {
        self.cursor.transfer(file, count, Transfer::Write)
    }
}

impl io::Read for Reader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(self.cursor.copy_to(buffer))
    }
}

pub(crate) fn advanced(offset: u64, done: usize) -> io::Result<u64> {
    let done = u64::try_from(done).map_err(|_| io::ErrorKind::InvalidInput)?;
    offset.checked_add(done).ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

//! The device-writable part of a request.

use std::io;
use std::os::fd::BorrowedFd;

use vm_memory::ByteValued;

use crate::reader::advanced;
use crate::segment::{Cursor, Segment, Transfer};

/// Writes the answer to the driver, front to back; also straight from a file, without a copy in between.
#[derive(Debug, Clone)]
pub struct Writer<'a> {
    cursor: Cursor<'a>,
}

impl<'a> Writer<'a> {
    pub(crate) fn new(segments: &'a [Segment]) -> Self {
        Self { cursor: Cursor::new(segments) }
    }

    /// Room left. Descriptors may overlap, so this can exceed guest RAM: never allocate as much unbounded.
    pub fn available_bytes(&self) -> usize {
        self.cursor.left()
    }

    /// Bytes written so far.
    pub fn bytes_written(&self) -> usize {
        self.cursor.done()
    }

    /// Ends `self` after `count` bytes and returns a writer of the rest; nothing when there is less room.
    pub fn split_at(&mut self, count: usize) -> Option<Writer<'a>> {
        self.cursor.split_at(count).map(|cursor| Writer { cursor })
    }

    /// Writes one object in the guest's byte order (little-endian, as are all fields of virtio 1.x).
    pub fn write_obj<T: ByteValued>(&mut self, object: T) -> io::Result<()> {
        io::Write::write_all(self, object.as_slice())
    }

    /// Writes `count` zeroes, or as many as there is room for; returns how many.
    pub fn write_zeroes(&mut self, count: usize) -> usize {
        self.cursor.zero(count)
    }

    /// Reads up to `count` bytes of `file` from `offset` with one system call; returns how many came.
    pub fn write_from_at(&mut self, file: BorrowedFd<'_>, count: usize, offset: u64) -> io::Result<usize> {
        self.cursor.transfer(file, count, Transfer::ReadAt(offset))
    }

    /// Likewise, but only what the host has in memory: fails with [`io::ErrorKind::WouldBlock`] if that is not even the
    /// first byte, and with [`io::ErrorKind::Unsupported`] where the file system cannot tell.
    pub fn write_cached_from_at(&mut self, file: BorrowedFd<'_>, count: usize, offset: u64) -> io::Result<usize> {
        self.cursor.transfer(file, count, Transfer::ReadCachedAt(offset))
    }

    /// Reads exactly `count` bytes of `file` from `offset`.
    pub fn write_exact_from_at(&mut self, file: BorrowedFd<'_>, count: usize, offset: u64) -> io::Result<()> {
        if count > self.available_bytes() {
            return Err(io::ErrorKind::WriteZero.into());
        }
        let mut done = 0;
        while done < count {
            match self.write_from_at(file, count - done, advanced(offset, done)?)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                moved => done += moved,
            }
        }
        Ok(())
    }

    /// Likewise from where a look into `socket` begins ([`crate::set_peek_offset`]), and leaves there what came.
    pub fn peek_from(&mut self, socket: BorrowedFd<'_>, count: usize) -> io::Result<usize> {
        self.cursor.transfer(socket, count, Transfer::Peek)
    }

    /// Reads up to `count` bytes of `file` (a socket, a pipe) with one system call; returns how many came.
    pub fn write_from(&mut self, file: BorrowedFd<'_>, count: usize) -> io::Result<usize> {
        self.cursor.transfer(file, count, Transfer::Read)
    }
}

impl io::Write for Writer<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        Ok(self.cursor.copy_from(buffer))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

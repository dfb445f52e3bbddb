//! Resolved pieces of guest RAM and the file operations on them: the one place where guest memory is raw pointers.
//!
//! A [`Segment`] is made from a checked slice of guest RAM and lives in a [`Request`](crate::Request), which holds the
//! mapping. The guest writes the same bytes at any time; they are only ever copied, never borrowed.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use vm_memory::{GuestAddress, VolatileSlice};

/// Pieces passed to one system call at most (`UIO_MAXIOV` in Linux).
const MAX_PIECES: usize = 1024;

/// One contiguous piece of guest RAM, in host addresses.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Segment {
    start: *mut u8,
    len: usize,
    guest: GuestAddress,
}

// SAFETY: a segment points into a shared mapping that its `Request` keeps alive, and that mapping is usable from every
// thread; all accesses go through copies that tolerate concurrent writers.
unsafe impl Send for Segment {}
// SAFETY: as above; a shared reference gives no access that an owned copy would not.
unsafe impl Sync for Segment {}

impl Segment {
    /// A piece of guest RAM that the guest knows by the address `guest`.
    pub(crate) fn new(slice: &VolatileSlice<'_>, guest: GuestAddress) -> Self {
        Self { start: slice.ptr_guard_mut().as_ptr(), len: slice.len(), guest }
    }

    /// The piece in the guest's own addresses.
    pub(crate) fn guest_range(&self) -> (GuestAddress, u64) {
        (self.guest, self.len as u64)
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    fn slice(&self) -> VolatileSlice<'_> {
        // SAFETY: `start` and `len` come from a checked slice of guest RAM, whose mapping the request keeps alive for
        // longer than the segments borrowed from it.
        unsafe { VolatileSlice::new(self.start, self.len) }
    }

    /// The part of the segment from `skip` on, at most `limit` bytes of it.
    fn part(&self, skip: usize, limit: usize) -> Self {
        let skip = skip.min(self.len);
        let len = limit.min(self.len - skip);
        Self { start: self.start.wrapping_add(skip), len, guest: GuestAddress(self.guest.0 + skip as u64) }
    }
}

/// A position in a run of segments, with an end.
#[derive(Debug, Clone)]
pub(crate) struct Cursor<'a> {
    segments: &'a [Segment],
    /// Bytes of the first segment that are behind the position.
    skip: usize,
    /// Bytes from the position to the end.
    left: usize,
    done: usize,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(segments: &'a [Segment]) -> Self {
        // A chain holds at most 4 GiB, so this cannot saturate on the 64-bit hosts we run on.
        let left = segments.iter().fold(0usize, |sum, segment| sum.saturating_add(segment.len()));
        Self { segments, skip: 0, left, done: 0 }
    }

    pub(crate) fn left(&self) -> usize {
        self.left
    }

    pub(crate) fn done(&self) -> usize {
        self.done
    }

    /// Ends `self` after `count` bytes and returns the rest, or nothing when there are not as many.
    pub(crate) fn split_at(&mut self, count: usize) -> Option<Cursor<'a>> {
        let rest_len = self.left.checked_sub(count)?;
        let mut rest = self.clone();
        rest.advance(count);
        (rest.left, rest.done) = (rest_len, 0);
        self.left = count;
        Some(rest)
    }

    pub(crate) fn advance(&mut self, count: usize) {
        let mut count = count.min(self.left);
        self.left -= count;
        self.done += count;
        while let Some((first, rest)) = self.segments.split_first() {
            let here = first.len() - self.skip;
            if count < here {
                self.skip += count;
                return;
            }
            count -= here;
            (self.segments, self.skip) = (rest, 0);
        }
    }

    /// The pieces of the next `count` bytes, without moving.
    fn pieces(&self, count: usize) -> impl Iterator<Item = Segment> + 'a {
        let (mut skip, mut left) = (self.skip, count.min(self.left));
        self.segments.iter().map_while(move |segment| {
            let piece = segment.part(std::mem::take(&mut skip), left);
            left -= piece.len();
            (piece.len() > 0).then_some(piece)
        })
    }

    /// Copies out as much as fits into `buffer`.
    pub(crate) fn copy_to(&mut self, buffer: &mut [u8]) -> usize {
        let mut at = 0;
        for piece in self.pieces(buffer.len()) {
            let Some(room) = buffer.get_mut(at..at + piece.len()) else { break };
            at += piece.slice().copy_to(room);
        }
        self.advance(at);
        at
    }

    /// Copies in as much of `buffer` as fits.
    pub(crate) fn copy_from(&mut self, buffer: &[u8]) -> usize {
        let mut at = 0;
        for piece in self.pieces(buffer.len()) {
            let Some(bytes) = buffer.get(at..at + piece.len()) else { break };
            piece.slice().copy_from(bytes);
            at += piece.len();
        }
        self.advance(at);
        at
    }

    /// Sets `count` bytes, or as many as there are, to zero.
    pub(crate) fn zero(&mut self, count: usize) -> usize {
        let mut at = 0;
        for piece in self.pieces(count) {
            // SAFETY: the piece lies within guest RAM that the request keeps mapped; a byte-wise store of zeroes is valid
            // for whatever the guest keeps there.
            unsafe { std::ptr::write_bytes(piece.start, 0, piece.len) };
            at += piece.len();
        }
        self.advance(at);
        at
    }

    /// One system call over the next `count` bytes; moves by what it transferred.
    pub(crate) fn transfer(&mut self, file: BorrowedFd<'_>, count: usize, how: Transfer) -> io::Result<usize> {
        let pieces: Vec<libc::iovec> = self
            .pieces(count)
            .take(MAX_PIECES)
            .map(|piece| libc::iovec { iov_base: piece.start.cast(), iov_len: piece.len() })
            .collect();
        if pieces.is_empty() {
            return Ok(0);
        }
        let moved = how.call(file, &pieces)?;
        self.advance(moved);
        Ok(moved)
    }
}

/// Which system call moves the bytes, and where in the file.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Transfer {
    /// `readv`: file to guest at the file's own position.
    Read,
    /// `recvmsg` with `MSG_PEEK`: socket to guest, and what came stays in the socket.
    Peek,
    /// `writev`: guest to file at the file's own position.
    Write,
    /// `preadv`: file to guest.
    ReadAt(u64),
    /// `preadv2` with `RWF_NOWAIT`: likewise, as far as the host has it in memory.
    ReadCachedAt(u64),
    /// `pwritev`: guest to file.
    WriteAt(u64),
}

impl Transfer {
    fn call(self, file: BorrowedFd<'_>, pieces: &[libc::iovec]) -> io::Result<usize> {
        let (fd, first) = (file.as_raw_fd(), pieces.as_ptr());
        let count = libc::c_int::try_from(pieces.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        loop {
            let moved = match self {
                // SAFETY: `first` and `count` describe a live array of pieces, each of them guest RAM that the request
                // keeps mapped; the kernel's copies tolerate the guest writing at the same time.
                Self::Read => unsafe { libc::readv(fd, first, count) },
                Self::Peek => peek(fd, pieces),
                // SAFETY: as above.
                Self::Write => unsafe { libc::writev(fd, first, count) },
                // SAFETY: as above.
                Self::ReadAt(offset) => unsafe { libc::preadv(fd, first, count, position(offset)?) },
                // SAFETY: as above.
                Self::ReadCachedAt(offset) => unsafe {
                    libc::preadv2(fd, first, count, position(offset)?, libc::RWF_NOWAIT)
                },
                // SAFETY: as above.
                Self::WriteAt(offset) => unsafe { libc::pwritev(fd, first, count, position(offset)?) },
            };
            match usize::try_from(moved) {
                Ok(moved) => return Ok(moved),
                Err(_) => {
                    let error = io::Error::last_os_error();
                    if error.kind() != io::ErrorKind::Interrupted {
                        return Err(error);
                    }
                }
            }
        }
    }
}

fn peek(fd: RawFd, pieces: &[libc::iovec]) -> libc::ssize_t {
    // SAFETY: a message header is plain data, for which zeroes mean that there is nothing of a kind.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = pieces.as_ptr().cast_mut();
    message.msg_iovlen = pieces.len();
    // SAFETY: the message has no name and no control data, and its pieces are as in the calls above; the kernel writes to
    // what they point to, never to the array.
    unsafe { libc::recvmsg(fd, &raw mut message, libc::MSG_PEEK) }
}

fn position(offset: u64) -> io::Result<libc::off_t> {
    libc::off_t::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput.into())
}

#[cfg(test)]
mod tests;

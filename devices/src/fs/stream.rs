//! The entries of a host directory, in order, from any position.

use std::collections::VecDeque;
use std::ffi::CString;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;

use rustix::fs::{FileType, RawDir, SeekFrom, seek};
use rustix::io::Errno;

/// Bytes of entries fetched by one system call.
const BATCH: usize = 16 << 10;

/// One entry.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) name: CString,
    pub(super) inode: u64,
    pub(super) kind: FileType,
    /// Position of the entry after this one.
    pub(super) next: u64,
}

#[derive(Debug)]
enum Source {
    Host(OwnedFd),
    /// The tree's own root with that many shares.
    Root(u64),
}

/// A directory open for reading; several guest requests are answered from one batch.
#[derive(Debug)]
pub(super) struct Stream {
    source: Source,
    batch: VecDeque<Entry>,
    /// Position of the first entry of the batch.
    position: u64,
}

impl Stream {
    /// The entries of an open host directory.
    pub(super) fn of_host(directory: OwnedFd) -> Self {
        Self { source: Source::Host(directory), batch: VecDeque::new(), position: 0 }
    }

    /// The names of `shares` shares, which are numbers.
    pub(super) fn of_root(shares: u64) -> Self {
        Self { source: Source::Root(shares), batch: VecDeque::new(), position: 0 }
    }

    /// The open host directory, if it is one.
    pub(super) fn directory(&self) -> Option<&OwnedFd> {
        match &self.source {
            Source::Host(directory) => Some(directory),
            Source::Root(_) => None,
        }
    }

    /// Goes to the beginning, and sees there what has changed since.
    pub(super) fn restart(&mut self) -> Result<(), Errno> {
        self.batch.clear();
        self.position = 0;
        if let Source::Host(directory) = &self.source {
            seek(directory, SeekFrom::Start(0))?;
        }
        Ok(())
    }

    /// Goes to a position that an earlier entry gave as its `next`, or 0.
    pub(super) fn go_to(&mut self, position: u64) -> Result<(), Errno> {
        if position != self.position {
            self.batch.clear();
            if let Source::Host(directory) = &self.source {
                seek(directory, SeekFrom::Start(position))?;
            }
            self.position = position;
        }
        Ok(())
    }

    /// The entry at the current position, without going on to the next.
    pub(super) fn peek(&mut self) -> Result<Option<&Entry>, Errno> {
        if self.batch.is_empty() {
            match &self.source {
                Source::Host(directory) => fetch(directory, &mut self.batch)?,
                Source::Root(shares) => self.batch.extend(share_name(self.position, *shares)),
            }
        }
        Ok(self.batch.front())
    }

    /// Goes on to the next entry.
    pub(super) fn advance(&mut self) {
        if let Some(entry) = self.batch.pop_front() {
            self.position = entry.next;
        }
    }
}

fn fetch(directory: &OwnedFd, batch: &mut VecDeque<Entry>) -> Result<(), Errno> {
    let mut buffer = [MaybeUninit::uninit(); BATCH];
    let mut entries = RawDir::new(directory, &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        batch.push_back(Entry {
            name: entry.file_name().to_owned(),
            inode: entry.ino(),
            kind: entry.file_type(),
            next: entry.next_entry_cookie(),
        });
        if entries.is_buffer_empty() {
            break;
        }
    }
    Ok(())
}

fn share_name(position: u64, shares: u64) -> Option<Entry> {
    let next = position.checked_add(1)?;
    let name = CString::new(position.to_string()).ok()?;
    // Whatever the number, it must not be 0: programs take that for a deleted entry.
    (position < shares).then_some(Entry { name, inode: next, kind: FileType::Unknown, next })
}

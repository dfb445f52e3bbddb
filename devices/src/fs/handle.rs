//! Files and directories the guest has open.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};

use rustix::io::Errno;

use super::stream::Stream;

/// An open file.
#[derive(Debug)]
pub(super) struct OpenFile {
    pub(super) node: u64,
    pub(super) file: OwnedFd,
    /// The same file opened once more for appending, made when it is first written so.
    pub(super) append: OnceLock<OwnedFd>,
}

impl OpenFile {
    pub(super) fn new(node: u64, file: OwnedFd) -> Self {
        Self { node, file, append: OnceLock::new() }
    }
}

/// An open directory.
#[derive(Debug)]
pub(super) struct OpenDirectory {
    pub(super) node: u64,
    stream: Mutex<Stream>,
}

impl OpenDirectory {
    pub(super) fn new(node: u64, stream: Stream) -> Self {
        Self { node, stream: Mutex::new(stream) }
    }

    pub(super) fn stream(&self) -> MutexGuard<'_, Stream> {
        // A stream whose reader panicked is re-positioned by the next one.
        self.stream.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Something open.
#[derive(Debug, Clone)]
pub(super) enum Handle {
    File(Arc<OpenFile>),
    Directory(Arc<OpenDirectory>),
}

/// The number for what the guest has not opened.
pub(super) const UNOPENED: u64 = 0;

/// What was open, not closed yet.
#[derive(Debug)]
pub(super) struct Closed(HashMap<u64, Handle>);

impl Closed {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// All open files and directories; their numbers are never reused.
#[derive(Debug)]
pub(super) struct Handles {
    table: RwLock<HashMap<u64, Handle>>,
    next: AtomicU64,
    limit: usize,
}

impl Handles {
    /// Room for `limit` handles.
    pub(super) fn new(limit: usize) -> Self {
        Self { table: RwLock::default(), next: AtomicU64::new(1), limit }
    }

    fn add(&self, handle: Handle) -> Result<u64, Errno> {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        if table.len() >= self.limit {
            return Err(Errno::NFILE);
        }
        let fh = self.next.fetch_add(1, Ordering::Relaxed);
        table.insert(fh, handle);
        Ok(fh)
    }

    pub(super) fn add_file(&self, node: u64, file: OwnedFd) -> Result<u64, Errno> {
        self.add(Handle::File(Arc::new(OpenFile::new(node, file))))
    }

    pub(super) fn add_directory(&self, node: u64, stream: Stream) -> Result<u64, Errno> {
        self.add(Handle::Directory(Arc::new(OpenDirectory::new(node, stream))))
    }

    /// The file open as `fh`, if it is one of `node`.
    pub(super) fn file(&self, fh: u64, node: u64) -> Result<Arc<OpenFile>, Errno> {
        match self.table.read().unwrap_or_else(PoisonError::into_inner).get(&fh) {
            Some(Handle::File(open)) if open.node == node => Ok(open.clone()),
            _ => Err(Errno::BADF),
        }
    }

    /// A file that is open, by its node. Takes as long as there are handles.
    pub(super) fn file_of(&self, node: u64) -> Option<Arc<OpenFile>> {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        table.values().find_map(|handle| match handle {
            Handle::File(open) if open.node == node => Some(open.clone()),
            _ => None,
        })
    }

    /// The directory open as `fh`, if it is one of `node`.
    pub(super) fn directory(&self, fh: u64, node: u64) -> Result<Arc<OpenDirectory>, Errno> {
        match self.table.read().unwrap_or_else(PoisonError::into_inner).get(&fh) {
            Some(Handle::Directory(open)) if open.node == node => Ok(open.clone()),
            _ => Err(Errno::BADF),
        }
    }

    /// Closes what is open as `fh`, if it is of `node`; work in flight on it ends undisturbed.
    pub(super) fn remove(&self, fh: u64, node: u64) -> Result<(), Errno> {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        let owner = match table.get(&fh) {
            Some(Handle::File(open)) => open.node,
            Some(Handle::Directory(open)) => open.node,
            None => return Err(Errno::BADF),
        };
        if owner != node {
            return Err(Errno::BADF);
        }
        let closed = table.remove(&fh);
        drop(table);
        // Closing may block; the table is free by then.
        drop(closed);
        Ok(())
    }

    /// Forgets everything; it is closed when what is returned is dropped, which may block.
    pub(super) fn clear(&self) -> Closed {
        Closed(std::mem::take(&mut *self.table.write().unwrap_or_else(PoisonError::into_inner)))
    }
}

#[cfg(test)]
mod tests {
    use rustix::fs::{MemfdFlags, memfd_create};

    use super::*;

    fn file() -> OwnedFd {
        memfd_create("file", MemfdFlags::CLOEXEC).unwrap()
    }

    #[test]
    fn handles_are_bounded_and_numbers_never_come_back() {
        const NODE: u64 = 7;
        let handles = Handles::new(2);
        let first = handles.add_file(NODE, file()).unwrap();
        let second = handles.add_directory(NODE, Stream::of_root(0)).unwrap();
        assert_eq!(handles.add_file(NODE, file()), Err(Errno::NFILE));
        handles.remove(first, NODE).unwrap();
        let third = handles.add_file(NODE, file()).unwrap();
        assert!(third != first && third != second);
        assert_eq!(handles.file(first, NODE).err(), Some(Errno::BADF));
        drop(handles.clear());
        assert_eq!(handles.remove(third, NODE), Err(Errno::BADF));
    }
}

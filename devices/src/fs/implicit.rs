//! Files and directories the guest reads without having opened them.
//!
//! Its kernel then names the node alone, and never says that it is done. So a descriptor is opened when it is first
//! needed and kept for as long as others are not needed more; which one is there makes no difference to the guest.

use std::collections::{HashMap, VecDeque};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::handle::{Handle, OpenDirectory, OpenFile};
use super::stream::Stream;

/// Descriptors by node.
#[derive(Debug)]
pub(super) struct Implicit {
    table: Mutex<Table>,
}

#[derive(Debug)]
struct Table {
    slots: HashMap<u64, Slot>,
    /// Nodes with a slot, oldest first; also some that are gone since.
    order: VecDeque<u64>,
    limit: usize,
}

/// What is kept of one node.
#[derive(Debug)]
pub(super) struct Slot {
    handle: Handle,
    /// Used since somebody looked for one to close.
    is_recent: bool,
}

impl Implicit {
    /// Keeps at most `limit` descriptors.
    pub(super) fn new(limit: usize) -> Self {
        Self { table: Mutex::new(Table { slots: HashMap::new(), order: VecDeque::new(), limit }) }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // Nothing panics half-way through a change.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn file(&self, node: u64) -> Option<Arc<OpenFile>> {
        match self.table().find(node)? {
            Handle::File(open) => Some(open),
            Handle::Directory(_) => None,
        }
    }

    pub(super) fn directory(&self, node: u64) -> Option<Arc<OpenDirectory>> {
        match self.table().find(node)? {
            Handle::Directory(open) => Some(open),
            Handle::File(_) => None,
        }
    }

    /// Keeps a file open for reading.
    pub(super) fn add_file(&self, node: u64, file: OwnedFd) -> Arc<OpenFile> {
        let open = Arc::new(OpenFile::new(node, file));
        self.add(node, Handle::File(open.clone()));
        open
    }

    /// Keeps a directory open for reading.
    pub(super) fn add_directory(&self, node: u64, stream: Stream) -> Arc<OpenDirectory> {
        let open = Arc::new(OpenDirectory::new(node, stream));
        self.add(node, Handle::Directory(open.clone()));
        open
    }

    fn add(&self, node: u64, handle: Handle) {
        let mut table = self.table();
        let limit = table.limit.saturating_sub(1);
        let mut closed = table.shrink(limit);
        if let Some(before) = table.slots.insert(node, Slot { handle, is_recent: true }) {
            closed.push(before);
        } else {
            table.order.push_back(node);
        }
        drop(table);
        // Closing may block; the table is free by then.
        drop(closed);
    }

    /// Closes what is kept of a node.
    pub(super) fn remove(&self, node: u64) {
        let closed = self.table().slots.remove(&node);
        drop(closed);
    }

    /// Forgets everything; it is closed when what is returned is dropped, which may block.
    pub(super) fn clear(&self) -> Vec<Slot> {
        self.table().shrink(0)
    }
}

impl Table {
    fn find(&mut self, node: u64) -> Option<Handle> {
        let slot = self.slots.get_mut(&node)?;
        slot.is_recent = true;
        Some(slot.handle.clone())
    }

    /// Takes out slots until there are no more than `limit`, those first that were not used of late.
    fn shrink(&mut self, limit: usize) -> Vec<Slot> {
        let mut closed = Vec::new();
        // Every node gets at most one second chance.
        let mut chances = self.order.len();
        while self.order.len() > limit
            && let Some(node) = self.order.pop_front()
        {
            match self.slots.get_mut(&node) {
                Some(slot) if slot.is_recent && chances > 0 && limit > 0 => {
                    chances -= 1;
                    slot.is_recent = false;
                    self.order.push_back(node);
                }
                _ => closed.extend(self.slots.remove(&node)),
            }
        }
        closed
    }
}

#[cfg(test)]
mod tests {
    use rustix::fs::{MemfdFlags, memfd_create};

    use super::*;

    fn file() -> OwnedFd {
        memfd_create("file", MemfdFlags::CLOEXEC).unwrap()
    }

    fn kept(implicit: &Implicit, nodes: std::ops::Range<u64>) -> Vec<u64> {
        nodes.filter(|node| implicit.table().slots.contains_key(node)).collect()
    }

    #[test]
    fn least_recently_used_is_closed_first() {
        let implicit = Implicit::new(3);
        for node in 0..4 {
            implicit.add_file(node, file());
        }
        assert_eq!(kept(&implicit, 0..4), [1, 2, 3]);
        assert!(implicit.file(1).is_some());
        implicit.add_directory(4, Stream::of_root(0));
        assert_eq!(kept(&implicit, 0..5), [1, 3, 4]);
    }

    #[test]
    fn what_is_in_use_stays_open_when_it_is_no_longer_kept() {
        let implicit = Implicit::new(1);
        let open = implicit.add_file(1, file());
        implicit.add_file(2, file());
        assert!(implicit.file(1).is_none());
        assert_eq!(rustix::io::write(&open.file, b"still"), Ok(5));
    }

    #[test]
    fn removed_and_added_again_is_kept_once() {
        let implicit = Implicit::new(2);
        for _ in 0..10 {
            implicit.add_file(1, file());
            implicit.remove(1);
        }
        implicit.add_file(2, file());
        implicit.add_file(3, file());
        assert_eq!(kept(&implicit, 0..4), [2, 3]);
        assert!(implicit.table().order.len() <= 2);
        drop(implicit.clear());
        assert_eq!(kept(&implicit, 0..4), [0; 0]);
    }

    #[test]
    fn files_and_directories_are_not_taken_for_each_other() {
        let implicit = Implicit::new(2);
        implicit.add_file(1, file());
        implicit.add_directory(2, Stream::of_root(0));
        assert!(implicit.directory(1).is_none() && implicit.file(2).is_none());
        assert!(implicit.directory(2).is_some());
    }
}

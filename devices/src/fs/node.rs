//! The files the guest holds node IDs of.
//!
//! A node remembers *where* a file was last seen (parent node and name) and *which* file it is (device, inode, time of
//! birth), not a descriptor: a guest that walks a tree of a million files costs a few hundred bytes each and no
//! descriptors. Whoever opens a node by its place must compare what is there with its identity. Descriptors are held
//! for directories in use (a bounded cache) and for files that lost their name while the guest still knows them (pins).
//!
//! The IDs are never reused, so a forged or forgotten one names nothing.

use std::collections::{HashMap, VecDeque};
use std::ffi::{CStr, CString};
use std::hash::{BuildHasher, RandomState};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::FileType;
use rustix::io::Errno;

use super::guard::Position;

/// Nodes held for a guest; one that wants more has to forget some. About 1 GiB of host memory in all.
const MAX_NODES: usize = 4 << 20;

/// Which file of the host a node stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Identity {
    pub(super) share: u32,
    pub(super) device: u64,
    pub(super) inode: u64,
    /// Nanoseconds since the epoch, 0 where the file system does not know: tells a file from a later one that was given
    /// the same inode number.
    pub(super) born: i64,
}

/// State of a file's contents, as far as time stamps tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Version {
    pub(super) size: u64,
    pub(super) modified: i64,
    pub(super) changed: i64,
}

/// What is known about a node.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) identity: Identity,
    pub(super) kind: FileType,
    /// Where it was last seen, as far as rules care.
    pub(super) position: Position,
    pub(super) way: Way,
    /// Of a directory, its own; of anything else, that of the directory it was last seen in.
    pub(super) watched: Watched,
}

/// Whether changes in a directory are reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Watched {
    /// Nobody has looked into it.
    Unasked,
    /// They are.
    Yes,
    /// That cannot be had.
    Refused,
}

/// A node the guest was told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) id: u64,
    /// A directory whose changes are reported.
    pub(super) is_watched: bool,
}

/// How to get at a node's file.
#[derive(Debug, Clone)]
pub(super) enum Way {
    /// Through a descriptor that is held.
    Held(Arc<OwnedFd>),
    /// By a name in a parent node.
    Named(u64, CString),
    /// Not any more.
    Lost,
}

#[derive(Debug)]
struct Node {
    identity: Identity,
    kind: FileType,
    position: Position,
    /// Times the guest was told this ID and has not forgotten it.
    lookups: u64,
    /// Nodes whose place is in this one.
    children: u32,
    place: Option<(u64, Box<CStr>)>,
    fd: Option<Arc<OwnedFd>>,
    hold: Hold,
    watched: Watched,
    opened: Option<Box<Version>>,
}

/// Why a node holds its descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hold {
    /// In the cache; used since the cache last looked.
    Recent,
    /// In the cache, if at all.
    Cached,
    /// There is no other way to the file.
    Pinned,
    /// Root of a share.
    Share,
}

/// Most descriptors the table may hold.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) cached: usize,
    pub(super) pinned: usize,
}

/// All nodes of a device.
#[derive(Debug)]
pub(super) struct Nodes {
    table: Mutex<Table>,
}

#[derive(Debug)]
struct Table {
    /// Boxed, as a growing map leaves up to half of its slots empty.
    nodes: HashMap<u64, Box<Node>>,
    /// By a hash of the identity: the nodes have it in full.
    by_identity: HashMap<u64, u64>,
    hashes: RandomState,
    next: u64,
    /// Nodes with a cached descriptor, oldest first; also some that are gone since.
    cached: VecDeque<u64>,
    pinned: usize,
    /// Watched directories that were forgotten, although they are still there.
    unwatched: usize,
    limits: Limits,
}

impl Nodes {
    /// An empty table that gives out IDs from `first` on.
    pub(super) fn new(first: u64, limits: Limits) -> Self {
        let table = Table {
            nodes: HashMap::new(),
            by_identity: HashMap::new(),
            hashes: RandomState::new(),
            next: first,
            cached: VecDeque::new(),
            pinned: 0,
            unwatched: 0,
            limits,
        };
        Self { table: Mutex::new(table) }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // Nothing in here panics half-way through a change.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds the root of a share, which is never forgotten.
    pub(super) fn add_share(&self, identity: Identity, kind: FileType, root: Arc<OwnedFd>, position: Position) -> u64 {
        let mut table = self.table();
        let id = table.insert(identity, kind);
        if let Some(node) = table.nodes.get_mut(&id) {
            (node.fd, node.hold, node.position) = (Some(root), Hold::Share, position);
        }
        id
    }

    /// The guest is about to be told of this file, seen at `place`: its ID, which has to be forgotten once more.
    pub(super) fn remember(
        &self,
        identity: Identity,
        kind: FileType,
        place: (u64, &CStr),
        position: Position,
    ) -> Result<Known, Errno> {
        let mut table = self.table();
        let id = table.find_or_insert(identity, kind)?;
        table.place(id, place, position);
        table.count_lookup(id);
        Ok(Known { id, is_watched: table.watched(id) == Watched::Yes })
    }

    /// The guest is about to be told of a file without a name.
    pub(super) fn remember_nameless(&self, identity: Identity, kind: FileType, fd: OwnedFd) -> Result<u64, Errno> {
        let mut table = self.table();
        let id = table.find_or_insert(identity, kind)?;
        table.count_lookup(id);
        table.pin(id, Arc::new(fd));
        Ok(id)
    }

    /// The guest forgets that it was told `count` times; more than it was told are ignored. True if that was the last.
    pub(super) fn forget(&self, id: u64, count: u64) -> bool {
        let mut table = self.table();
        let Some(node) = table.nodes.get_mut(&id) else { return false };
        node.lookups = node.lookups.saturating_sub(count);
        let is_last = node.lookups == 0;
        table.drop_unused(id);
        is_last
    }

    /// What is known about a node.
    pub(super) fn find(&self, id: u64) -> Result<Found, Errno> {
        let mut table = self.table();
        let watched = table.watched(id);
        let node = table.nodes.get_mut(&id).ok_or(Errno::STALE)?;
        let way = match (&node.fd, &node.place) {
            (Some(fd), _) => {
                if node.hold == Hold::Cached {
                    node.hold = Hold::Recent;
                }
                Way::Held(fd.clone())
            }
            (None, Some((parent, name))) => Way::Named(*parent, name.clone().into()),
            (None, None) => Way::Lost,
        };
        Ok(Found { identity: node.identity, kind: node.kind, position: node.position, way, watched })
    }

    /// The share a node is in; cheaper than all that is known about it.
    pub(super) fn share(&self, id: u64) -> Option<u32> {
        self.table().nodes.get(&id).map(|node| node.identity.share)
    }

    /// The node of a file, if the guest knows it and no descriptor keeps it reachable yet.
    pub(super) fn needs_pin(&self, identity: &Identity) -> Option<u64> {
        let table = self.table();
        let id = table.known(identity)?;
        let node = table.nodes.get(&id)?;
        let is_held = matches!(node.hold, Hold::Pinned | Hold::Share);
        (!is_held && table.pinned < table.limits.pinned).then_some(id)
    }

    /// Keeps a file reachable that is about to lose its name.
    pub(super) fn pin(&self, id: u64, fd: Arc<OwnedFd>) {
        self.table().pin(id, fd);
    }

    /// A file kept reachable has its name after all.
    pub(super) fn unpin(&self, id: u64) {
        let mut table = self.table();
        if let Some(node) = table.nodes.get_mut(&id)
            && node.hold == Hold::Pinned
            && node.place.is_some()
        {
            (node.fd, node.hold) = (None, Hold::Cached);
            table.pinned -= 1;
        }
    }

    /// Offers a descriptor of a directory to the cache.
    pub(super) fn cache(&self, id: u64, fd: Arc<OwnedFd>) {
        let mut table = self.table();
        let limit = table.limits.cached;
        table.shrink_cache(limit.saturating_sub(1));
        if let Some(node) = table.nodes.get_mut(&id)
            && node.fd.is_none()
        {
            (node.fd, node.hold) = (Some(fd), Hold::Recent);
            table.cached.push_back(id);
        }
    }

    /// Gives up all cached descriptors.
    pub(super) fn drop_cached(&self) {
        self.table().shrink_cache(0);
    }

    /// A file is seen at a new place.
    pub(super) fn moved(&self, identity: &Identity, place: (u64, &CStr), position: Position) {
        let mut table = self.table();
        if let Some(id) = table.known(identity) {
            table.place(id, place, position);
        }
    }

    /// Notes the version of a file that is being opened; true when it is the one of the last time.
    pub(super) fn opened(&self, id: u64, version: Option<Version>) -> bool {
        let mut table = self.table();
        let Some(node) = table.nodes.get_mut(&id) else { return false };
        let is_same = version.is_some() && node.opened.as_deref() == version.as_ref();
        node.opened = version.map(Box::new);
        is_same
    }

    /// The node of a file, if the guest knows it.
    pub(super) fn known(&self, identity: &Identity) -> Option<u64> {
        self.table().known(identity)
    }

    /// Notes whether a directory's changes are reported.
    pub(super) fn set_watched(&self, id: u64, watched: Watched) {
        if let Some(node) = self.table().nodes.get_mut(&id) {
            node.watched = watched;
        }
    }

    /// How many watched directories were forgotten.
    pub(super) fn unwatched(&self) -> usize {
        self.table().unwatched
    }

    /// No directory is watched any longer.
    pub(super) fn unwatch_all(&self) {
        let mut table = self.table();
        table.unwatched = 0;
        table.nodes.values_mut().for_each(|node| node.watched = Watched::Unasked);
    }

    /// Forgets everything but the shares.
    pub(super) fn clear(&self) {
        let mut table = self.table();
        table.nodes.retain(|_, node| node.hold == Hold::Share);
        for node in table.nodes.values_mut() {
            (node.lookups, node.children, node.place, node.opened) = (0, 0, None, None);
            node.watched = Watched::Unasked;
        }
        let Table { nodes, by_identity, .. } = &mut *table;
        by_identity.retain(|_, id| nodes.contains_key(id));
        table.cached.clear();
        (table.pinned, table.unwatched) = (0, 0);
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.table().nodes.len()
    }

    #[cfg(test)]
    pub(super) fn descriptors(&self) -> usize {
        self.table().nodes.values().filter(|node| node.fd.is_some()).count()
    }
}

impl Table {
    fn insert(&mut self, identity: Identity, kind: FileType) -> u64 {
        let id = self.next;
        self.next += 1;
        let node = Node {
            identity,
            kind,
            position: Position::default(),
            lookups: 0,
            children: 0,
            place: None,
            fd: None,
            hold: Hold::Cached,
            watched: Watched::Unasked,
            opened: None,
        };
        self.nodes.insert(id, Box::new(node));
        self.by_identity.insert(self.hashes.hash_one(identity), id);
        id
    }

    /// The node of a file. Should two files have the same hash, one of them is not found, and gets one more node when
    /// it is seen again.
    fn known(&self, identity: &Identity) -> Option<u64> {
        let id = *self.by_identity.get(&self.hashes.hash_one(identity))?;
        (self.nodes.get(&id)?.identity == *identity).then_some(id)
    }

    fn find_or_insert(&mut self, identity: Identity, kind: FileType) -> Result<u64, Errno> {
        match self.known(&identity) {
            Some(id) => Ok(id),
            None if self.nodes.len() < MAX_NODES => Ok(self.insert(identity, kind)),
            None => Err(Errno::NFILE),
        }
    }

    fn watched(&self, id: u64) -> Watched {
        let node = self.nodes.get(&id).map(Box::as_ref);
        let directory = match node {
            Some(Node { kind, place: Some((parent, _)), .. }) if *kind != FileType::Directory => {
                self.nodes.get(parent).map(Box::as_ref)
            }
            _ => node,
        };
        directory.map_or(Watched::Unasked, |node| node.watched)
    }

    fn count_lookup(&mut self, id: u64) {
        if let Some(node) = self.nodes.get_mut(&id) {
            node.lookups = node.lookups.saturating_add(1);
        }
    }

    fn place(&mut self, id: u64, place: (u64, &CStr), position: Position) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        if node.hold == Hold::Share {
            return;
        }
        node.position = position;
        let (parent, name) = place;
        if node.place.as_ref().is_some_and(|(old, known)| *old == parent && **known == *name) {
            return;
        }
        let old = node.place.replace((parent, name.into()));
        if let Some(parent) = self.nodes.get_mut(&parent) {
            parent.children = parent.children.saturating_add(1);
        }
        self.leave(old.map(|(parent, _)| parent));
    }

    /// A node is no longer placed in `parent`.
    fn leave(&mut self, parent: Option<u64>) {
        if let Some(parent) = parent
            && let Some(node) = self.nodes.get_mut(&parent)
        {
            node.children = node.children.saturating_sub(1);
            self.drop_unused(parent);
        }
    }

    /// Removes a node nobody refers to, and then its parent if it was the last to need it, and so on.
    fn drop_unused(&mut self, id: u64) {
        let mut next = Some(id);
        while let Some(id) = next.take() {
            let Some(node) = self.nodes.get(&id) else { return };
            if node.lookups > 0 || node.children > 0 || node.hold == Hold::Share {
                return;
            }
            let Some(node) = self.nodes.remove(&id) else { return };
            let hash = self.hashes.hash_one(node.identity);
            if self.by_identity.get(&hash) == Some(&id) {
                self.by_identity.remove(&hash);
            }
            self.pinned -= usize::from(node.hold == Hold::Pinned);
            // A pinned directory has lost its name: it goes for good, and its mark with it.
            self.unwatched += usize::from(node.watched == Watched::Yes && node.hold != Hold::Pinned);
            if let Some((parent, _)) = node.place
                && let Some(node) = self.nodes.get_mut(&parent)
            {
                node.children = node.children.saturating_sub(1);
                next = Some(parent);
            }
        }
    }

    fn pin(&mut self, id: u64, fd: Arc<OwnedFd>) {
        if let Some(node) = self.nodes.get_mut(&id)
            && !matches!(node.hold, Hold::Pinned | Hold::Share)
        {
            (node.fd, node.hold) = (Some(fd), Hold::Pinned);
            self.pinned += 1;
        }
    }

    /// Closes cached descriptors until there are no more than `limit`, least recently used ones first.
    fn shrink_cache(&mut self, limit: usize) {
        // Every node gets at most one second chance.
        let mut chances = self.cached.len();
        while self.cached.len() > limit
            && let Some(id) = self.cached.pop_front()
        {
            let Some(node) = self.nodes.get_mut(&id) else { continue };
            match node.hold {
                Hold::Recent if chances > 0 && limit > 0 => {
                    chances -= 1;
                    node.hold = Hold::Cached;
                    self.cached.push_back(id);
                }
                Hold::Recent | Hold::Cached => (node.fd, node.hold) = (None, Hold::Cached),
                Hold::Pinned | Hold::Share => {}
            }
        }
    }
}

#[cfg(test)]
mod tests;

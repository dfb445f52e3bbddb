//! From nodes to descriptors: the only place where host files are opened.
//!
//! A file is opened by one name in a directory that is held open, never followed if it is a symbolic link, and then
//! compared with the identity its node has; contents are opened through the descriptor so found. There is no moment at
//! which a path the guest or a racing process could bend is trusted.

use std::ffi::CStr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, Statx, openat, openat2};
use rustix::io::Errno;
use rustix::path::DecInt;

use super::Server;
use super::export::{Export, stat, stat_at};
use crate::fs::guard::Position;
use crate::fs::name::Name;
use crate::fs::node::{Found, Identity, Watched, Way};

/// Deepest tree served. Far beyond what a path of 4096 bytes can name; bounds the work a guest can ask for.
const MAX_DEPTH: usize = 4096;

/// Nothing but the one component that is opened.
const CONFINED: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

/// A directory something is about to be done in.
#[derive(Debug)]
pub(super) struct Parent<'a> {
    pub(super) id: u64,
    pub(super) export: &'a Export,
    pub(super) identity: Identity,
    pub(super) position: Position,
    pub(super) fd: Arc<OwnedFd>,
    /// What others do in it is reported, if it happens after this epoch.
    pub(super) is_watched: bool,
    pub(super) epoch: u64,
}

impl Parent<'_> {
    /// Where an entry is, as far as rules care.
    pub(super) fn position_of(&self, name: Name<'_>, stat: &Statx) -> Position {
        self.export.everywhere(self.position, name.as_c_str(), stat)
    }

    /// Refuses a new entry at a guarded place, and on the way to one everything but a new directory: what is below a
    /// link, or below a directory that comes from elsewhere, would not have been guarded.
    pub(super) fn check_new(&self, name: Name<'_>, kind: FileType) -> Result<(), Errno> {
        let position = self.export.named(self.position, name.as_c_str());
        let is_allowed = !position.is_fixed() || !position.is_guarded() && kind == FileType::Directory;
        if is_allowed { Ok(()) } else { Err(Errno::ROFS) }
    }

    /// Refuses to take an entry away, or to put another in its place, if it is guarded or on the way to something that
    /// is.
    pub(super) fn check_movable(&self, name: Name<'_>) -> Result<(), Errno> {
        let name = name.as_c_str();
        let found = || stat_at(&self.fd, name).map(|stat| self.export.found(self.position, name, &stat));
        let position = self.export.named(self.position, name);
        let is_fixed = position.is_fixed() || self.export.has_rules() && found().is_ok_and(Position::is_fixed);
        if is_fixed { Err(Errno::ROFS) } else { Ok(()) }
    }
}

impl Server {
    /// The share a file belongs to.
    pub(super) fn export(&self, identity: &Identity) -> Result<&Export, Errno> {
        usize::try_from(identity.share).ok().and_then(|index| self.exports.get(index)).ok_or(Errno::STALE)
    }

    /// A directory of a share.
    pub(super) fn directory(&self, id: u64) -> Result<Parent<'_>, Errno> {
        let found = self.nodes.find(id)?;
        if found.kind != FileType::Directory {
            return Err(Errno::NOTDIR);
        }
        let export = self.export(&found.identity)?;
        let Found { identity, position, watched, .. } = found;
        let (fd, _) = self.reach(id, found)?;
        let is_watched = self.watch(id, watched, &identity, &fd);
        Ok(Parent { id, export, identity, position, fd, is_watched, epoch: self.watcher.epoch() })
    }

    /// Sees to it that what others do in a directory is reported, if that can be had.
    fn watch(&self, id: u64, watched: Watched, identity: &Identity, fd: &OwnedFd) -> bool {
        if watched != Watched::Unasked || !self.watcher.is_heard() {
            return watched == Watched::Yes;
        }
        let note = || self.nodes.set_watched(id, Watched::Yes);
        let is_watched = self.watcher.mark(id, identity.device, fd, super::away::lies_away, note);
        if !is_watched {
            self.nodes.set_watched(id, Watched::Refused);
        }
        is_watched
    }

    /// A directory of a share that can be written. The tree's own root cannot.
    pub(super) fn directory_to_change(&self, id: u64) -> Result<Parent<'_>, Errno> {
        if id == crate::fs::wire::ROOT {
            return Err(Errno::ROFS);
        }
        let parent = self.directory(id)?;
        parent.export.check_writable()?;
        if parent.position.is_guarded() {
            return Err(Errno::ROFS);
        }
        Ok(parent)
    }

    /// An `O_PATH` descriptor of a node's file.
    pub(super) fn path(&self, id: u64) -> Result<Arc<OwnedFd>, Errno> {
        self.reach(id, self.nodes.find(id)?).map(|(path, _)| path)
    }

    /// The same with the file's attributes.
    pub(super) fn path_and_stat(&self, id: u64) -> Result<(Arc<OwnedFd>, Statx), Errno> {
        let (path, seen) = self.reach(id, self.nodes.find(id)?)?;
        let stat = seen.map_or_else(|| stat(&path), Ok)?;
        Ok((path, stat))
    }

    /// Attributes of a node's file, without opening it if that can be helped.
    pub(super) fn stat_node(&self, id: u64) -> Result<(Found, Statx), Errno> {
        let found = self.nodes.find(id)?;
        let stat = match &found.way {
            Way::Held(fd) => stat(fd)?,
            Way::Lost => return Err(Errno::STALE),
            Way::Named(parent, name) => {
                let stat = stat_at(&*self.path(*parent)?, name).map_err(gone)?;
                if self.export(&found.identity)?.identity(&stat) != found.identity {
                    return Err(Errno::STALE);
                }
                stat
            }
        };
        Ok((found, stat))
    }

    /// Goes up to the nearest directory that is held open, then down again. Whatever is opened on the way is looked at,
    /// too.
    fn reach(&self, id: u64, found: Found) -> Result<(Arc<OwnedFd>, Option<Statx>), Errno> {
        let mut way_down = Vec::new();
        let (mut id, mut found) = (id, found);
        let mut fd = loop {
            let (parent, name) = match found.way {
                Way::Held(fd) => break fd,
                Way::Lost => return Err(Errno::STALE),
                Way::Named(parent, name) => (parent, name),
            };
            if way_down.len() >= MAX_DEPTH {
                return Err(Errno::STALE);
            }
            way_down.push((id, found.identity, found.kind, name));
            (id, found) = (parent, self.nodes.find(parent)?);
        };
        let mut seen = None;
        while let Some((id, identity, kind, name)) = way_down.pop() {
            let (next, stat) = self.open_entry(&fd, &name, &identity)?;
            (fd, seen) = (Arc::new(next), Some(stat));
            if kind == FileType::Directory {
                self.nodes.cache(id, fd.clone());
            }
        }
        Ok((fd, seen))
    }

    /// An `O_PATH` descriptor of an entry that must be the file expected.
    pub(super) fn open_entry(
        &self,
        directory: &OwnedFd,
        name: &CStr,
        expected: &Identity,
    ) -> Result<(OwnedFd, Statx), Errno> {
        let (file, stat) = self.open_name(directory, name).map_err(gone)?;
        if self.export(expected)?.identity(&stat) != *expected {
            return Err(Errno::STALE);
        }
        Ok((file, stat))
    }

    /// An `O_PATH` descriptor of an entry, whatever it is.
    pub(super) fn open_name(&self, directory: &OwnedFd, name: &CStr) -> Result<(OwnedFd, Statx), Errno> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = self.spare(|| openat2(directory, name, flags, Mode::empty(), CONFINED))?;
        let stat = stat(&file)?;
        Ok((file, stat))
    }

    /// Creates a regular file that must not exist yet.
    pub(super) fn create_entry(
        &self,
        parent: &OwnedFd,
        name: &CStr,
        flags: OFlags,
        mode: Mode,
    ) -> Result<OwnedFd, Errno> {
        let flags = flags | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        self.spare(|| openat2(parent, name, flags, mode, CONFINED))
    }

    /// Opens the contents of a regular file or directory; of anything else, opening alone could have effects.
    pub(super) fn open_contents(&self, kind: FileType, path: &OwnedFd, flags: OFlags) -> Result<OwnedFd, Errno> {
        let flags = flags | OFlags::CLOEXEC;
        match kind {
            FileType::RegularFile => {
                let number = DecInt::from_fd(path);
                self.spare(|| openat(&self.descriptors, number.as_c_str(), flags, Mode::empty()))
            }
            FileType::Directory => self.spare(|| openat(path, c".", flags | OFlags::DIRECTORY, Mode::empty())),
            FileType::Symlink => Err(Errno::LOOP),
            _ => Err(Errno::NXIO),
        }
    }

    /// `/proc/self/fd`, and the name in it under which a descriptor is found.
    pub(super) fn by_number(&self, path: &OwnedFd) -> (&OwnedFd, DecInt) {
        (&self.descriptors, DecInt::from_fd(path))
    }

    /// Opens something; when the process has no descriptor left, once more without our cache.
    pub(super) fn spare<T>(&self, open: impl Fn() -> Result<T, Errno>) -> Result<T, Errno> {
        match open() {
            Err(Errno::MFILE | Errno::NFILE) => {
                self.nodes.drop_cached();
                drop(self.implicit.clear());
                // The guest's own limit is not what was reached.
                open().map_err(|error| if error == Errno::MFILE { Errno::NFILE } else { error })
            }
            other => other,
        }
    }
}

/// A node whose name is gone is stale: the guest's kernel then looks the name up again.
fn gone(error: Errno) -> Errno {
    match error {
        Errno::NOENT | Errno::NOTDIR => Errno::STALE,
        other => other,
    }
}

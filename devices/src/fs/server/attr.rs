//! Attributes of files: read, and changed as far as the guest may.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, Statx, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, chmodat, fstatvfs, ftruncate,
    syncfs, utimensat,
};
use rustix::io::Errno;

use super::belief::{Belief, MOMENT};
use super::call::Call;
use super::export::{self, Export, kind, stat};
use super::{Answer, Server};
use crate::fs::handle::{OpenFile, UNOPENED};
use crate::fs::wire::{AttrOut, GETATTR_FH, GetattrIn, ROOT, SetattrIn, StatfsOut, StatxIn, StatxOut, set};
use crate::fs::{name, wire};

/// Mode bits the guest can set: permissions and the sticky bit.
const SETTABLE: u32 = 0o1777;
/// Set-user-ID and set-group-ID: never newly set on the host.
pub(super) const SET_ID: u32 = 0o6000;

impl Server {
    pub(super) fn getattr(&self, call: &mut Call<'_>) -> Answer {
        let asked: GetattrIn = call.take()?;
        let answer = if call.header.nodeid == ROOT {
            export::attributes(self.root_attr(), Belief::LASTING.attributes)
        } else {
            let fh = (asked.flags & GETATTR_FH != 0 && asked.fh != UNOPENED).then_some(asked.fh);
            let (export, stat, valid) = self.stat_open_or_node(call.header.nodeid, fh)?;
            export::attributes(self.attr(export, &stat, valid), valid)
        };
        call.put(&answer)
    }

    /// From now on STATX is served.
    pub(in crate::fs) fn tell_birth_times(&self) {
        self.tells_birth_times.store(true, Ordering::Relaxed);
    }

    pub(super) fn tells_birth_times(&self) -> bool {
        self.tells_birth_times.load(Ordering::Relaxed)
    }

    pub(super) fn statx(&self, call: &mut Call<'_>) -> Answer {
        let asked: StatxIn = call.take()?;
        let (stat, valid) = if call.header.nodeid == ROOT {
            let attr = self.root_attr();
            let mode = u16::try_from(attr.mode).unwrap_or_default();
            let (ino, nlink, blksize) = (attr.ino, attr.nlink, attr.blksize);
            let stat = wire::Statx { mask: 0x7ff, ino, mode, nlink, blksize, ..Default::default() };
            (stat, Belief::LASTING.attributes)
        } else {
            let fh = (asked.getattr_flags & GETATTR_FH != 0 && asked.fh != UNOPENED).then_some(asked.fh);
            let (export, stat, valid) = self.stat_open_or_node(call.header.nodeid, fh)?;
            (export.statx(&stat), valid)
        };
        let AttrOut { attr_valid, attr_valid_nsec, .. } = export::attributes(wire::Attr::default(), valid);
        call.put(&StatxOut { attr_valid, attr_valid_nsec, stat, ..StatxOut::default() })
    }

    /// The directory that holds the shares.
    fn root_attr(&self) -> wire::Attr {
        let links = u32::try_from(self.exports.len()).unwrap_or(u32::MAX).saturating_add(2);
        wire::Attr { ino: ROOT, mode: 0o040_555, nlink: links, blksize: 4096, ..wire::Attr::default() }
    }

    /// Attributes by a handle, if the guest names one, else by the node; and for how long they are to be believed.
    fn stat_open_or_node(&self, node: u64, fh: Option<u64>) -> Result<(&Export, Statx, Duration), Errno> {
        let epoch = self.watcher.epoch();
        match fh {
            None => match self.stat_node(node) {
                Ok((found, stat)) => {
                    self.hold_empty(node, &stat)?;
                    Ok((self.export(&found.identity)?, stat, self.belief_in_node(&found, &stat, epoch)))
                }
                // Somebody replaced the file while the guest has it open.
                Err(Errno::STALE) => {
                    let open = self.implicit.file(node).or_else(|| self.handles.file_of(node)).ok_or(Errno::STALE)?;
                    Ok((self.export(&self.nodes.find(node)?.identity)?, stat(&open.file)?, MOMENT))
                }
                Err(error) => Err(error),
            },
            Some(fh) => {
                // The file may have gone where nobody watches.
                let open = self.handles.file(fh, node)?;
                Ok((self.export(&self.nodes.find(node)?.identity)?, stat(&open.file)?, MOMENT))
            }
        }
    }

    pub(super) fn setattr(&self, call: &mut Call<'_>) -> Answer {
        let asked: SetattrIn = call.take()?;
        call.check_room(size_of::<AttrOut>())?;
        if call.header.nodeid == ROOT {
            return Err(Errno::ROFS);
        }
        let node = call.header.nodeid;
        let epoch = self.watcher.epoch();
        let found = self.nodes.find(node)?;
        let export = self.export(&found.identity)?;
        export.check_writable()?;
        let open = if asked.valid & set::FH != 0 { Some(self.handles.file(asked.fh, node)?) } else { None };
        let file = match &open {
            Some(open) => Target::Open(open.clone()),
            None => Target::Path(self.path(node)?),
        };
        let before = stat(file.fd())?;
        export.check_unguarded(found.position, &before)?;
        let change = Change { server: self, export, file: &file, before: &before };
        change.owner(&asked)?;
        change.mode(&asked)?;
        if asked.valid & set::SIZE != 0 {
            self.truncate(&file, kind(&before), asked.size)?;
        }
        set_times(file.fd(), &asked)?;
        let after = stat(file.fd())?;
        // An open file may be anywhere.
        let valid = match &file {
            Target::Open(_) => MOMENT,
            Target::Path(_) => self.belief_in_node(&found, &after, epoch),
        };
        call.put(&export::attributes(self.attr(export, &after, valid), valid))
    }

    fn truncate(&self, file: &Target, kind: FileType, size: u64) -> Answer {
        match (file, kind) {
            (Target::Open(open), _) => ftruncate(&open.file, size),
            (Target::Path(path), FileType::RegularFile) => {
                ftruncate(self.open_contents(kind, path, OFlags::WRONLY)?, size)
            }
            (_, FileType::Directory) => Err(Errno::ISDIR),
            _ => Err(Errno::INVAL),
        }
    }

    /// Sets the mode of what a descriptor names; a symbolic link has none.
    pub(super) fn set_mode(&self, file: &OwnedFd, kind: FileType, mode: u32) -> Answer {
        if kind == FileType::Symlink {
            return Err(Errno::OPNOTSUPP);
        }
        let (descriptors, number) = self.by_number(file);
        chmodat(descriptors, number.as_c_str(), Mode::from_raw_mode(mode), AtFlags::empty())
    }

    /// Takes the set-id bits off a file that is written on behalf of somebody without the right to keep them. When this
    /// process is not root, the host's kernel does so by itself.
    pub(super) fn drop_set_id_on_write(&self, file: &OwnedFd) -> Answer {
        if self.is_root { self.drop_set_id(file) } else { Ok(()) }
    }

    /// Takes the set-id bits off a file.
    fn drop_set_id(&self, file: &OwnedFd) -> Answer {
        let stat = stat(file)?;
        let mode = u32::from(stat.stx_mode);
        if mode & SET_ID == 0 || kind(&stat) != FileType::RegularFile {
            return Ok(());
        }
        self.set_mode(file, FileType::RegularFile, mode & SETTABLE)
    }

    pub(super) fn statfs(&self, call: &mut Call<'_>) -> Answer {
        let longest = u32::try_from(name::MAX_NAME).unwrap_or_default();
        if call.header.nodeid == ROOT {
            return call.put(&StatfsOut { bsize: 4096, frsize: 4096, namelen: longest, ..StatfsOut::default() });
        }
        let found = self.nodes.find(call.header.nodeid)?;
        // One share is one file system; mounts within it are asked for themselves.
        let path = if found.kind == FileType::Directory {
            self.path(call.header.nodeid)?
        } else {
            self.export(&found.identity)?.root.clone()
        };
        let stat = fstatvfs(&*path)?;
        let word = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
        call.put(&StatfsOut {
            blocks: stat.f_blocks,
            bfree: stat.f_bfree,
            bavail: stat.f_bavail,
            files: stat.f_files,
            ffree: stat.f_ffree,
            bsize: word(stat.f_bsize),
            namelen: word(stat.f_namemax),
            frsize: word(stat.f_frsize),
            ..StatfsOut::default()
        })
    }

    /// Writes the host's caches of a share's file system to disk; all shares for the tree's own root.
    pub(super) fn syncfs(&self, call: &mut Call<'_>) -> Answer {
        if call.header.nodeid != ROOT {
            return self.sync_share(self.export(&self.nodes.find(call.header.nodeid)?.identity)?);
        }
        self.exports.iter().try_for_each(|export| self.sync_share(export))
    }

    fn sync_share(&self, export: &Export) -> Answer {
        if export.check_writable().is_err() {
            // The guest changed nothing.
            return Ok(());
        }
        let kind = kind(&stat(&export.root)?);
        syncfs(self.open_contents(kind, &export.root, OFlags::RDONLY)?)
    }
}

/// What SETATTR changes.
enum Target {
    Open(Arc<OpenFile>),
    Path(Arc<OwnedFd>),
}

impl Target {
    fn fd(&self) -> &OwnedFd {
        match self {
            Self::Open(open) => &open.file,
            Self::Path(path) => path,
        }
    }
}

/// A change of owner or mode.
struct Change<'a> {
    server: &'a Server,
    export: &'a Export,
    file: &'a Target,
    before: &'a Statx,
}

impl Change<'_> {
    /// Accepts a new owner without effect (see [`Ownership`](crate::fs::Ownership)); only the set-id bits go, as after
    /// any change of owner.
    fn owner(&self, asked: &SetattrIn) -> Answer {
        if asked.valid & (set::UID | set::GID) != 0 && !self.export.owns(self.before) {
            return Err(Errno::PERM);
        }
        if asked.valid & (set::UID | set::GID | set::KILL_SUIDGID) != 0 {
            self.server.drop_set_id(self.file.fd())?;
        }
        Ok(())
    }

    fn mode(&self, asked: &SetattrIn) -> Answer {
        if asked.valid & set::MODE == 0 {
            return Ok(());
        }
        let kept = asked.mode & u32::from(self.before.stx_mode) & SET_ID;
        self.server.set_mode(self.file.fd(), kind(self.before), asked.mode & SETTABLE | kept)
    }
}

fn set_times(file: &OwnedFd, asked: &SetattrIn) -> Answer {
    if asked.valid & (set::ATIME | set::MTIME | set::ATIME_NOW | set::MTIME_NOW) == 0 {
        return Ok(());
    }
    let time = |given: u32, now: u32, seconds: u64, nanoseconds: u32| {
        let special = |tv_nsec| Ok(Timespec { tv_sec: 0, tv_nsec });
        match asked.valid & (given | now) {
            0 => special(UTIME_OMIT),
            bits if bits & now != 0 => special(UTIME_NOW),
            // Larger numbers have meanings of their own to the host's kernel.
            _ if nanoseconds >= 1_000_000_000 => Err(Errno::INVAL),
            _ => Ok(Timespec { tv_sec: seconds.cast_signed(), tv_nsec: i64::from(nanoseconds) }),
        }
    };
    let times = Timestamps {
        last_access: time(set::ATIME, set::ATIME_NOW, asked.atime, asked.atimensec)?,
        last_modification: time(set::MTIME, set::MTIME_NOW, asked.mtime, asked.mtimensec)?,
    };
    utimensat(file, c"", &times, AtFlags::EMPTY_PATH)
}

/// The mode a new file gets on the host.
pub(super) fn new_mode(asked: u32) -> Mode {
    Mode::from_raw_mode(asked & SETTABLE)
}

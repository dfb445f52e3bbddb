//! A share as the server holds it, and how its files look to the guest.

use std::ffi::CStr;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::fs::{AtFlags, FileType, Statx, StatxFlags, StatxTimestamp, statx};
use rustix::io::Errno;
use rustix::process::{getegid, geteuid};

use super::belief::Belief;
use crate::fs::guard::{Guard, Position};
use crate::fs::node::{Identity, Version};
use crate::fs::report::ShareReport;
use crate::fs::share::{Access, Owner, Share};
use crate::fs::wire;

/// Owner the guest sees on files that do not belong to the share's owner (Linux's overflow ID).
const NOBODY: u32 = 65_534;

/// Everything an answer may need about a file.
const WANTED: StatxFlags = StatxFlags::BASIC_STATS.union(StatxFlags::BTIME);

/// One share.
#[derive(Debug)]
pub(super) struct Export {
    pub(super) index: u32,
    pub(super) root: Arc<OwnedFd>,
    access: Access,
    /// Whose the share's files are.
    owner: Owner,
    /// Whom the guest takes that owner for.
    seen_uid: AtomicU32,
    seen_gid: AtomicU32,
    /// Whom new files must be given to, if they are not born with the right owner.
    give_to: Option<Owner>,
    /// This process is root, whose files may appear in a share of somebody else.
    as_root: bool,
    /// This process's user.
    user: u32,
    guard: Option<Guard>,
    /// The host itself waits for another machine.
    is_remote: bool,
}

impl Export {
    pub(super) fn new(index: u32, share: Share) -> io::Result<Self> {
        let Share { root, access, ownership, guarded } = share;
        let kind = kind(&stat(&root)?);
        if !matches!(kind, FileType::Directory | FileType::RegularFile) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("Share {index} is neither a directory nor a regular file"),
            ));
        }
        let as_root = geteuid().is_root();
        let own = Owner { uid: geteuid().as_raw(), gid: getegid().as_raw() };
        let give_to = (as_root && ownership.host != own).then_some(ownership.host);
        let root = Arc::new(root);
        let guard = Guard::new(&root, &guarded)?;
        let is_remote = super::away::is_remote(&root)?;
        Ok(Self {
            index,
            root,
            access,
            owner: ownership.host,
            seen_uid: ownership.guest.uid.into(),
            seen_gid: ownership.guest.gid.into(),
            give_to,
            as_root,
            user: own.uid,
            guard,
            is_remote,
        })
    }

    pub(super) fn is_remote(&self) -> bool {
        self.is_remote
    }

    /// What is in force.
    pub(super) fn report(&self) -> ShareReport {
        let guarded = self.guard.as_ref().map(Guard::report).unwrap_or_default();
        ShareReport { access: self.access, guarded }
    }

    /// Something in the share is protected or hidden.
    pub(super) fn has_rules(&self) -> bool {
        self.guard.is_some()
    }

    pub(super) fn root_position(&self) -> Position {
        self.guard.as_ref().map_or_else(Position::default, Guard::root)
    }

    /// Where an entry of a directory is, as far as rules care, by its name alone.
    pub(super) fn named(&self, parent: Position, name: &CStr) -> Position {
        self.guard.as_ref().map_or_else(Position::default, |guard| guard.named(parent, name))
    }

    /// The same, also by what was there at first.
    pub(super) fn found(&self, parent: Position, name: &CStr, stat: &Statx) -> Position {
        self.guard.as_ref().map_or_else(Position::default, |guard| guard.found(parent, name, stat))
    }

    /// The same by all names of the file.
    pub(super) fn everywhere(&self, parent: Position, name: &CStr, stat: &Statx) -> Position {
        self.guard.as_ref().map_or_else(Position::default, |guard| guard.everywhere(parent, name, stat))
    }

    /// Refuses to change a file that is guarded, here or under another of its names.
    pub(super) fn check_unguarded(&self, position: Position, stat: &Statx) -> Result<(), Errno> {
        let Some(guard) = &self.guard else { return Ok(()) };
        if position.is_guarded() || guard.alias(stat).is_some() { Err(Errno::ROFS) } else { Ok(()) }
    }

    /// Refuses everything that changes a read-only share.
    pub(super) fn check_writable(&self) -> Result<(), Errno> {
        match self.access {
            Access::ReadWrite => Ok(()),
            Access::ReadOnly => Err(Errno::ROFS),
        }
    }

    /// Whether this process may read a file, as far as its mode tells.
    pub(super) fn is_readable(&self, stat: &Statx) -> bool {
        const OWNER_READS: u16 = 0o400;
        self.as_root || stat.stx_uid == self.user && stat.stx_mode & OWNER_READS != 0
    }

    pub(super) fn give_to(&self) -> Option<Owner> {
        self.give_to
    }

    pub(super) fn identity(&self, stat: &Statx) -> Identity {
        Identity { share: self.index, device: device(stat), inode: stat.stx_ino, born: nanoseconds(stat.stx_btime) }
    }

    /// From now on the owner's files appear as this one's.
    pub(super) fn show_owner(&self, owner: Owner) {
        self.seen_uid.store(owner.uid, Ordering::Relaxed);
        self.seen_gid.store(owner.gid, Ordering::Relaxed);
    }

    fn uid(&self, uid: u32) -> u32 {
        match uid {
            uid if uid == self.owner.uid => self.seen_uid.load(Ordering::Relaxed),
            0 if self.as_root => 0,
            _ => NOBODY,
        }
    }

    fn gid(&self, gid: u32) -> u32 {
        match gid {
            gid if gid == self.owner.gid => self.seen_gid.load(Ordering::Relaxed),
            0 if self.as_root => 0,
            _ => NOBODY,
        }
    }

    /// Whether the guest sees the file as its share's owner's, or as root's.
    pub(super) fn owns(&self, stat: &Statx) -> bool {
        stat.stx_uid == self.owner.uid || self.as_root && stat.stx_uid == 0
    }

    pub(super) fn attr(&self, stat: &Statx) -> wire::Attr {
        wire::Attr {
            ino: stat.stx_ino,
            size: stat.stx_size,
            blocks: stat.stx_blocks,
            atime: stat.stx_atime.tv_sec.cast_unsigned(),
            mtime: stat.stx_mtime.tv_sec.cast_unsigned(),
            ctime: stat.stx_ctime.tv_sec.cast_unsigned(),
            atimensec: stat.stx_atime.tv_nsec,
            mtimensec: stat.stx_mtime.tv_nsec,
            ctimensec: stat.stx_ctime.tv_nsec,
            mode: u32::from(stat.stx_mode),
            nlink: stat.stx_nlink,
            uid: self.uid(stat.stx_uid),
            gid: self.gid(stat.stx_gid),
            rdev: kernel_device(stat.stx_rdev_major, stat.stx_rdev_minor),
            blksize: stat.stx_blksize,
            flags: 0,
        }
    }

    pub(super) fn statx(&self, stat: &Statx) -> wire::Statx {
        let time = |time: StatxTimestamp| wire::StatxTime { sec: time.tv_sec, nsec: time.tv_nsec, reserved: 0 };
        wire::Statx {
            mask: stat.stx_mask & WANTED.bits(),
            blksize: stat.stx_blksize,
            attributes: 0,
            nlink: stat.stx_nlink,
            uid: self.uid(stat.stx_uid),
            gid: self.gid(stat.stx_gid),
            mode: stat.stx_mode,
            ino: stat.stx_ino,
            size: stat.stx_size,
            blocks: stat.stx_blocks,
            atime: time(stat.stx_atime),
            btime: time(stat.stx_btime),
            ctime: time(stat.stx_ctime),
            mtime: time(stat.stx_mtime),
            rdev_major: stat.stx_rdev_major,
            rdev_minor: stat.stx_rdev_minor,
            ..wire::Statx::default()
        }
    }
}

/// Attributes of what an open descriptor names.
pub(in crate::fs) fn stat(file: &OwnedFd) -> Result<Statx, Errno> {
    statx(file, c"", AtFlags::EMPTY_PATH, WANTED)
}

/// Attributes of an entry of a directory; a symbolic link is not followed, an automount not triggered.
pub(in crate::fs) fn stat_at(directory: &OwnedFd, name: &CStr) -> Result<Statx, Errno> {
    statx(directory, name, AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT, WANTED)
}

pub(super) fn kind(stat: &Statx) -> FileType {
    FileType::from_raw_mode(u32::from(stat.stx_mode))
}

pub(super) fn device(stat: &Statx) -> u64 {
    u64::from(stat.stx_dev_major) << 32 | u64::from(stat.stx_dev_minor)
}

/// State of a file's contents; nothing when it changed so recently that a further change could leave the same stamps.
pub(super) fn settled_version(stat: &Statx, now: i64) -> Option<Version> {
    /// Longer than the tick (at most 10 ms) in which file systems count time.
    const TICK: i64 = 20_000_000;
    let modified = nanoseconds(stat.stx_mtime);
    let changed = nanoseconds(stat.stx_ctime);
    let is_settled = changed.max(modified).saturating_add(TICK) < now;
    is_settled.then_some(Version { size: stat.stx_size, modified, changed })
}

fn nanoseconds(time: StatxTimestamp) -> i64 {
    time.tv_sec.saturating_mul(1_000_000_000).saturating_add(i64::from(time.tv_nsec))
}

/// `new_encode_dev` of Linux.
fn kernel_device(major: u32, minor: u32) -> u32 {
    (minor & 0xff) | (major & 0xfff) << 8 | (minor & !0xff) << 12
}

/// An answer that tells a node and its attributes.
pub(super) fn entry(nodeid: u64, attr: wire::Attr, belief: Belief) -> wire::EntryOut {
    let Belief { name, attributes } = belief;
    wire::EntryOut {
        nodeid,
        entry_valid: name.as_secs(),
        entry_valid_nsec: name.subsec_nanos(),
        attr_valid: attributes.as_secs(),
        attr_valid_nsec: attributes.subsec_nanos(),
        attr,
        ..wire::EntryOut::default()
    }
}

/// An answer that tells attributes.
pub(super) fn attributes(attr: wire::Attr, valid: Duration) -> wire::AttrOut {
    wire::AttrOut { attr_valid: valid.as_secs(), attr_valid_nsec: valid.subsec_nanos(), padding: 0, attr }
}

//! Paths of a share that the guest may not change, or may not see.
//!
//! A rule names a place: a path from the share's root. It holds for what is there now, what comes there later, and
//! everything below. So that it cannot be undone by moving things around, the directories above such a place can be
//! neither renamed nor removed nor put there as anything but a new directory. It also holds for the *files* found there
//! when they have another name, by hard links or by mounts: they are known by device and inode ([`Known`],
//! [`Aliases`]). Names are compared without regard to case, as some host file systems do.
//!
//! [`Guard`] decides; the server's operations ask it with the [`Position`] of the node they are about.

mod alias;
mod known;
mod place;
#[cfg(test)]
mod tests;

use std::ffi::CStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;

use rustix::fs::{FileType, Statx};

use self::alias::Aliases;
use self::known::Known;
use self::place::Places;
pub(super) use self::place::Position;
use super::report::GuardReport;

/// What the guest may do at a place, in spite of the share's [`Access`](super::Access).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// Look, not change.
    Protect,
    /// Nothing: to the guest there is nothing, and it cannot put anything there.
    Hide,
}

/// A place in a share and the rule for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guarded {
    /// From the share's root, without `.` and `..`; empty for the share itself. There need not be anything.
    pub path: PathBuf,
    /// What holds there and below.
    pub rule: Rule,
}

/// The rules of one share.
#[derive(Debug)]
pub(super) struct Guard {
    places: Places,
    known: Known,
    aliases: Aliases,
}

impl Guard {
    /// The rules for the share whose root is `root`; nothing when there are none.
    pub(super) fn new(root: &Arc<OwnedFd>, guarded: &[Guarded]) -> io::Result<Option<Self>> {
        if guarded.is_empty() {
            return Ok(None);
        }
        let places = Places::new(guarded)?;
        let known = Known::look(root, &places, guarded);
        Ok(Some(Self { places, known, aliases: Aliases::new(root.clone(), guarded.to_vec()) }))
    }

    /// Where the share's root is.
    pub(super) fn root(&self) -> Position {
        self.places.root()
    }

    /// Where an entry of a directory is, by its name alone.
    pub(super) fn named(&self, parent: Position, name: &CStr) -> Position {
        self.places.child(parent, name.to_bytes())
    }

    /// Where an entry of a directory is, by its name and by what was there at first.
    pub(super) fn found(&self, parent: Position, name: &CStr, stat: &Statx) -> Position {
        self.named(parent, name).joined(self.known.position(stat))
    }

    /// Where a file is by all its names.
    pub(super) fn everywhere(&self, parent: Position, name: &CStr, stat: &Statx) -> Position {
        self.found(parent, name, stat).with_rule(self.alias(stat))
    }

    /// The guarded places, each with the rule that a request there would meet.
    pub(super) fn report(&self) -> Vec<GuardReport> {
        let report = |Guarded { path, .. }: &Guarded| {
            let names = path.components().map(|name| name.as_os_str().as_bytes());
            let position = names.fold(self.places.root(), |position, name| self.places.child(position, name));
            let rule = position.rule()?;
            Some(GuardReport { path: path.clone(), rule, is_there: self.aliases.is_there(path) })
        };
        self.aliases.guarded().iter().filter_map(report).collect()
    }

    /// The rule for a file that has names elsewhere, if one of them is guarded.
    pub(super) fn alias(&self, stat: &Statx) -> Option<Rule> {
        let is_elsewhere = stat.stx_nlink > 1 && is_regular(stat);
        if is_elsewhere { self.aliases.rule(stat) } else { None }
    }
}

/// Which file of the host, whatever its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct File {
    device: (u32, u32),
    inode: u64,
    /// Tells it from a later one with the same number.
    born: (i64, u32),
}

impl File {
    fn of(stat: &Statx) -> Self {
        Self {
            device: (stat.stx_dev_major, stat.stx_dev_minor),
            inode: stat.stx_ino,
            born: (stat.stx_btime.tv_sec, stat.stx_btime.tv_nsec),
        }
    }
}

fn is_regular(stat: &Statx) -> bool {
    FileType::from_raw_mode(u32::from(stat.stx_mode)) == FileType::RegularFile
}

//! The files and directories that were at guarded places, and on the way to them, when the share was opened.

use std::collections::HashMap;
use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags, Statx, openat2};

use super::place::{Places, Position};
use super::{File, Guarded};
use crate::fs::server::stat;

/// Positions by file: they hold under other names, too (a bind mount of the same directory, say).
#[derive(Debug)]
pub(super) struct Known(HashMap<File, Position>);

impl Known {
    pub(super) fn look(root: &OwnedFd, places: &Places, guarded: &[Guarded]) -> Self {
        let mut known = HashMap::new();
        for Guarded { path, .. } in guarded {
            let mut position = places.root();
            let mut way = PathBuf::new();
            for name in path {
                way.push(name);
                position = places.child(position, name.as_bytes());
                let Some(found) = look(root, &way) else { break };
                known.insert(File::of(&found), position);
            }
        }
        Self(known)
    }

    pub(super) fn position(&self, stat: &Statx) -> Position {
        self.0.get(&File::of(stat)).copied().unwrap_or_default()
    }
}

/// What is at a path, if no symbolic link leads there.
fn look(root: &OwnedFd, path: &Path) -> Option<Statx> {
    stat(&open(root, path, OFlags::PATH)?).ok()
}

/// Opens what is at a path from `root`; a symbolic link at its end is itself, on the way there it is not followed.
pub(super) fn open(root: &OwnedFd, path: &Path, flags: OFlags) -> Option<OwnedFd> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let path = CString::new(path.as_os_str().as_bytes()).ok()?;
    let within = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_SYMLINKS;
    openat2(root, &path, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty(), within).ok()
}

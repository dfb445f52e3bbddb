//! What is exported, and whom its files belong to on either side.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Weak};

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::process::{getegid, geteuid};

use super::guard::Guarded;
use super::server::Server;

/// What the guest may do with a share; held by the server, whatever the guest mounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Everything the host user may do.
    ReadWrite,
    /// Nothing that changes the host.
    ReadOnly,
}

/// A user and a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// User ID.
    pub uid: u32,
    /// Group ID.
    pub gid: u32,
}

/// One owner per share, on either side: files of `host` appear as files of `guest`, everybody else's as nobody's.
///
/// The guest cannot give files away: a change of owner that the guest's kernel lets somebody try is accepted and has no
/// effect, so that programs run as the guest's root (`tar -xp`, `npm`, `rsync -a`) work as they do anywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ownership {
    /// Whom new files belong to. Other than this process's own user only when the process is root.
    pub host: Owner,
    /// Whom they belong to in the guest, unless an [`OwnerSeen`] says otherwise.
    pub guest: Owner,
}

impl Ownership {
    /// Files of this process's user, seen as root's by the guest.
    pub fn of_this_process() -> Self {
        let host = Owner { uid: geteuid().as_raw(), gid: getegid().as_raw() };
        Self { host, guest: Owner { uid: 0, gid: 0 } }
    }
}

/// Says whom the guest is to take the owner of all shares for, when that is not known before the guest runs: only the
/// guest can look up a name. To be used before the guest looks at a share, since it remembers what it sees.
#[derive(Debug, Clone)]
pub struct OwnerSeen(Weak<Server>);

impl OwnerSeen {
    pub(super) fn new(server: &Arc<Server>) -> Self {
        Self(Arc::downgrade(server))
    }

    /// From now on what belongs to the owner of a share appears as this one's. Nothing happens once the device is gone.
    pub fn set(&self, owner: Owner) {
        if let Some(server) = self.0.upgrade() {
            server.show_owner(owner);
        }
    }
}

/// One exported directory, or one regular file.
#[derive(Debug)]
pub struct Share {
    /// The directory or file, opened with `O_PATH`; the share is what this descriptor names, wherever it moves.
    pub root: OwnedFd,
    /// What the guest may do.
    pub access: Access,
    /// Whose its files are.
    pub ownership: Ownership,
    /// What in it the guest may not change, or not see.
    pub guarded: Vec<Guarded>,
}

impl Share {
    /// Opens what is at `path` (symbolic links followed: the path is the user's own), for this process's user.
    pub fn open(path: &Path, access: Access) -> io::Result<Self> {
        let root = openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self { root, access, ownership: Ownership::of_this_process(), guarded: Vec::new() })
    }
}

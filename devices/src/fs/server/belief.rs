//! How long the guest may believe what it is told without asking again.
//!
//! For a day where changes by others are reported and passed on ([`Watcher`](crate::fs::watch::Watcher)), elsewhere for
//! a moment. What is told of the guest's own changes it knows anyway.

use std::time::Duration;

use rustix::fs::{FileType, Statx, StatxAttributes};

use super::Server;
use super::export::{Export, device, kind};
use super::reach::Parent;
use crate::fs::node::{Found, Known, Watched, Way};
use crate::fs::wire::{self, Attr};

/// Where nothing is reported: the host's user edits the same files, and what they do is seen within this time.
pub(super) const MOMENT: Duration = Duration::from_secs(1);
/// Until something is reported. Not for ever: some changes no kernel reports.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Largest file that is read without being opened.
const MAX_UNOPENED: u64 = 1 << 20;

/// For how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Belief {
    /// That a name stands for a file, or for nothing.
    pub(super) name: Duration,
    /// What the file's attributes are.
    pub(super) attributes: Duration,
}

impl Belief {
    /// Of what does not change.
    pub(super) const LASTING: Self = Self { name: DAY, attributes: DAY };
    /// Of what may change unseen.
    pub(super) const FLEETING: Self = Self { name: MOMENT, attributes: MOMENT };
}

fn lasting(if_reported: bool) -> Duration {
    if if_reported { DAY } else { MOMENT }
}

impl Server {
    /// That there is nothing of some name in a directory.
    pub(super) fn belief_in_nothing(&self, parent: &Parent<'_>) -> Belief {
        let name = lasting(parent.is_watched && self.watcher.vouches(parent.epoch));
        Belief { name, attributes: MOMENT }
    }

    /// An entry of a directory. To be asked when the node is known, so that whatever is reported from then on reaches
    /// it.
    pub(super) fn belief_in_entry(&self, parent: &Parent<'_>, known: Known, stat: &Statx) -> Belief {
        // Reports are about the directory's own file system; nothing tells of mounts.
        let is_mounted =
            stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT) || device(stat) != parent.identity.device;
        let is_vouched = self.watcher.vouches(parent.epoch);
        let is_name_reported = is_vouched && parent.is_watched && !is_mounted;
        let is_reported = match kind(stat) {
            FileType::Directory => is_vouched && known.is_watched,
            _ => is_name_reported && has_one_name(stat),
        };
        Belief { name: lasting(is_name_reported), attributes: lasting(is_reported) }
    }

    /// Attributes of a node, looked at by its name since `epoch`.
    pub(super) fn belief_in_node(&self, found: &Found, stat: &Statx, epoch: u64) -> Duration {
        let is_reported = found.watched == Watched::Yes
            && self.watcher.vouches(epoch)
            && match (&found.way, found.kind) {
                (_, FileType::Directory) => true,
                // Wherever the file is now, it is no longer where it was watched.
                (Way::Held(_) | Way::Lost, _) => false,
                (Way::Named(..), _) => has_one_name(stat),
            };
        lasting(is_reported)
    }
}

impl Server {
    /// Attributes as they are told when they are to be believed for so long.
    ///
    /// What is said to be read without being opened is opened here, when it is first read. For files that is what
    /// nobody else changes unnoticed, and no more of it than may be read at once: data costs more than the opening of a
    /// larger file, which then is sure to stay the same one. The guest's kernel reads the beginning as part of opening,
    /// and looks the name up again if the file is gone from it ([`pursuit`](super::pursuit)). Should somebody replace a
    /// file while the guest is between two reads of it, and should it not be kept open any longer, the guest gets
    /// ESTALE; and EACCES if it has taken the right to read it from itself.
    pub(super) fn attr(&self, export: &Export, stat: &Statx, valid: Duration) -> Attr {
        let mut attr = export.attr(stat);
        let is_kept_true = match kind(stat) {
            FileType::Directory => true,
            FileType::RegularFile => valid > MOMENT && stat.stx_size <= MAX_UNOPENED,
            _ => false,
        };
        if is_kept_true && self.has_no_open() && export.is_readable(stat) {
            attr.flags |= wire::ATTR_NO_OPEN;
        }
        attr
    }
}

/// What is done to a file under another name may go unseen.
fn has_one_name(stat: &Statx) -> bool {
    stat.stx_nlink == 1
}

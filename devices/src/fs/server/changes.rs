//! What others change in the shares, put so that the guest's kernel understands it.

use std::collections::HashSet;
use std::ffi::CStr;
use std::sync::atomic::Ordering;

use nix::sys::fanotify::MaskFlags;
use rustix::io::Errno;

use super::Server;
use super::export::stat_at;
use super::reach::Parent;
use crate::fs::notice::Notice;
use crate::fs::watch::{Report, Spot};

/// Events that change which names a directory has.
const OF_NAMES: MaskFlags =
    MaskFlags::FAN_CREATE.union(MaskFlags::FAN_DELETE).union(MaskFlags::FAN_MOVED_FROM).union(MaskFlags::FAN_MOVED_TO);
/// Events after which other contents may be behind a name. The end of writing is one: only then is it known what was
/// written through a mapping.
const OF_CONTENTS: MaskFlags = MaskFlags::FAN_MODIFY.union(MaskFlags::FAN_CLOSE_WRITE).union(OF_NAMES);

/// What inotify tells of, in the order in which it may have happened.
const ORDER: [MaskFlags; 7] = [
    MaskFlags::FAN_CREATE,
    MaskFlags::FAN_MOVED_TO,
    MaskFlags::FAN_MODIFY,
    MaskFlags::FAN_ATTRIB,
    MaskFlags::FAN_CLOSE_WRITE,
    MaskFlags::FAN_MOVED_FROM,
    MaskFlags::FAN_DELETE,
];

/// `IN_ISDIR`, which is also fanotify's flag for directories.
const IS_DIRECTORY: u32 = 0x4000_0000;

/// Messages in the order they go out: what is out of date first, so that whoever hears of an event sees what it is
/// about.
#[derive(Debug, Default)]
struct Told {
    seen: HashSet<Notice>,
    stale: Vec<Notice>,
    events: Vec<Notice>,
}

impl Told {
    fn stale(&mut self, notice: Notice) {
        if self.seen.insert(notice.clone()) {
            self.stale.push(notice);
        }
    }

    fn event(&mut self, spot: &Spot, mask: MaskFlags, is_directory: bool, cookie: u32) {
        // The numbers are those of inotify.
        let mask = u32::try_from(mask.bits()).unwrap_or_default() | if is_directory { IS_DIRECTORY } else { 0 };
        self.events.push(Notice::Event { parent: spot.directory, name: spot.name.clone(), mask, cookie });
    }
}

impl Server {
    /// The watcher, for the worker that listens to it.
    pub(in crate::fs) fn watcher(&self) -> &crate::fs::watch::Watcher {
        &self.watcher
    }

    /// What to tell the guest about the changes reported since the last time.
    pub(in crate::fs) fn take_changes(&self) -> Vec<Notice> {
        let mut told = Told::default();
        let reports = self.watcher.take();
        // Directories first: what is reported of one that has moved since is looked for where it is now.
        for report in &reports {
            if let Report::Moved { to: Some(to), is_directory: true, .. } = report {
                self.note_move(to);
            }
        }
        for report in reports {
            match report {
                Report::Lost => told.stale(Notice::Everything),
                Report::At(spot, mask) => self.tell_change(&mut told, &spot, mask),
                Report::Moved { from, to, is_directory } => {
                    // Both ends have the same number, and no other move has it soon.
                    let cookie = self.moves.fetch_add(1, Ordering::Relaxed);
                    let ends = [(from, MaskFlags::FAN_MOVED_FROM), (to, MaskFlags::FAN_MOVED_TO)];
                    for (spot, mask) in ends.into_iter().filter_map(|(spot, mask)| Some((spot?, mask))) {
                        if self.tell_stale(&mut told, &spot, mask) {
                            told.event(&spot, mask, is_directory, cookie);
                        }
                    }
                }
            }
        }
        told.stale.append(&mut told.events);
        told.stale
    }

    fn tell_change(&self, told: &mut Told, spot: &Spot, mask: MaskFlags) {
        if !self.tell_stale(told, spot, mask) {
            return;
        }
        let is_directory = mask.contains(MaskFlags::FAN_ONDIR);
        for event in ORDER.into_iter().filter(|event| mask.contains(*event)) {
            // Moves in halves (from an old kernel) have no number.
            told.event(spot, event, is_directory, 0);
        }
    }

    /// Tells what is out of date after something happened at a spot. False if the guest is not to know of it.
    fn tell_stale(&self, told: &mut Told, spot: &Spot, mask: MaskFlags) -> bool {
        let Ok(parent) = self.directory(spot.directory) else { return self.tell_unreachable(told, spot) };
        if spot.name.as_c_str() == c"." {
            // The directory above tells the programs in the guest that watch it.
            told.stale(Notice::Node { node: parent.id, contents: false });
            return false;
        }
        let Ok(child) = self.changed_entry(&parent, &spot.name, mask.contains(MaskFlags::FAN_MOVED_TO)) else {
            return false;
        };
        if mask.intersects(OF_NAMES) {
            told.stale(Notice::Entry { parent: parent.id, name: spot.name.clone() });
            // Its time stamps and its listing.
            told.stale(Notice::Node { node: parent.id, contents: true });
        }
        if let Some(node) = child {
            told.stale(Notice::Node { node, contents: mask.intersects(OF_CONTENTS) });
        }
        true
    }

    /// Of a directory that is gone, or where nobody watches, only names can be told: they are looked up again, and with
    /// them what they stand for. A directory the guest has forgotten is nothing to it.
    fn tell_unreachable(&self, told: &mut Told, spot: &Spot) -> bool {
        let Ok(found) = self.nodes.find(spot.directory) else { return false };
        let is_hidden =
            self.export(&found.identity).is_ok_and(|export| export.named(found.position, &spot.name).is_hidden());
        told.stale(Notice::Node { node: spot.directory, contents: true });
        if spot.name.as_c_str() == c"." || is_hidden {
            return false;
        }
        told.stale(Notice::Entry { parent: spot.directory, name: spot.name.clone() });
        true
    }

    /// Notes where a directory is now.
    fn note_move(&self, to: &Spot) {
        if let Ok(parent) = self.directory(to.directory) {
            // Hidden or gone again, it is nowhere.
            let _ = self.changed_entry(&parent, &to.name, true);
        }
    }

    /// The node at a name, if the guest knows the file that is there now; an error if the name is hidden.
    fn changed_entry(&self, parent: &Parent<'_>, name: &CStr, has_moved: bool) -> Result<Option<u64>, Errno> {
        if parent.export.named(parent.position, name).is_hidden() {
            return Err(Errno::NOENT);
        }
        let Ok(stat) = stat_at(&parent.fd, name) else { return Ok(None) };
        let position = parent.export.everywhere(parent.position, name, &stat);
        if position.is_hidden() {
            return Err(Errno::NOENT);
        }
        let identity = parent.export.identity(&stat);
        if has_moved {
            self.nodes.moved(&identity, (parent.id, name), position);
        }
        Ok(self.nodes.known(&identity))
    }

    /// Takes all marks away when too many are of no use; what the guest was told is then out of date.
    pub(in crate::fs) fn sweep(&self) -> Option<Notice> {
        if !self.watcher.is_littered(self.nodes.unwatched()) {
            return None;
        }
        self.watcher.clear(|| self.nodes.unwatch_all());
        Some(Notice::Everything)
    }
}

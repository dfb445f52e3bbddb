//! Files that others replace faster than the guest opens them.
//!
//! A guest that is told that a file is gone from its name (ESTALE) looks the name up once more, and gives up if that
//! file is gone, too. So what it finds is opened before it is told of it: whatever becomes of the name then, the file
//! is there to be read. The same goes for a file that became empty a moment ago: somebody is about to write it, and the
//! guest's kernel, which reads the beginning of others when it opens them, has nothing to read of it yet.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{FileType, OFlags, Statx};
use rustix::io::Errno;
use rustix::time::{ClockId, clock_gettime};

use super::export::{kind, stat_at};
use super::reach::Parent;
use super::{Answer, Server};
use crate::fs::handle::UNOPENED;
use crate::fs::name::Name;
use crate::fs::wire::EntryOut;

/// How soon after the answer the guest looks the name up, be it emulated and on a busy machine; and how soon what is
/// empty is written.
const SOON: Duration = Duration::from_secs(1);

/// When the guest was last told that a file is gone from its name.
#[derive(Debug, Default)]
pub(super) struct Pursuit {
    since: Mutex<Option<Instant>>,
}

impl Pursuit {
    /// The guest is told so.
    pub(super) fn begin(&self) {
        *self.since.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    fn goes_on(&self) -> bool {
        let mut since = self.since.lock().unwrap_or_else(PoisonError::into_inner);
        *since = since.filter(|since| since.elapsed() < SOON);
        since.is_some()
    }
}

impl Server {
    /// The entry of a directory, as [`Server::remember`] has it. A file is held open if the guest is after it.
    pub(super) fn find_entry(&self, parent: &Parent<'_>, name: Name<'_>) -> Result<EntryOut, Errno> {
        if !self.pursuit.goes_on() {
            let stat = stat_at(&parent.fd, name.as_c_str())?;
            if !self.is_held_empty(&stat) {
                return self.remember(parent, name, &stat);
            }
        }
        let (path, stat) = self.open_name(&parent.fd, name.as_c_str())?;
        let entry = self.remember(parent, name, &stat)?;
        if kind(&stat) == FileType::RegularFile
            && self.implicit.file(entry.nodeid).is_none()
            && let Ok(file) = self.open_contents(FileType::RegularFile, &path, OFlags::RDONLY)
        {
            self.implicit.add_file(entry.nodeid, file);
        }
        Ok(entry)
    }

    /// Holds a node's file, as it was found by its name, if it is to be written. An error if another one is there now.
    pub(super) fn hold_empty(&self, node: u64, stat: &Statx) -> Answer {
        if !self.is_held_empty(stat) {
            return Ok(());
        }
        match self.open_file(UNOPENED, node) {
            Err(Errno::STALE) => Err(Errno::STALE),
            // Whoever may not read it need not have it.
            _ => Ok(()),
        }
    }

    /// A file that has only just become empty, if the guest's kernel would read it without opening it.
    fn is_held_empty(&self, stat: &Statx) -> bool {
        let soon = i64::try_from(SOON.as_secs()).unwrap_or(i64::MAX);
        kind(stat) == FileType::RegularFile
            && stat.stx_size == 0
            && self.has_no_open()
            && stat.stx_ctime.tv_sec.saturating_add(soon) >= clock_gettime(ClockId::Realtime).tv_sec
    }
}

//! Hearing from the host's kernel what changes in directories the guest knows.
//!
//! Each directory the guest looks into gets a mark of a fanotify group; from then on its changes, and those of files in
//! it, arrive as [`Report`]s, and the guest may believe what it was told for as long as it likes. What no mark could be
//! had for (another machine's files, too many directories, a file system or kernel that reports nothing of use) goes on
//! being believed for a moment only. Works without privileges; changes made by this process are its guest's own and are
//! left out.
//!
//! A mark comes *before* the look that it makes lasting, and [`Watcher::epoch`] is asked before that look, too: whoever
//! answers then with [`Watcher::vouches`] either lies ahead of the report of any change since, or hears of it.
//!
//! Not reported by any kernel: what is written into a mapping of a file, until the mapping ends; what is written under
//! another name of the same file in a directory without a mark (files with several names are therefore never vouched
//! for); and file systems mounted over an entry later.

mod pace;
mod report;

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::sys::fanotify::{EventFFlags, Fanotify, InitFlags, MarkFlags, MaskFlags};
use rustix::fs::fstatvfs;
use rustix::io::Errno;

pub(super) use self::pace::{CHANGED, Pace, RESTED};
use self::report::Record;
pub(super) use self::report::{Report, Spot};

/// `FAN_REPORT_DFID_NAME`: events tell the directory and the name (Linux 5.9, without privileges 5.13).
const REPORT_NAMES: InitFlags = InitFlags::from_bits_retain(0x400 | 0x800);

/// Directories watched at most; each pins an inode in the host kernel's memory, about 1.5 KiB.
const MAX_MARKS: usize = 1 << 17;
/// Share of the user's marks one VM takes at most.
const MARKS_PART: usize = 2;
/// Marks of directories the guest has forgotten that are put up with before all are taken away.
const MAX_IDLE: usize = 4096;

/// Reports of unknown directories after which nothing is believed any longer.
const MAX_STRANGE: usize = 64;

/// Bytes of events read at once, and how often in a row.
const BATCH: usize = 64 << 10;
const MAX_BATCHES: usize = 4;

/// Watchers in this process. With several, what this process changed may be another guest's doing.
pub(super) static WATCHERS: AtomicUsize = AtomicUsize::new(0);

/// What is reported of a directory and what is in it.
const CHANGES: MaskFlags = MaskFlags::FAN_MODIFY
    .union(MaskFlags::FAN_CLOSE_WRITE)
    .union(MaskFlags::FAN_ATTRIB)
    .union(MaskFlags::FAN_CREATE)
    .union(MaskFlags::FAN_DELETE)
    .union(MaskFlags::FAN_EVENT_ON_CHILD)
    .union(MaskFlags::FAN_ONDIR);

/// The kernel's name of a directory: its file system, and the kind and bytes of its handle.
pub(super) type Key = (u64, i32, Box<[u8]>);

/// Which directories are watched.
#[derive(Debug)]
pub(super) struct Watcher {
    group: Option<Fanotify>,
    marks: Mutex<Marks>,
    /// Counts the times that reports were taken.
    epoch: AtomicU64,
    /// Somebody tells the guest.
    is_heard: AtomicBool,
    /// Reports make sense.
    is_reliable: AtomicBool,
    limit: usize,
    process: i32,
    /// How many there are.
    watchers: &'static AtomicUsize,
}

#[derive(Debug, Default)]
struct Marks {
    nodes: HashMap<Key, u64>,
    /// Identifiers of file systems by device; nothing for those whose changes are not all made on this machine.
    systems: HashMap<u64, Option<u64>>,
    /// The kernel knows no event for both ends of a move (before Linux 5.17).
    moves_in_halves: bool,
    /// Reports of directories that are not known. After all marks were taken away, a few may be on their way.
    strange: usize,
}

impl Watcher {
    /// One of the `watchers` of this process.
    pub(super) fn new(watchers: &'static AtomicUsize) -> Self {
        watchers.fetch_add(1, Ordering::Relaxed);
        let flags = InitFlags::FAN_CLASS_NOTIF | InitFlags::FAN_CLOEXEC | InitFlags::FAN_NONBLOCK | REPORT_NAMES;
        let group = Fanotify::init(flags, EventFFlags::O_RDONLY)
            .inspect_err(|error| tracing::info!(%error, "Changes on the host are seen by the guest after a second"))
            .ok();
        Self {
            group,
            marks: Mutex::default(),
            epoch: AtomicU64::new(0),
            is_heard: AtomicBool::new(false),
            is_reliable: AtomicBool::new(true),
            limit: marks_of_the_user().map_or(MAX_MARKS, |marks| (marks / MARKS_PART).min(MAX_MARKS)),
            process: i32::try_from(std::process::id()).unwrap_or_default(),
            watchers,
        }
    }

    /// Ready when something was reported.
    pub(super) fn bell(&self) -> Option<BorrowedFd<'_>> {
        self.group.as_ref().map(AsFd::as_fd)
    }

    /// Whether anybody tells the guest what is reported.
    pub(super) fn set_heard(&self, is_heard: bool) {
        self.is_heard.store(is_heard, Ordering::Release);
    }

    /// Whether there is any use in watching.
    pub(super) fn is_heard(&self) -> bool {
        self.is_heard.load(Ordering::Acquire)
    }

    /// To be asked before a look at a file whose result the guest is to believe.
    pub(super) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Whether a look at something watched, begun in this epoch and noted since, will be taken back when it is out of
    /// date.
    pub(super) fn vouches(&self, epoch: u64) -> bool {
        self.is_heard() && self.epoch() == epoch && self.is_reliable.load(Ordering::Acquire)
    }

    fn marks(&self) -> MutexGuard<'_, Marks> {
        // Nothing panics half-way through a change.
        self.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Watches a directory; `note` is called before anybody can take the mark away again. False if that cannot be.
    ///
    /// `is_remote` tells whether a directory's file system changes without this machine's kernel.
    pub(super) fn mark(
        &self,
        node: u64,
        device: u64,
        directory: &OwnedFd,
        is_remote: impl Fn(&OwnedFd) -> Result<bool, Errno>,
        note: impl FnOnce(),
    ) -> bool {
        let Some(group) = &self.group else { return false };
        let known = self.marks().systems.get(&device).copied();
        let system = match known {
            Some(system) => system,
            None => {
                let system = identify(directory, is_remote).ok().flatten();
                self.marks().systems.insert(device, system);
                system
            }
        };
        let (Some(system), Ok((kind, handle))) = (system, virtio::file_handle(directory.as_fd())) else { return false };
        let key = (system, kind, handle);
        let mut marks = self.marks();
        if marks.is_unreliable() || marks.nodes.len() >= self.limit {
            return false;
        }
        // Known before the first report can come.
        let before = marks.nodes.insert(key.clone(), node);
        let result = marks.mark(group, directory);
        match result {
            Ok(()) => note(),
            Err(error) => {
                tracing::debug!(%error, "A shared directory cannot be watched");
                match before {
                    Some(before) => marks.nodes.insert(key, before),
                    None => marks.nodes.remove(&key),
                };
            }
        }
        result.is_ok()
    }

    /// What was reported since the last time.
    pub(super) fn take(&self) -> Vec<Report> {
        let Some(group) = &self.group else { return Vec::new() };
        let mut reports = Vec::new();
        let mut buffer = vec![0; BATCH];
        for _ in 0..MAX_BATCHES {
            // Non-blocking: there may be nothing.
            let Ok(length) = rustix::io::read(group, &mut buffer) else { break };
            let records = Record::all(buffer.get(..length).unwrap_or_default());
            let mut marks = self.marks();
            for record in records {
                if !self.is_own(&record) {
                    reports.extend(marks.understand(record));
                }
            }
            self.is_reliable.store(!marks.is_unreliable(), Ordering::Release);
        }
        if !reports.is_empty() {
            self.epoch.fetch_add(1, Ordering::AcqRel);
        }
        reports
    }

    /// Without privileges, others' events come without a process.
    fn is_own(&self, record: &Record) -> bool {
        record.process == self.process && !record.is_overflow() && self.watchers.load(Ordering::Relaxed) == 1
    }

    /// Whether so many watched directories have been forgotten that it is time for a new beginning.
    pub(super) fn is_littered(&self, forgotten: usize) -> bool {
        forgotten > MAX_IDLE && forgotten > self.marks().nodes.len() / 2
    }

    /// Takes all marks away; `note` is called before there can be new ones. What the guest was told is not vouched for
    /// any longer.
    pub(super) fn clear(&self, note: impl FnOnce()) {
        let mut marks = self.marks();
        self.epoch.fetch_add(1, Ordering::AcqRel);
        if let Some(group) = &self.group {
            // Cannot fail on a group of our own.
            let _ = group.mark::<_, Path>(MarkFlags::FAN_MARK_FLUSH, MaskFlags::empty(), group, None);
        }
        marks.nodes.clear();
        note();
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.watchers.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Marks {
    fn mark(&mut self, group: &Fanotify, directory: &OwnedFd) -> nix::Result<()> {
        let add = |moves| group.mark(MarkFlags::FAN_MARK_ADD, CHANGES | moves, directory, Some(c"."));
        let halves = MaskFlags::FAN_MOVED_FROM | MaskFlags::FAN_MOVED_TO;
        if self.moves_in_halves {
            return add(halves);
        }
        match add(MaskFlags::FAN_RENAME) {
            Err(nix::Error::EINVAL) => add(halves).inspect(|()| self.moves_in_halves = true),
            result => result,
        }
    }

    /// What a record means. Every directory is known before it is marked; a file system that names directories in a way
    /// of its own cannot be relied on.
    fn understand(&mut self, record: Record) -> Option<Report> {
        if self.is_unreliable() {
            return None;
        }
        if record.is_overflow() {
            return Some(Report::Lost);
        }
        let report = record.report(|key| self.nodes.get(key).copied());
        if report.is_none() {
            self.strange += 1;
            if self.is_unreliable() {
                tracing::info!(
                    "Changes on the host are reported in an unknown way; the guest sees them after a second"
                );
            }
        }
        Some(report.unwrap_or(Report::Lost))
    }

    fn is_unreliable(&self) -> bool {
        self.strange > MAX_STRANGE
    }
}

/// A file system's identifier; nothing if not all its changes are made on this machine.
fn identify(directory: &OwnedFd, is_remote: impl Fn(&OwnedFd) -> Result<bool, Errno>) -> Result<Option<u64>, Errno> {
    if is_remote(directory)? { Ok(None) } else { Ok(Some(fstatvfs(directory)?.f_fsid)) }
}

fn marks_of_the_user() -> io::Result<usize> {
    let text = fs::read_to_string("/proc/sys/fs/fanotify/max_user_marks")?;
    text.trim().parse().map_err(io::Error::other)
}

#[cfg(test)]
mod tests;

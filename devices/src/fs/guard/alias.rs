//! Files in guarded places that have further names elsewhere.
//!
//! A file with several hard links can be reached by a name no rule mentions. Whether one of its links lies in a guarded
//! place only a look into all of them tells; that is done when a file with several links comes up, and again after a
//! while, as the host's user may make links at any time.

use std::collections::HashMap;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{FileType, OFlags, RawDir, Statx};

use super::known::open;
use super::{File, Guarded, Rule, is_regular};
use crate::fs::server::{stat, stat_at};

/// A look is believed for this long, or for so many times as long as it took.
const FRESH: Duration = Duration::from_secs(1);
const TIMES: u32 = 20;
/// Entries looked at. Where more are guarded, every file with several links counts as one of them.
const MAX_ENTRIES: usize = 200_000;
const BATCH: usize = 16 << 10;

/// Rules by file, as they were a moment ago.
#[derive(Debug)]
pub(super) struct Aliases {
    root: Arc<OwnedFd>,
    guarded: Vec<Guarded>,
    seen: Mutex<Option<Look>>,
}

#[derive(Debug)]
struct Look {
    files: HashMap<File, Rule>,
    /// For files that are not among them.
    others: Option<Rule>,
    entries: usize,
    stale_from: Instant,
}

impl Aliases {
    pub(super) fn new(root: Arc<OwnedFd>, guarded: Vec<Guarded>) -> Self {
        Self { root, guarded, seen: Mutex::default() }
    }

    pub(super) fn guarded(&self) -> &[Guarded] {
        &self.guarded
    }

    pub(super) fn is_there(&self, path: &Path) -> bool {
        path.as_os_str().is_empty() || open(&self.root, path, OFlags::PATH).is_some()
    }

    pub(super) fn rule(&self, stat: &Statx) -> Option<Rule> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let look = match seen.take() {
            Some(look) if Instant::now() < look.stale_from => look,
            _ => self.look(),
        };
        seen.insert(look).rule(stat)
    }

    fn look(&self) -> Look {
        let begun = Instant::now();
        let mut look = Look { files: HashMap::new(), others: None, entries: 0, stale_from: begun };
        for Guarded { path, rule } in &self.guarded {
            look.add_place(&self.root, path.clone(), *rule);
        }
        let now = Instant::now();
        look.stale_from = now + FRESH.max((now - begun) * TIMES);
        look
    }
}

impl Look {
    fn rule(&self, stat: &Statx) -> Option<Rule> {
        self.files.get(&File::of(stat)).copied().or(self.others)
    }

    /// Adds the files at a place and below.
    fn add_place(&mut self, root: &OwnedFd, path: PathBuf, rule: Rule) {
        let place = if path.as_os_str().is_empty() { stat(root).ok() } else { None };
        let place = place.or_else(|| stat(&open(root, &path, OFlags::PATH)?).ok());
        if let Some(found) = place {
            self.add_file(&found, rule);
        }
        let mut left = vec![path];
        while let Some(path) = left.pop() {
            if let Some(directory) = open(root, &path, OFlags::RDONLY | OFlags::DIRECTORY) {
                let mut buffer = [MaybeUninit::uninit(); BATCH];
                let mut entries = RawDir::new(&directory, &mut buffer);
                while let Some(Ok(entry)) = entries.next() {
                    self.entries += 1;
                    if self.entries > MAX_ENTRIES {
                        self.others = self.others.max(Some(rule));
                        return;
                    }
                    let name = entry.file_name();
                    match entry.file_type() {
                        _ if matches!(name.to_bytes(), b"." | b"..") => {}
                        FileType::Directory => left.push(path.join(std::ffi::OsStr::from_bytes(name.to_bytes()))),
                        FileType::RegularFile | FileType::Unknown => {
                            if let Ok(found) = stat_at(&directory, name) {
                                self.add_file(&found, rule);
                            }
                        }
                        _ => {}
                    }
                }
            }
        }
    }

    fn add_file(&mut self, found: &Statx, rule: Rule) {
        if found.stx_nlink > 1 && is_regular(found) {
            let known = self.files.entry(File::of(found)).or_insert(rule);
            *known = rule.max(*known);
        }
    }
}

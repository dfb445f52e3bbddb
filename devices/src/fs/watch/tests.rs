use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, openat};

use super::*;

fn open(path: &Path) -> OwnedFd {
    openat(CWD, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap()
}

/// A watcher that does not tell this process from others.
fn watcher() -> Watcher {
    let watcher = Watcher::new(Box::leak(Box::new(AtomicUsize::new(1))));
    watcher.set_heard(true);
    watcher
}

fn mark(watcher: &Watcher, node: u64, path: &Path) -> bool {
    watcher.mark(node, 0, &open(path), |_| Ok(false), || ())
}

fn at(directory: u64, name: &str) -> Spot {
    Spot { directory, name: std::ffi::CString::new(name).unwrap() }
}

#[test]
fn changes_are_reported_by_directory_and_name() {
    let [one, two] = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let watcher = watcher();
    assert!(mark(&watcher, 1, one.path()) && mark(&watcher, 2, two.path()));
    fs::create_dir(one.path().join("folder")).unwrap();
    fs::rename(one.path().join("folder"), two.path().join("moved")).unwrap();
    let created = Report::At(at(1, "folder"), MaskFlags::FAN_CREATE | MaskFlags::FAN_ONDIR);
    let moved = Report::Moved { from: Some(at(1, "folder")), to: Some(at(2, "moved")), is_directory: true };
    assert_eq!(watcher.take(), [created, moved]);
    assert_eq!(watcher.take(), []);
}

#[test]
fn looks_from_before_a_report_are_not_vouched_for() {
    let folder = tempfile::tempdir().unwrap();
    let watcher = watcher();
    mark(&watcher, 1, folder.path());
    let before = watcher.epoch();
    fs::write(folder.path().join("file"), b"").unwrap();
    assert!(watcher.vouches(before), "the report is still to come");
    watcher.take();
    assert!(!watcher.vouches(before));
    assert!(watcher.vouches(watcher.epoch()));
    watcher.set_heard(false);
    assert!(!watcher.vouches(watcher.epoch()));
}

#[test]
fn cleared_watcher_reports_nothing_and_vouches_for_nothing_old() {
    let folder = tempfile::tempdir().unwrap();
    let watcher = watcher();
    mark(&watcher, 1, folder.path());
    let before = watcher.epoch();
    watcher.clear(|| ());
    fs::write(folder.path().join("file"), b"").unwrap();
    assert_eq!(watcher.take(), []);
    assert!(!watcher.vouches(before));
    assert!(mark(&watcher, 2, folder.path()));
}

#[test]
fn other_machines_directories_are_not_watched() {
    let folder = tempfile::tempdir().unwrap();
    let watcher = watcher();
    assert!(!watcher.mark(1, 0, &open(folder.path()), |_| Ok(true), || panic!("marked")));
}

#[test]
fn watched_directories_are_bounded() {
    let folders: Vec<_> = (0..3).map(|_| tempfile::tempdir().unwrap()).collect();
    let mut watcher = watcher();
    watcher.limit = 2;
    let marked: Vec<_> = (1..).zip(&folders).map(|(node, folder)| mark(&watcher, node, folder.path())).collect();
    assert_eq!(marked, [true, true, false]);
}

#[test]
fn reports_that_make_no_sense_end_all_trust() {
    let folder = tempfile::tempdir().unwrap();
    let watcher = watcher();
    mark(&watcher, 1, folder.path());
    watcher.marks().nodes.clear();
    for index in 0..=MAX_STRANGE {
        fs::create_dir(folder.path().join(index.to_string())).unwrap();
    }
    assert!(watcher.take().iter().all(|report| *report == Report::Lost));
    assert!(!watcher.vouches(watcher.epoch()));
    assert!(!mark(&watcher, 1, folder.path()));
}

#[test]
fn forgotten_directories_are_put_up_with_up_to_a_point() {
    let watcher = watcher();
    assert!(!watcher.is_littered(MAX_IDLE));
    assert!(watcher.is_littered(MAX_IDLE + 1));
}

//! Requests that take long: they hold up only themselves, can be called off while they wait, and keep nothing from
//! ending.
//!
//! Without the right to mount, as CI outside of containers may run, the share that stops answering cannot be had, and
//! these tests check nothing.

use std::time::{Duration, Instant};

use rustix::io::{Errno, ReadWriteFlags, preadv2};
use zerocopy::{FromBytes, IntoBytes};

use super::busy::Busy;
use super::guest::{SHARE, libc_flags};
use super::remote::{FILE, Fate, Remote};
use crate::fs::wire::{FsyncIn, GetattrIn, ROOT, ReleaseIn, WriteIn, WriteOut, opcode};
use crate::fs::{Access, Share};

/// Node of the root of the share that may hang.
const REMOTE: u64 = SHARE + 1;
/// Requests of one share that are served at the same time.
const AT_ONCE: usize = 4;
/// How long a VM may take to end.
const END: Duration = Duration::from_secs(5);

/// A guest with a local share and one on a machine that may stop answering.
fn guest() -> Option<(Busy, Remote)> {
    let (remote, away) = Remote::share()?;
    let host = tempfile::tempdir().unwrap();
    let root = host.path().join("0");
    std::fs::create_dir(&root).unwrap();
    let here = Share::open(&root, Access::ReadWrite).unwrap();
    Some((Busy::serving(vec![here, away], host), remote))
}

impl Busy {
    fn post_getattr(&mut self, node: u64) -> u64 {
        self.post(opcode::GETATTR, node, &[GetattrIn::default().as_bytes()])
    }

    fn post_write(&mut self, node: u64, fh: u64) -> u64 {
        let asked = WriteIn { fh, size: 4, ..WriteIn::default() };
        self.post(opcode::WRITE, node, &[asked.as_bytes(), b"data"])
    }

    fn post_fsync(&mut self, node: u64, fh: u64) -> u64 {
        self.post(opcode::FSYNC, node, &[FsyncIn { fh, ..FsyncIn::default() }.as_bytes()])
    }

    /// The file of the share that may hang, open for writing.
    fn open_remote(&mut self) -> (u64, u64) {
        let node = self.lookup(REMOTE, FILE).unwrap().nodeid;
        (node, self.open(node, libc_flags::RDWR).unwrap().fh)
    }
}

#[test]
fn quick_requests_are_not_handed_over() {
    let mut guest = Busy::with_access(&[Access::ReadWrite; 2]);
    let (file, fh) = guest.create(SHARE, b"file", 0o644).unwrap();
    guest.write(file.nodeid, fh, 0, b"data").unwrap();
    guest.read(file.nodeid, fh, 0, 4096).unwrap();
    guest.getattr(file.nodeid).unwrap();
    guest.lookup(ROOT, b"1").unwrap();
    let directory = guest.opendir(SHARE).unwrap();
    guest.readdirplus(SHARE, directory, 0).unwrap();
    guest.rename((SHARE, b"file"), (SHARE, b"other"), 0).unwrap();
    guest.unlink(SHARE, b"other").unwrap();
    assert_eq!(guest.handed_over(), 0);
    guest.fsync(file.nodeid, fh, false).unwrap();
    assert_eq!(guest.handed_over(), 1);
}

#[test]
fn large_read_is_handed_over_only_if_the_host_has_to_fetch_the_data() {
    const SIZE: usize = 600 << 10;
    let mut guest = Busy::with_access(&[Access::ReadOnly]);
    let contents: Vec<u8> = (0..251).cycle().take(SIZE).collect();
    std::fs::write(guest.path("file"), &contents).unwrap();
    let node = guest.lookup(SHARE, b"file").unwrap().nodeid;
    let fh = guest.open(node, libc_flags::RDONLY).unwrap().fh;
    let host = std::fs::File::open(guest.path("file")).unwrap();
    let mut bytes = vec![0; SIZE];
    let buffers = &mut [std::io::IoSliceMut::new(&mut bytes)];
    // Some file systems cannot tell.
    let is_in_memory = preadv2(&host, buffers, 0, ReadWriteFlags::NOWAIT) == Ok(SIZE);
    let read = |guest: &mut Busy, from: usize, size: u32| guest.read(node, fh, from as u64, size).unwrap();
    assert_eq!(read(&mut guest, 1, 512 << 10), contents[1..=512 << 10]);
    assert_eq!(read(&mut guest, 100 << 10, 1 << 20), contents[100 << 10..], "up to the end of the file");
    assert_eq!(read(&mut guest, SIZE, 1 << 20), b"");
    assert_eq!(guest.handed_over(), if is_in_memory { 0 } else { 3 });
}

#[test]
fn share_that_hangs_leaves_the_others_alone() {
    let Some((mut guest, remote)) = guest() else { return };
    let (away, away_fh) = guest.open_remote();
    remote.hang();
    // More than there are threads, and of all kinds.
    let mut hanging: Vec<_> = (0..2 * AT_ONCE).map(|_| guest.post_getattr(REMOTE)).collect();
    hanging.push(guest.post_write(away, away_fh));
    hanging.push(guest.post_fsync(away, away_fh));
    hanging.extend((0..AT_ONCE).map(|_| guest.post(opcode::LOOKUP, ROOT, &[b"1\0"])));
    hanging.push(guest.post(opcode::SYNCFS, ROOT, &[]));
    remote.await_hanging(AT_ONCE);
    let (file, fh) = guest.create(SHARE, b"file", 0o644).unwrap();
    guest.lookup(ROOT, b"0").unwrap();
    assert_eq!(guest.write(file.nodeid, fh, 0, b"data"), Ok(4));
    guest.fsync(file.nodeid, fh, false).unwrap();
    guest.call(opcode::SYNCFS, SHARE, &[]).unwrap();
    assert!(!hanging.iter().any(|number| guest.is_answered(*number)));
    remote.recover();
    for number in hanging {
        guest.answer_to(number).unwrap();
    }
}

#[test]
fn request_that_waits_is_called_off_and_one_that_is_served_ends() {
    let Some((mut guest, remote)) = guest() else { return };
    let (node, fh) = guest.open_remote();
    remote.decide(opcode::WRITE, Fate::Hang);
    let before = guest.handed_over();
    let served: Vec<_> = (0..AT_ONCE).map(|_| guest.post_write(node, fh)).collect();
    let waiting = guest.post_write(node, fh);
    // Writes to one file follow each other on the host; all threads are busy with them nevertheless.
    remote.await_hanging(1);
    guest.await_handed_over(before + 5);
    guest.interrupt(waiting);
    assert_eq!(guest.answer_to(waiting), Err(Errno::INTR));
    guest.interrupt(waiting);
    guest.interrupt(served[0]);
    assert!(!guest.is_answered(served[0]));
    remote.recover();
    for number in served {
        let answer = guest.answer_to(number).unwrap();
        assert_eq!(WriteOut::read_from_bytes(&answer).unwrap().size, 4);
    }
    assert_eq!(remote.count(opcode::WRITE), AT_ONCE, "what was called off was not done");
}

#[test]
fn closing_is_never_called_off() {
    let Some((mut guest, remote)) = guest() else { return };
    let (node, fh) = guest.open_remote();
    remote.decide(opcode::GETATTR, Fate::Hang);
    let served: Vec<_> = (0..AT_ONCE).map(|_| guest.post_getattr(REMOTE)).collect();
    remote.await_hanging(AT_ONCE);
    let before = guest.handed_over();
    let closing = guest.post(opcode::RELEASE, node, &[ReleaseIn { fh, ..ReleaseIn::default() }.as_bytes()]);
    guest.await_handed_over(before + 1);
    guest.interrupt(closing);
    remote.recover();
    guest.answer_to(closing).unwrap();
    assert_eq!(guest.read(node, fh, 0, 8), Err(Errno::BADF));
    for number in served {
        guest.answer_to(number).unwrap();
    }
}

#[test]
fn sync_that_was_not_done_is_not_acknowledged() {
    let Some((mut guest, remote)) = guest() else { return };
    let (node, fh) = guest.open_remote();
    guest.write(node, fh, 0, b"data").unwrap();
    guest.fsync(node, fh, false).unwrap();
    assert_eq!([remote.count(opcode::WRITE), remote.count(opcode::FSYNC)], [1, 1], "both have reached the host");
    remote.decide(opcode::FSYNC, Fate::Fail(Errno::IO));
    assert_eq!(guest.fsync(node, fh, false), Err(Errno::IO));
    remote.decide(opcode::FSYNC, Fate::Hang);
    let hanging = guest.post_fsync(node, fh);
    remote.await_hanging(1);
    guest.reset();
    assert!(!guest.is_answered(hanging));
}

#[test]
fn vm_ends_in_time_though_the_host_hangs() {
    let Some((mut guest, remote)) = guest() else { return };
    let (node, fh) = guest.open_remote();
    guest.write(node, fh, 0, b"data").unwrap();
    remote.hang();
    for _ in 0..2 * AT_ONCE {
        guest.post_getattr(REMOTE);
    }
    guest.post_write(node, fh);
    remote.await_hanging(AT_ONCE);
    let begun = Instant::now();
    // A driver that shuts down, and then the monitor.
    guest.reset();
    drop(guest);
    assert!(begun.elapsed() < END, "{:?}", begun.elapsed());
}

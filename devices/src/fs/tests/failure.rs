//! What goes wrong on the host: the guest hears of it in the words the host has for it, and only where it happened.

use std::process::Command;

use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use zerocopy::{FromBytes, IntoBytes};

use super::busy::Busy;
use super::guest::{Guest, SHARE, libc_flags};
use super::remote::{FILE, Fate, Remote};
use crate::fs::wire::{CreateIn, EntryOut, FallocateIn, MINOR, OpenOut, ROOT, ReleaseIn, opcode};
use crate::fs::{Access, Ownership, Share};

/// Set in a process of a test's own, in which there are few descriptors.
const FEW: &str = "VMM_TEST_FEW_DESCRIPTORS";
const DESCRIPTORS: u64 = 64;

/// A guest of a local share and this one.
fn with_share(share: Share) -> Guest {
    let host = tempfile::tempdir().unwrap();
    let root = host.path().join("0");
    std::fs::create_dir(&root).unwrap();
    let mut guest = Guest::serving(vec![Share::open(&root, Access::ReadWrite).unwrap(), share], host);
    guest.init(MINOR).unwrap();
    guest
}

/// A file system of so many bytes; nothing where this process may not mount.
fn small_disk(size: &str) -> Option<Share> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).ok()?;
    fsconfig_set_string(&context, "size", size).unwrap();
    fsconfig_create(&context).unwrap();
    let root = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty()).unwrap();
    Some(Share { root, access: Access::ReadWrite, ownership: Ownership::of_this_process(), guarded: Vec::new() })
}

#[test]
fn full_disk_is_told_and_works_again_once_there_is_room() {
    const BLOCK: [u8; 4096] = [7; 4096];
    let Some(disk) = small_disk("64k") else { return };
    let mut guest = with_share(disk);
    let root = guest.lookup(ROOT, b"1").unwrap().nodeid;
    let (file, fh) = guest.create(root, b"big", 0o644).unwrap();
    let outcomes: Vec<_> = (0..32).map(|block| guest.write(file.nodeid, fh, block * 4096, &BLOCK)).collect();
    let written = outcomes.iter().take_while(|outcome| **outcome == Ok(4096)).count();
    assert!((1..=16).contains(&written), "{outcomes:?}");
    assert!(outcomes[written..].iter().all(|outcome| *outcome == Err(Errno::NOSPC)), "{outcomes:?}");
    let space = FallocateIn { fh, length: 1 << 20, ..FallocateIn::default() };
    assert_eq!(guest.fallocate(file.nodeid, &space), Err(Errno::NOSPC));
    guest.create(SHARE, b"elsewhere", 0o644).unwrap();
    guest.unlink(root, b"big").unwrap();
    guest.release(file.nodeid, fh).unwrap();
    guest.forget(file.nodeid, 1);
    let (file, fh) = guest.create(root, b"small", 0o644).unwrap();
    assert_eq!(guest.write(file.nodeid, fh, 0, &BLOCK), Ok(4096));
}

#[test]
fn errors_of_the_host_are_told_as_they_are() {
    let Some((remote, share)) = Remote::share() else { return };
    let mut guest = with_share(share);
    let root = guest.lookup(ROOT, b"1").unwrap().nodeid;
    let node = guest.lookup(root, FILE).unwrap().nodeid;
    let fh = guest.open(node, libc_flags::RDWR).unwrap().fh;
    for error in [Errno::NOSPC, Errno::DQUOT, Errno::IO, Errno::FBIG, Errno::NOTCONN, Errno::TIMEDOUT, Errno::PERM] {
        for opcode in [opcode::WRITE, opcode::FSYNC, opcode::CREATE, opcode::MKDIR, opcode::OPEN] {
            remote.decide(opcode, Fate::Fail(error));
        }
        assert_eq!(guest.write(node, fh, 0, b"data"), Err(error));
        assert_eq!(guest.fsync(node, fh, false), Err(error));
        assert_eq!(guest.create(root, b"new", 0o644).err(), Some(error));
        assert_eq!(guest.mkdir(root, b"new").err(), Some(error));
        assert_eq!(guest.open(node, libc_flags::RDWR).err(), Some(error));
    }
    remote.recover();
    assert_eq!(guest.write(node, fh, 0, b"data"), Ok(4));
}

#[test]
fn share_whose_machine_is_gone_fails_alone() {
    let Some((remote, share)) = Remote::share() else { return };
    let mut guest = with_share(share);
    let root = guest.lookup(ROOT, b"1").unwrap().nodeid;
    let node = guest.lookup(root, FILE).unwrap().nodeid;
    let fh = guest.open(node, libc_flags::RDWR).unwrap().fh;
    drop(remote);
    assert_eq!(guest.write(node, fh, 0, b"data"), Err(Errno::NOTCONN));
    assert_eq!(guest.lookup(root, FILE).err(), Some(Errno::NOTCONN));
    assert_eq!(guest.create(root, b"new", 0o644).err(), Some(Errno::NOTCONN));
    guest.create(SHARE, b"new", 0o644).unwrap();
    assert!(guest.path("new").exists());
}

#[test]
fn share_removed_on_the_host_keeps_what_is_open() {
    let mut guest = Guest::with_access(&[Access::ReadWrite; 2]);
    let other = guest.lookup(ROOT, b"1").unwrap().nodeid;
    let (file, fh) = guest.create(SHARE, b"file", 0o644).unwrap();
    guest.write(file.nodeid, fh, 0, b"data").unwrap();
    std::fs::remove_dir_all(guest.path("")).unwrap();
    assert_eq!(guest.read(file.nodeid, fh, 0, 8), Ok(b"data".to_vec()));
    assert_eq!(guest.lookup(SHARE, b"file").unwrap().nodeid, 0, "it is not there any more");
    assert_eq!(guest.getattr(file.nodeid).unwrap().nlink, 0);
    guest.release(file.nodeid, fh).unwrap();
    assert_eq!(guest.getattr(file.nodeid).err(), Some(Errno::STALE));
    assert_eq!(guest.mkdir(SHARE, b"new").err(), Some(Errno::NOENT));
    guest.create(other, b"new", 0o644).unwrap();
}

/// Runs a test of this file in a process that may open few files.
fn with_few_descriptors(test: &str) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "--nocapture", &format!("fs::tests::failure::{test}")]).env(FEW, "1");
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn is_that_process() -> bool {
    std::env::var_os(FEW).is_some()
}

fn leave_few_descriptors() {
    setrlimit(Resource::Nofile, Rlimit { current: Some(DESCRIPTORS), ..getrlimit(Resource::Nofile) }).unwrap();
}

/// Creates a file while the test itself may have no descriptor to wait with.
fn create_in_need(guest: &mut Busy, name: &[u8]) -> Result<(EntryOut, OpenOut), Errno> {
    let asked = CreateIn { flags: libc_flags::RDWR, mode: 0o644, ..CreateIn::default() };
    let number = guest.post(opcode::CREATE, SHARE, &[asked.as_bytes(), name, b"\0"]);
    let answer = guest.answer_to(number)?;
    let (entry, rest) = EntryOut::read_from_prefix(&answer).unwrap();
    Ok((entry, OpenOut::read_from_bytes(rest).unwrap()))
}

#[test]
fn guest_that_opens_too_much_is_told_and_goes_on() {
    if !is_that_process() {
        return with_few_descriptors("guest_that_opens_too_much_is_told_and_goes_on");
    }
    let mut guest = Busy::with_access(&[Access::ReadWrite]);
    // After the server has set its own limits, which are lower: now it is the host that refuses.
    leave_few_descriptors();
    let names: Vec<_> = (0..2 * DESCRIPTORS).map(|index| index.to_string().into_bytes()).collect();
    let made: Vec<_> = names.iter().map(|name| create_in_need(&mut guest, name)).collect();
    let (open, refused): (Vec<_>, Vec<_>) = made.into_iter().partition(Result::is_ok);
    assert!(!open.is_empty());
    assert!(refused.iter().all(|refusal| refusal.as_ref().err() == Some(&Errno::NFILE)), "{refused:?}");
    let release = |opened: &OpenOut| ReleaseIn { fh: opened.fh, ..ReleaseIn::default() };
    for (entry, opened) in open.into_iter().flatten() {
        let number = guest.post(opcode::RELEASE, entry.nodeid, &[release(&opened).as_bytes()]);
        guest.answer_to(number).unwrap();
    }
    for name in &names {
        let (file, fh) = guest.create(SHARE, name, 0o644).unwrap();
        guest.release(file.nodeid, fh).unwrap();
    }
    let directory = guest.opendir(SHARE).unwrap();
    let mut listed = 0;
    let mut offset = 0;
    loop {
        let entries = guest.readdir(SHARE, directory, offset, 4096).unwrap();
        let Some((_, next)) = entries.last() else { break };
        offset = *next;
        listed += entries.len();
    }
    assert_eq!(listed, names.len() + 2);
}

#[test]
fn deep_trees_are_walked_with_few_descriptors() {
    if !is_that_process() {
        return with_few_descriptors("deep_trees_are_walked_with_few_descriptors");
    }
    leave_few_descriptors();
    let mut guest = Guest::new();
    let mut at = SHARE;
    for _ in 0..4 * DESCRIPTORS {
        at = guest.mkdir(at, b"deeper").unwrap().nodeid;
    }
    guest.create(at, b"file", 0o644).unwrap();
    assert_eq!(guest.lookup(at, b"file").unwrap().attr.size, 0);
}

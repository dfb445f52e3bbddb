//! Names: made, moved, removed, and what becomes of files the guest still holds.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};

use rustix::io::Errno;
use zerocopy::{FromBytes, IntoBytes};

use super::guest::{Guest, SHARE, libc_flags, names};
use crate::fs::Access;
use crate::fs::wire::{CreateIn, EntryOut, OpenOut, ROOT, opcode};

const NOREPLACE: u32 = 1;
const EXCHANGE: u32 = 2;

#[test]
fn shares_are_numbered_entries_of_a_root_nobody_can_write() {
    let mut guest = Guest::with_access(&[Access::ReadWrite; 3]);
    fs::write(guest.outside("2/file"), b"in the third").unwrap();
    let third = guest.lookup(ROOT, b"2").unwrap();
    assert_eq!(third.attr.mode & 0o170_000, 0o040_000);
    assert_eq!(guest.lookup(third.nodeid, b"file").unwrap().attr.size, 12);
    for absent in [&b"3"[..], b"00", b"+0", b"0x0", b"name", b"-1", b"99999999999999999999"] {
        assert_eq!(guest.lookup(ROOT, absent).err(), Some(Errno::NOENT), "{absent:?}");
    }
    assert_eq!(guest.mkdir(ROOT, b"new").err(), Some(Errno::ROFS));
    assert_eq!(guest.rmdir(ROOT, b"0").err(), Some(Errno::ROFS));
    assert_eq!(guest.rename((ROOT, b"0"), (ROOT, b"1"), 0).err(), Some(Errno::ROFS));
    assert_eq!(guest.rename((SHARE, b"a"), (ROOT, b"b"), 0).err(), Some(Errno::ROFS));
    assert_eq!(guest.getattr(ROOT).unwrap().mode, 0o040_555);
}

#[test]
fn nothing_moves_or_is_linked_from_share_to_share() {
    let mut guest = Guest::with_access(&[Access::ReadWrite; 2]);
    let other = guest.lookup(ROOT, b"1").unwrap().nodeid;
    let (file, _) = guest.create(SHARE, b"file", 0o644).unwrap();
    assert_eq!(guest.rename((SHARE, b"file"), (other, b"file"), 0).err(), Some(Errno::XDEV));
    assert_eq!(guest.link(file.nodeid, other, b"file").err(), Some(Errno::XDEV));
    assert_eq!(guest.link(ROOT, SHARE, b"root").err(), Some(Errno::XDEV));
    assert_eq!(names(&guest.path("")), ["file"]);
    assert!(names(&guest.outside("1")).is_empty());
}

#[test]
fn single_file_can_be_a_share() {
    let host = tempfile::tempdir().unwrap();
    let path = host.path().join("config");
    fs::write(&path, b"contents").unwrap();
    let share = crate::fs::Share::open(&path, Access::ReadWrite).unwrap();
    let mut guest = Guest::serving(vec![share], host);
    guest.init(41).unwrap();
    let entry = guest.lookup(ROOT, b"0").unwrap();
    assert_eq!(entry.attr.mode & 0o170_000, 0o100_000);
    let fh = guest.open(entry.nodeid, libc_flags::RDWR).unwrap().fh;
    assert_eq!(guest.read(entry.nodeid, fh, 0, 64).unwrap(), b"contents");
    guest.write(entry.nodeid, fh, 0, b"CON").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"CONtents");
    assert_eq!(guest.lookup(entry.nodeid, b"x").err(), Some(Errno::NOTDIR));
    assert_eq!(guest.create(entry.nodeid, b"x", 0o644).err(), Some(Errno::NOTDIR));
}

#[test]
fn absent_names_are_told_for_a_while() {
    let mut guest = Guest::new();
    let entry = guest.lookup(SHARE, b"absent").unwrap();
    assert_eq!((entry.nodeid, entry.entry_valid), (0, 1));
}

#[test]
fn trees_are_built_and_torn_down() {
    let mut guest = Guest::new();
    let one = guest.mkdir(SHARE, b"one").unwrap().nodeid;
    let two = guest.mkdir(one, b"two").unwrap().nodeid;
    guest.create(two, b"\xff\xfe not UTF-8 \n", 0o644).unwrap();
    guest.symlink(two, b"link", b"../../anywhere").unwrap();
    guest.mknod(two, b"fifo", 0o010_644).unwrap();
    guest.mknod(two, b"plain", 0o100_600).unwrap();
    guest.mknod(two, b"socket", 0o140_755).unwrap();
    assert_eq!(fs::read_link(guest.path("one/two/link")).unwrap().to_str(), Some("../../anywhere"));
    assert_eq!(guest.rmdir(one, b"two").err(), Some(Errno::NOTEMPTY));
    assert_eq!(guest.unlink(one, b"two").err(), Some(Errno::ISDIR));
    assert_eq!(guest.rmdir(two, b"link").err(), Some(Errno::NOTDIR));
    for name in [&b"\xff\xfe not UTF-8 \n"[..], b"link", b"fifo", b"plain", b"socket"] {
        guest.unlink(two, name).unwrap();
    }
    guest.rmdir(one, b"two").unwrap();
    guest.rmdir(SHARE, b"one").unwrap();
    assert_eq!(guest.unlink(SHARE, b"one").err(), Some(Errno::NOENT));
    assert!(names(&guest.path("")).is_empty());
}

#[test]
fn same_file_has_one_node_under_all_its_names() {
    let mut guest = Guest::new();
    let (file, _) = guest.create(SHARE, b"first", 0o644).unwrap();
    let second = guest.link(file.nodeid, SHARE, b"second").unwrap();
    assert_eq!((second.nodeid, second.attr.nlink, second.attr.ino), (file.nodeid, 2, file.attr.ino));
    guest.unlink(SHARE, b"first").unwrap();
    assert_eq!(guest.lookup(SHARE, b"second").unwrap().nodeid, file.nodeid);
    assert_eq!(guest.getattr(file.nodeid).unwrap().nlink, 1);
}

#[test]
fn nodes_follow_renames_by_the_guest() {
    let mut guest = Guest::new();
    let from = guest.mkdir(SHARE, b"from").unwrap().nodeid;
    let to = guest.mkdir(SHARE, b"to").unwrap().nodeid;
    let inner = guest.mkdir(from, b"inner").unwrap().nodeid;
    let (file, _) = guest.create(inner, b"file", 0o644).unwrap();
    guest.rename((from, b"inner"), (to, b"moved"), NOREPLACE).unwrap();
    assert_eq!(guest.getattr(file.nodeid).unwrap().ino, file.attr.ino);
    guest.open(file.nodeid, libc_flags::RDONLY).unwrap();
    guest.create(inner, b"more", 0o644).unwrap();
    assert_eq!(names(&guest.path("to/moved")), ["file", "more"]);
}

#[test]
fn rename_flags_are_honoured() {
    let mut guest = Guest::new();
    let (one, _) = guest.create(SHARE, b"one", 0o644).unwrap();
    let (two, _) = guest.create(SHARE, b"two", 0o644).unwrap();
    assert_eq!(guest.rename((SHARE, b"one"), (SHARE, b"two"), NOREPLACE).err(), Some(Errno::EXIST));
    guest.rename((SHARE, b"one"), (SHARE, b"two"), EXCHANGE).unwrap();
    assert_eq!(guest.getattr(one.nodeid).unwrap().ino, one.attr.ino);
    assert_eq!(guest.lookup(SHARE, b"one").unwrap().nodeid, two.nodeid);
    guest.call(opcode::RENAME, SHARE, &[SHARE.as_bytes(), b"one\0three\0"]).unwrap();
    assert_eq!(names(&guest.path("")), ["three", "two"]);
}

#[test]
fn file_without_a_name_stays_reachable_while_it_is_known() {
    let mut guest = Guest::new();
    let (file, fh) = guest.create(SHARE, b"file", 0o644).unwrap();
    guest.write(file.nodeid, fh, 0, b"data").unwrap();
    guest.unlink(SHARE, b"file").unwrap();
    let attr = guest.getattr(file.nodeid).unwrap();
    assert_eq!((attr.nlink, attr.size), (0, 4));
    guest.release(file.nodeid, fh).unwrap();
    let again = guest.open(file.nodeid, libc_flags::RDONLY).unwrap().fh;
    assert_eq!(guest.read(file.nodeid, again, 0, 16).unwrap(), b"data");
    guest.forget(file.nodeid, 1);
    assert_eq!(guest.getattr(file.nodeid).err(), Some(Errno::STALE));
}

#[test]
fn replaced_file_stays_reachable_while_it_is_known() {
    let mut guest = Guest::new();
    fs::write(guest.path("old"), b"old contents").unwrap();
    fs::write(guest.path("new"), b"new").unwrap();
    let old = guest.lookup(SHARE, b"old").unwrap();
    guest.rename((SHARE, b"new"), (SHARE, b"old"), 0).unwrap();
    assert_eq!(guest.getattr(old.nodeid).unwrap().size, 12);
    assert_eq!(guest.lookup(SHARE, b"old").unwrap().attr.size, 3);
}

#[test]
fn removed_directory_stays_what_it_was() {
    let mut guest = Guest::new();
    let node = guest.mkdir(SHARE, b"cwd").unwrap().nodeid;
    guest.rmdir(SHARE, b"cwd").unwrap();
    assert_eq!(guest.getattr(node).unwrap().nlink, 0);
    assert_eq!(guest.create(node, b"file", 0o644).err(), Some(Errno::NOENT));
    guest.mkdir(SHARE, b"cwd").unwrap();
    assert_eq!(guest.create(node, b"file", 0o644).err(), Some(Errno::NOENT));
}

#[test]
fn failed_removals_leave_the_node_as_it_was() {
    let mut guest = Guest::new();
    let node = guest.mkdir(SHARE, b"full").unwrap().nodeid;
    guest.create(node, b"file", 0o644).unwrap();
    assert_eq!(guest.rmdir(SHARE, b"full").err(), Some(Errno::NOTEMPTY));
    guest.rename((SHARE, b"full"), (SHARE, b"still"), 0).unwrap();
    assert_eq!(guest.lookup(node, b"file").unwrap().attr.size, 0);
}

#[test]
fn changes_by_the_host_are_seen() {
    let mut guest = Guest::new();
    fs::write(guest.path("file"), b"one").unwrap();
    let before = guest.lookup(SHARE, b"file").unwrap();
    // As editors save: a new file replaces the old.
    fs::write(guest.path("temporary"), b"three").unwrap();
    fs::rename(guest.path("temporary"), guest.path("file")).unwrap();
    let after = guest.lookup(SHARE, b"file").unwrap();
    assert_eq!(after.attr.size, 5);
    assert_ne!(after.nodeid, before.nodeid);
    assert_eq!(guest.getattr(before.nodeid).err(), Some(Errno::STALE), "the guest's kernel looks up again");
    fs::remove_file(guest.path("file")).unwrap();
    assert_eq!(guest.lookup(SHARE, b"file").unwrap().nodeid, 0);
    symlink("elsewhere", guest.path("file")).unwrap();
    assert_eq!(guest.lookup(SHARE, b"file").unwrap().attr.mode & 0o170_000, 0o120_000);
}

#[test]
fn directory_renamed_by_the_host_is_found_again() {
    let mut guest = Guest::new();
    fs::create_dir_all(guest.path("a/b")).unwrap();
    fs::write(guest.path("a/b/file"), b"12").unwrap();
    let a = guest.lookup(SHARE, b"a").unwrap().nodeid;
    let b = guest.lookup(a, b"b").unwrap().nodeid;
    fs::rename(guest.path("a"), guest.path("c")).unwrap();
    let c = guest.lookup(SHARE, b"c").unwrap().nodeid;
    assert_eq!(c, a);
    assert_eq!(guest.lookup(b, b"file").unwrap().attr.size, 2);
}

#[test]
fn file_made_without_a_name_can_be_given_one() {
    let mut guest = Guest::new();
    let asked = CreateIn { flags: libc_flags::RDWR, mode: 0o640, umask: 0, open_flags: 0 };
    let answer = guest.call(opcode::TMPFILE, SHARE, &[asked.as_bytes(), b"/\0"]).unwrap();
    let (entry, rest) = EntryOut::read_from_prefix(&answer).unwrap();
    let fh = OpenOut::read_from_bytes(rest).unwrap().fh;
    assert!(names(&guest.path("")).is_empty());
    guest.write(entry.nodeid, fh, 0, b"data").unwrap();
    assert_eq!(guest.getattr(entry.nodeid).unwrap().nlink, 0);
    guest.link(entry.nodeid, SHARE, b"named").unwrap();
    assert_eq!(fs::read(guest.path("named")).unwrap(), b"data");
    assert_eq!(fs::metadata(guest.path("named")).unwrap().mode(), 0o100_640);
}

#[test]
fn share_replaced_on_the_host_fails_alone() {
    let mut guest = Guest::with_access(&[Access::ReadWrite; 2]);
    let other = guest.lookup(ROOT, b"1").unwrap().nodeid;
    let (file, fh) = guest.create(SHARE, b"file", 0o644).unwrap();
    fs::remove_dir_all(guest.path("")).unwrap();
    fs::create_dir(guest.path("")).unwrap();
    assert_eq!(guest.create(SHARE, b"new", 0o644).err(), Some(Errno::NOENT));
    assert_eq!(guest.lookup(SHARE, b"file").unwrap().nodeid, 0);
    assert_eq!(guest.write(file.nodeid, fh, 0, b"still open"), Ok(10));
    guest.create(other, b"file", 0o644).unwrap();
    assert!(names(&guest.path("")).is_empty());
}

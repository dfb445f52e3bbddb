//! Files and directories that are read without having been opened.

use std::collections::BTreeSet;
use std::fs;

use rustix::io::Errno;
use zerocopy::IntoBytes;

use super::guest::{SHARE, folders, libc_flags};
use super::listener::Listener;
use crate::fs::Access;
use crate::fs::wire::{ATTR_NO_OPEN, EntryOut, FsyncIn, ROOT, feature, opcode};

/// The handle of what was not opened.
const UNOPENED: u64 = 0;
/// A share's first megabyte is cheap.
const LARGEST: u64 = 1 << 20;

fn may_be_read(entry: &EntryOut) -> bool {
    entry.attr.flags & ATTR_NO_OPEN != 0
}

#[test]
fn second_look_at_a_small_file_takes_no_request() {
    let mut guest = Listener::new();
    fs::write(guest.path("small"), b"data").unwrap();
    let small = guest.lookup(SHARE, b"small").unwrap();
    // The name, the attributes, the opening; and what was read stays as long as the attributes do.
    assert!(small.entry_valid > 3600 && small.attr_valid > 3600 && may_be_read(&small));
    assert_eq!(guest.read(small.nodeid, UNOPENED, 1, 64).unwrap(), b"ata");
    let attr = guest.getattr(small.nodeid).unwrap();
    assert_eq!(attr.flags & ATTR_NO_OPEN, ATTR_NO_OPEN, "every answer says the same");
    let (made, _) = guest.create(SHARE, b"made", 0o644).unwrap();
    assert!(may_be_read(&made));
}

#[test]
fn what_may_change_unseen_or_is_large_is_opened() {
    let mut guest = Listener::new();
    fs::File::create(guest.path("large")).unwrap().set_len(LARGEST + 1).unwrap();
    fs::File::create(guest.path("largest")).unwrap().set_len(LARGEST).unwrap();
    fs::write(guest.path("linked"), b"").unwrap();
    fs::hard_link(guest.path("linked"), guest.outside("link")).unwrap();
    let flags = ["large", "largest", "linked"].map(|name| may_be_read(&guest.lookup(SHARE, name.as_bytes()).unwrap()));
    assert_eq!(flags, [false, true, false]);
    let mut unaware = Listener::deaf();
    fs::write(unaware.path("file"), b"").unwrap();
    assert!(!may_be_read(&unaware.lookup(SHARE, b"file").unwrap()), "nobody is told of changes");
}

#[test]
fn kernel_that_does_not_know_of_it_opens_everything() {
    let (host, shares) = folders(&[Access::ReadWrite]);
    let mut guest = Listener::serving(shares, host, 1, !feature::ATTR_NO_OPEN);
    fs::write(guest.path("file"), b"").unwrap();
    guest.listen();
    guest.lookup(SHARE, b"anything").unwrap();
    let file = guest.lookup(SHARE, b"file").unwrap();
    assert!(!may_be_read(&file));
    assert_eq!(guest.read(file.nodeid, UNOPENED, 0, 1).err(), Some(Errno::BADF));
    assert_eq!(guest.readdir(SHARE, UNOPENED, 0, 4096).err(), Some(Errno::BADF));
}

#[test]
fn nothing_is_written_without_opening() {
    let mut guest = Listener::new();
    fs::write(guest.path("file"), b"data").unwrap();
    let file = guest.lookup(SHARE, b"file").unwrap().nodeid;
    assert_eq!(guest.write(file, UNOPENED, 0, b"evil").err(), Some(Errno::BADF));
    assert_eq!(guest.read(SHARE, UNOPENED, 0, 1).err(), Some(Errno::BADF));
    guest.mknod(SHARE, b"fifo", 0o010_644).unwrap();
    let fifo = guest.lookup(SHARE, b"fifo").unwrap().nodeid;
    assert_eq!(guest.read(fifo, UNOPENED, 0, 1).err(), Some(Errno::BADF));
    assert_eq!(guest.readdir(file, UNOPENED, 0, 4096).err(), Some(Errno::NOTDIR));
    assert_eq!(fs::read(guest.path("file")).unwrap(), b"data");
}

#[test]
fn file_stays_readable_when_its_name_goes() {
    let mut guest = Listener::new();
    for name in ["removed", "replaced"] {
        fs::write(guest.path(name), name).unwrap();
    }
    let removed = guest.lookup(SHARE, b"removed").unwrap().nodeid;
    let replaced = guest.lookup(SHARE, b"replaced").unwrap().nodeid;
    guest.unlink(SHARE, b"removed").unwrap();
    assert_eq!(guest.read(removed, UNOPENED, 0, 64).unwrap(), b"removed");
    // By the host, between two reads.
    assert_eq!(guest.read(replaced, UNOPENED, 0, 2).unwrap(), b"re");
    fs::write(guest.path("new"), b"other").unwrap();
    fs::rename(guest.path("new"), guest.path("replaced")).unwrap();
    assert_eq!(guest.read(replaced, UNOPENED, 2, 64).unwrap(), b"placed");
    assert_eq!(guest.getattr(replaced).unwrap().nlink, 0);
    guest.forget(removed, 1);
    assert_eq!(guest.read(removed, UNOPENED, 0, 64).err(), Some(Errno::STALE));
}

#[test]
fn file_that_is_replaced_all_the_time_is_read_at_the_second_try() {
    let mut guest = Listener::new();
    let replace = |guest: &Listener, text: &str| {
        fs::write(guest.path("new"), text).unwrap();
        fs::rename(guest.path("new"), guest.path("file")).unwrap();
    };
    replace(&guest, "first");
    let first = guest.lookup(SHARE, b"file").unwrap().nodeid;
    replace(&guest, "second");
    assert_eq!(guest.read(first, UNOPENED, 0, 64).err(), Some(Errno::STALE));
    // The guest's kernel looks the name up again, and does so once.
    let second = guest.lookup(SHARE, b"file").unwrap();
    assert!(may_be_read(&second));
    replace(&guest, "third");
    assert_eq!(guest.getattr(second.nodeid).unwrap().nlink, 0);
    assert_eq!(guest.read(second.nodeid, UNOPENED, 0, 64).unwrap(), b"second");
    let fh = guest.open(second.nodeid, libc_flags::RDONLY).unwrap().fh;
    assert_eq!(guest.read(second.nodeid, fh, 0, 64).unwrap(), b"second");
    assert_eq!(guest.open(second.nodeid, libc_flags::RDWR).err(), Some(Errno::STALE));
}

#[test]
fn file_about_to_be_written_is_held_although_there_is_nothing_to_read() {
    let mut guest = Listener::new();
    for name in ["found", "known"] {
        fs::write(guest.path(name), if name == "found" { "" } else { "data" }).unwrap();
    }
    let found = guest.lookup(SHARE, b"found").unwrap().nodeid;
    let known = guest.lookup(SHARE, b"known").unwrap().nodeid;
    fs::write(guest.path("known"), b"").unwrap();
    assert_eq!(guest.getattr(known).unwrap().size, 0);
    for (name, node) in [("found", found), ("known", known)] {
        fs::write(guest.path(name), "written").unwrap();
        fs::write(guest.path("new"), "other").unwrap();
        fs::rename(guest.path("new"), guest.path(name)).unwrap();
        assert_eq!(guest.getattr(node).unwrap().nlink, 0);
        assert_eq!(guest.read(node, UNOPENED, 0, 64).unwrap(), b"written");
    }
}

#[test]
fn listings_of_two_readers_do_not_disturb_each_other() {
    const MANY: usize = 500;
    let mut guest = Listener::new();
    for index in 0..MANY {
        fs::write(guest.path(&format!("some file {index}")), b"").unwrap();
    }
    let mut offsets = [0, 0];
    let mut listed = [BTreeSet::new(), BTreeSet::new()];
    let sizes = [1000, 3000];
    let mut is_done = [false, false];
    while is_done != [true, true] {
        for reader in [0, 1] {
            let piece = guest.readdir(SHARE, UNOPENED, offsets[reader], sizes[reader]).unwrap();
            is_done[reader] = piece.is_empty();
            offsets[reader] = piece.last().map_or(offsets[reader], |(_, next)| *next);
            listed[reader].extend(piece.into_iter().map(|(name, _)| name));
        }
    }
    assert_eq!(listed.map(|names| names.len()), [MANY + 2; 2]);
}

#[test]
fn listing_from_the_beginning_shows_what_is_there_now() {
    let mut guest = Listener::new();
    fs::write(guest.path("one"), b"").unwrap();
    assert_eq!(guest.readdir(SHARE, UNOPENED, 0, 4096).unwrap().len(), 3);
    fs::write(guest.path("two"), b"").unwrap();
    assert_eq!(guest.readdir(SHARE, UNOPENED, 0, 4096).unwrap().len(), 4);
    assert_eq!(guest.readdir(ROOT, UNOPENED, 0, 4096).unwrap().len(), 1);
}

#[test]
fn releasing_or_syncing_what_was_not_opened_is_no_error() {
    let mut guest = Listener::new();
    fs::write(guest.path("file"), b"").unwrap();
    let file = guest.lookup(SHARE, b"file").unwrap().nodeid;
    guest.release(file, UNOPENED).unwrap();
    let asked = FsyncIn::default();
    guest.call(opcode::FSYNC, file, &[asked.as_bytes()]).unwrap();
    guest.call(opcode::FSYNCDIR, SHARE, &[asked.as_bytes()]).unwrap();
    guest.open(file, libc_flags::RDWR).unwrap();
}

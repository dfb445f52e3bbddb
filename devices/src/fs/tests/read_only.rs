//! A read-only share is read-only whatever the guest sends.

use std::fs;

use rustix::io::Errno;
use zerocopy::IntoBytes;

use super::guest::{Guest, SHARE, libc_flags, names};
use crate::fs::Access;
use crate::fs::wire::{CreateIn, ROOT, SetattrIn, opcode, set};

fn guest() -> Guest {
    let guest = Guest::with_access(&[Access::ReadOnly, Access::ReadWrite]);
    fs::write(guest.path("file"), b"data").unwrap();
    fs::create_dir(guest.path("directory")).unwrap();
    guest
}

#[test]
fn nothing_can_be_changed() {
    let mut guest = guest();
    let writable = guest.lookup(ROOT, b"1").unwrap().nodeid;
    guest.create(writable, b"mine", 0o644).unwrap();
    let file = guest.lookup(SHARE, b"file").unwrap().nodeid;
    let refused = Some(Errno::ROFS);
    assert_eq!(guest.create(SHARE, b"new", 0o644).err(), refused);
    assert_eq!(guest.create(SHARE, b"file", 0o644).err(), refused);
    assert_eq!(guest.mkdir(SHARE, b"new").err(), refused);
    assert_eq!(guest.mknod(SHARE, b"new", 0o010_644).err(), refused);
    assert_eq!(guest.symlink(SHARE, b"new", b"target").err(), refused);
    assert_eq!(guest.link(file, SHARE, b"new").err(), refused);
    assert_eq!(guest.unlink(SHARE, b"file").err(), refused);
    assert_eq!(guest.rmdir(SHARE, b"directory").err(), refused);
    assert_eq!(guest.rename((SHARE, b"file"), (SHARE, b"new"), 0).err(), refused);
    assert_eq!(guest.rename((SHARE, b"file"), (writable, b"new"), 0).err(), refused);
    assert_eq!(guest.rename((writable, b"mine"), (SHARE, b"file"), 0).err(), refused);
    let tmpfile = CreateIn { flags: 2, mode: 0o644, umask: 0, open_flags: 0 };
    assert_eq!(guest.call(opcode::TMPFILE, SHARE, &[tmpfile.as_bytes(), b"/\0"]).err(), refused);
    for valid in [0, set::MODE, set::UID, set::SIZE, set::MTIME | set::MTIME_NOW, set::KILL_SUIDGID] {
        assert_eq!(guest.setattr(file, &SetattrIn { valid, ..SetattrIn::default() }).err(), refused);
    }
    for flags in [libc_flags::WRONLY, libc_flags::RDWR, libc_flags::RDONLY | libc_flags::TRUNC] {
        assert_eq!(guest.open(file, flags).err(), refused);
    }
    assert_eq!(names(&guest.path("")), ["directory", "file"]);
    assert_eq!(fs::read(guest.path("file")).unwrap(), b"data");
}

#[test]
fn everything_can_be_read() {
    let mut guest = guest();
    let file = guest.lookup(SHARE, b"file").unwrap().nodeid;
    let fh = guest.open(file, libc_flags::RDONLY).unwrap().fh;
    assert_eq!(guest.read(file, fh, 0, 16).unwrap(), b"data");
    for flags in [0, libc_flags::APPEND] {
        let asked = crate::fs::wire::WriteIn { fh, size: 1, flags, ..Default::default() };
        assert_eq!(guest.write_as(file, &asked, b"x").err(), Some(Errno::BADF));
    }
    let directory = guest.opendir(SHARE).unwrap();
    assert_eq!(guest.readdir(SHARE, directory, 0, 4096).unwrap().len(), 4);
}

//! Contents of files.

use std::fs;
use std::io::{Seek, Write};

use rustix::io::Errno;
use zerocopy::{FromBytes, IntoBytes};

use super::guest::{Guest, SHARE, libc_flags};
use crate::fs::wire::{
    CopyFileRangeIn, FallocateIn, FsyncIn, LseekIn, LseekOut, OPENED_KEEP_CACHE, WRITE_CACHE, WriteIn, WriteOut, opcode,
};

const BLOCK: usize = 4096;

#[test]
fn data_reaches_the_host_at_once_and_back() {
    let mut guest = Guest::new();
    let (file, fh) = guest.create(SHARE, b"file", 0o644).unwrap();
    let data: Vec<u8> = (0..6000u32).map(|index| index.to_le_bytes()[0]).collect();
    assert_eq!(guest.write(file.nodeid, fh, 100, &data), Ok(6000));
    let contents = fs::read(guest.path("file")).unwrap();
    assert_eq!((&contents[..100], &contents[100..]), (&[0; 100][..], &data[..]));
    fs::write(guest.path("file"), b"by the host").unwrap();
    assert_eq!(guest.read(file.nodeid, fh, 3, 64).unwrap(), b"the host");
}

#[test]
fn open_file_keeps_its_attributes_when_the_host_replaces_it() {
    let mut guest = Guest::new();
    fs::write(guest.path("file"), b"old").unwrap();
    let file = guest.lookup(SHARE, b"file").unwrap().nodeid;
    let fh = guest.open(file, libc_flags::RDONLY).unwrap().fh;
    fs::write(guest.path("new"), b"newer").unwrap();
    fs::rename(guest.path("new"), guest.path("file")).unwrap();
    // The guest's kernel names the node alone, even where a program asks by descriptor.
    let attr = guest.getattr(file).unwrap();
    assert_eq!((attr.size, attr.nlink), (3, 0));
    guest.release(file, fh).unwrap();
    assert_eq!(guest.getattr(file).err(), Some(Errno::STALE));
}

#[test]
fn a_megabyte_goes_through_in_one_request() {
    let mut guest = Guest::new();
    let (file, fh) = guest.create(SHARE, b"file", 0o644).unwrap();
    let data: Vec<u8> = (0..1u32 << 18).flat_map(u32::to_le_bytes).collect();
    assert_eq!(guest.write(file.nodeid, fh, 0, &data), Ok(1 << 20));
    assert_eq!(fs::read(guest.path("file")).unwrap(), data);
    let asked = crate::fs::wire::ReadIn { fh, size: 1 << 20, ..Default::default() };
    let answer = guest.call_with_room(opcode::READ, file.nodeid, &[asked.as_bytes()], (1 << 20) + 16).unwrap();
    assert_eq!(answer, data);
}

#[test]
fn access_asked_for_at_open_is_all_there_is() {
    let mut guest = Guest::new();
    fs::write(guest.path("file"), b"data").unwrap();
    let node = guest.lookup(SHARE, b"file").unwrap().nodeid;
    let reading = guest.open(node, libc_flags::RDONLY).unwrap().fh;
    let writing = guest.open(node, libc_flags::WRONLY).unwrap().fh;
    assert_eq!(guest.write(node, reading, 0, b"x").err(), Some(Errno::BADF));
    let append = WriteIn { fh: reading, size: 1, flags: libc_flags::APPEND, ..WriteIn::default() };
    assert_eq!(guest.write_as(node, &append, b"x").err(), Some(Errno::BADF));
    assert_eq!(guest.read(node, writing, 0, 1).err(), Some(Errno::BADF));
    assert_eq!(guest.open(node, 3).err(), Some(Errno::INVAL));
    assert_eq!(fs::read(guest.path("file")).unwrap(), b"data");
}

#[test]
fn open_truncates_when_asked_to() {
    let mut guest = Guest::new();
    fs::write(guest.path("file"), b"data").unwrap();
    let node = guest.lookup(SHARE, b"file").unwrap().nodeid;
    guest.open(node, libc_flags::WRONLY | libc_flags::TRUNC).unwrap();
    assert_eq!(guest.getattr(node).unwrap().size, 0);
}

#[test]
fn guests_direct_io_needs_no_alignment_on_the_host() {
    let mut guest = Guest::new();
    fs::write(guest.path("file"), b"odd").unwrap();
    let node = guest.lookup(SHARE, b"file").unwrap().nodeid;
    let fh = guest.open(node, libc_flags::RDWR | libc_flags::DIRECT).unwrap().fh;
    assert_eq!(guest.read(node, fh, 1, 7).unwrap(), b"dd");
    assert_eq!(guest.write(node, fh, 1, b"ld"), Ok(2));
}

#[test]
fn appending_goes_to_the_end_wherever_the_host_has_moved_it() {
    let mut guest = Guest::new();
    fs::write(guest.path("log"), b"one\n").unwrap();
    let node = guest.lookup(SHARE, b"log").unwrap().nodeid;
    let fh = guest.open(node, libc_flags::WRONLY | libc_flags::APPEND).unwrap().fh;
    let mut host = fs::OpenOptions::new().append(true).open(guest.path("log")).unwrap();
    host.write_all(b"two\n").unwrap();
    // The guest's kernel still takes 4 for the end.
    let asked = WriteIn { fh, offset: 4, size: 6, flags: libc_flags::APPEND, ..WriteIn::default() };
    assert_eq!(guest.write_as(node, &asked, b"three\n"), Ok(6));
    assert_eq!(fs::read(guest.path("log")).unwrap(), b"one\ntwo\nthree\n");
}

#[test]
fn pages_written_back_keep_their_place_in_an_appending_handle() {
    let mut guest = Guest::new();
    fs::write(guest.path("file"), b"0123456789").unwrap();
    let node = guest.lookup(SHARE, b"file").unwrap().nodeid;
    let fh = guest.open(node, libc_flags::RDWR | libc_flags::APPEND).unwrap().fh;
    let flags = libc_flags::RDWR | libc_flags::APPEND;
    let asked = WriteIn { fh, offset: 2, size: 2, write_flags: WRITE_CACHE, flags, ..WriteIn::default() };
    assert_eq!(guest.write_as(node, &asked, b"xx"), Ok(2));
    assert_eq!(fs::read(guest.path("file")).unwrap(), b"01xx456789");
}

#[test]
fn exclusive_creation_fails_where_something_is() {
    let mut guest = Guest::new();
    fs::write(guest.path("file"), b"data").unwrap();
    let flags = libc_flags::RDWR | libc_flags::EXCL;
    assert_eq!(guest.create_with(SHARE, b"file", 0o644, flags).err(), Some(Errno::EXIST));
    let (entry, fh) = guest.create(SHARE, b"file", 0o600).unwrap();
    assert_eq!(guest.read(entry.nodeid, fh, 0, 16).unwrap(), b"data");
}

#[test]
fn read_only_mode_does_not_keep_the_creator_from_writing() {
    let mut guest = Guest::new();
    let (file, fh) = guest.create(SHARE, b"object", 0o444).unwrap();
    assert_eq!(guest.write(file.nodeid, fh, 0, b"data"), Ok(4));
    assert_eq!(file.attr.mode, 0o100_444);
}

#[test]
fn cached_pages_are_kept_only_if_nothing_changed() {
    let mut guest = Guest::new();
    fs::write(guest.path("file"), b"data").unwrap();
    let old = rustix::fs::Timespec { tv_sec: 1_000_000_000, tv_nsec: 0 };
    let times = rustix::fs::Timestamps { last_access: old, last_modification: old };
    rustix::fs::futimens(fs::File::open(guest.path("file")).unwrap(), &times).unwrap();
    // The change of the time stamps must be older than the clock's tick.
    let settled = std::time::Instant::now() + std::time::Duration::from_millis(60);
    let node = guest.lookup(SHARE, b"file").unwrap().nodeid;
    let mut keeps = || guest.open(node, libc_flags::RDONLY).unwrap().open_flags & OPENED_KEEP_CACHE != 0;
    assert!(!keeps(), "nothing is known at first");
    while std::time::Instant::now() < settled {
        std::thread::yield_now();
    }
    assert!(!keeps(), "the last look was too close to the change");
    assert!(keeps());
    fs::write(guest.path("file"), b"DATA").unwrap();
    let mut keeps = || guest.open(node, libc_flags::RDONLY).unwrap().open_flags & OPENED_KEEP_CACHE != 0;
    assert!(!keeps(), "the host wrote");
}

#[test]
fn holes_are_found_punched_and_filled() {
    let mut guest = Guest::new();
    let (file, fh) = guest.create(SHARE, b"file", 0o644).unwrap();
    let mut host = fs::File::options().write(true).open(guest.path("file")).unwrap();
    host.write_all(&[1; BLOCK]).unwrap();
    host.seek(std::io::SeekFrom::Start(1 << 20)).unwrap();
    host.write_all(&[2; BLOCK]).unwrap();
    let mut seek = |offset: u64, whence: u32| {
        let asked = LseekIn { fh, offset, whence, padding: 0 };
        guest
            .call(opcode::LSEEK, file.nodeid, &[asked.as_bytes()])
            .map(|answer| LseekOut::read_from_bytes(&answer).unwrap().offset)
    };
    assert_eq!(seek(BLOCK as u64, 3), Ok(1 << 20));
    assert_eq!(seek(0, 4), Ok(BLOCK as u64));
    assert_eq!(seek(2 << 20, 3), Err(Errno::NXIO));
    assert_eq!(seek(0, 0), Err(Errno::INVAL));
    assert_eq!(seek(u64::MAX, 3).err(), Some(Errno::NXIO));
    let mut allocate = |mode: u32, offset: u64, length: u64| {
        let asked = FallocateIn { fh, offset, length, mode, padding: 0 };
        guest.call(opcode::FALLOCATE, file.nodeid, &[asked.as_bytes()]).map(|_| ())
    };
    assert_eq!(allocate(0, 0, 4 << 20), Ok(()));
    assert_eq!(allocate(3, 0, BLOCK as u64), Ok(()));
    assert_eq!(allocate(8, 0, BLOCK as u64), Err(Errno::OPNOTSUPP), "COLLAPSE_RANGE");
    assert!(allocate(0, u64::MAX, u64::MAX).is_err());
    let contents = fs::read(guest.path("file")).unwrap();
    assert_eq!((contents.len(), &contents[..BLOCK]), (4 << 20, &[0; BLOCK][..]));
}

#[test]
fn ranges_are_copied_on_the_host() {
    let mut guest = Guest::new();
    fs::write(guest.path("from"), [7; 3 * BLOCK]).unwrap();
    let from = guest.lookup(SHARE, b"from").unwrap().nodeid;
    let from_fh = guest.open(from, libc_flags::RDONLY).unwrap().fh;
    let (to, to_fh) = guest.create(SHARE, b"to", 0o644).unwrap();
    let asked = CopyFileRangeIn {
        fh_in: from_fh,
        off_in: 1,
        nodeid_out: to.nodeid,
        fh_out: to_fh,
        off_out: 2,
        len: u64::MAX >> 1,
        flags: 0,
    };
    let answer = guest.call(opcode::COPY_FILE_RANGE, from, &[asked.as_bytes()]).unwrap();
    let copied = usize::try_from(WriteOut::read_from_bytes(&answer).unwrap().size).unwrap();
    assert_eq!(copied, 3 * BLOCK - 1);
    assert_eq!(fs::read(guest.path("to")).unwrap(), [&[0; 2][..], &vec![7; copied]].concat());
    let back = CopyFileRangeIn { fh_in: to_fh, nodeid_out: from, fh_out: from_fh, ..asked };
    assert_eq!(guest.call(opcode::COPY_FILE_RANGE, to.nodeid, &[back.as_bytes()]), Err(Errno::BADF));
}

#[test]
fn syncing_is_passed_on() {
    let mut guest = Guest::new();
    let (file, fh) = guest.create(SHARE, b"file", 0o644).unwrap();
    for flags in [0, 1] {
        guest.call(opcode::FSYNC, file.nodeid, &[FsyncIn { fh, flags, padding: 0 }.as_bytes()]).unwrap();
    }
    let directory = guest.opendir(SHARE).unwrap();
    guest.call(opcode::FSYNCDIR, SHARE, &[FsyncIn { fh: directory, flags: 0, padding: 0 }.as_bytes()]).unwrap();
    let unknown = FsyncIn { fh: 99, flags: 0, padding: 0 };
    assert_eq!(guest.call(opcode::FSYNC, file.nodeid, &[unknown.as_bytes()]), Err(Errno::BADF));
}

//! What no honest kernel sends.

use std::os::unix::fs::symlink;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::io::Errno;
use virtio::test_kit::{Buffer, DATA};
use zerocopy::{FromBytes, IntoBytes};

use super::guest::{ANSWER, Guest, SHARE, libc_flags, names};
use crate::fs::Access;
use crate::fs::wire::{self, CreateIn, InHeader, MkdirIn, MknodIn, ROOT, ReadIn, Rename2In, WriteIn, opcode};

/// Names that lead away, or are none.
fn bad_names() -> Vec<Vec<u8>> {
    let mut names: Vec<Vec<u8>> =
        [&b""[..], b".", b"..", b"a/b", b"../canary", b"/etc/passwd", b"/", b"a\0b", b"file/", b"./file"]
            .map(<[u8]>::to_vec)
            .into();
    names.push(vec![b'x'; 256]);
    names.push(vec![b'x'; 5000]);
    names
}

fn is_refusal(answer: &Result<Vec<u8>, Errno>) -> bool {
    matches!(answer, Err(Errno::INVAL | Errno::NOENT | Errno::NAMETOOLONG))
}

#[test]
fn names_with_more_than_one_component_are_refused_everywhere() {
    let mut guest = Guest::new();
    let (file, _) = guest.create(SHARE, b"file", 0o644).unwrap();
    let bodies: [(u32, &[u8]); 7] = [
        (opcode::LOOKUP, b""),
        (opcode::MKDIR, MkdirIn { mode: 0o755, umask: 0 }.as_bytes()),
        (opcode::MKNOD, MknodIn { mode: 0o100_644, rdev: 0, umask: 0, padding: 0 }.as_bytes()),
        (opcode::UNLINK, b""),
        (opcode::RMDIR, b""),
        (opcode::CREATE, CreateIn { flags: 2, mode: 0o644, umask: 0, open_flags: 0 }.as_bytes()),
        (opcode::LINK, file.nodeid.as_bytes()),
    ];
    for name in bad_names() {
        for (opcode, body) in bodies {
            assert!(is_refusal(&guest.call(opcode, SHARE, &[body, &name, b"\0"])), "opcode {opcode}, name {name:?}");
            assert!(is_refusal(&guest.call(opcode, ROOT, &[body, &name, b"\0"])), "opcode {opcode}, name {name:?}");
        }
        assert!(is_refusal(&guest.call(opcode::SYMLINK, SHARE, &[&name, b"\0target\0"])), "{name:?}");
    }
    assert_eq!(names(&guest.path("")), ["file"]);
    guest.assert_nothing_escaped();
}

#[test]
fn both_names_of_a_rename_are_checked() {
    let mut guest = Guest::new();
    guest.create(SHARE, b"file", 0o644).unwrap();
    let asked = Rename2In { newdir: SHARE, flags: 0, padding: 0 };
    for name in bad_names() {
        let first = guest.call(opcode::RENAME2, SHARE, &[asked.as_bytes(), &name, b"\0new\0"]);
        assert!(is_refusal(&first), "{name:?}");
        let second = guest.call(opcode::RENAME2, SHARE, &[asked.as_bytes(), b"file\0", &name, b"\0"]);
        assert!(is_refusal(&second), "{name:?}");
        let old = guest.call(opcode::RENAME, SHARE, &[SHARE.as_bytes(), b"file\0", &name, b"\0"]);
        assert!(is_refusal(&old), "{name:?}");
    }
    assert_eq!(names(&guest.path("")), ["file"]);
    guest.assert_nothing_escaped();
}

#[test]
fn names_without_an_end_are_refused() {
    let mut guest = Guest::new();
    assert_eq!(guest.call(opcode::LOOKUP, SHARE, &[b"file"]), Err(Errno::INVAL));
    assert_eq!(guest.call(opcode::LOOKUP, SHARE, &[]), Err(Errno::INVAL));
    assert_eq!(guest.call(opcode::SYMLINK, SHARE, &[b"only\0"]), Err(Errno::INVAL));
}

#[test]
fn there_is_no_way_up() {
    let mut guest = Guest::new();
    let inner = guest.mkdir(SHARE, b"inner").unwrap().nodeid;
    for node in [ROOT, SHARE, inner] {
        for name in [&b".."[..], b".", b"../..", b"../0"] {
            assert_eq!(guest.lookup(node, name).err(), Some(Errno::INVAL), "{name:?}");
        }
    }
}

#[test]
fn name_that_comes_with_a_nameless_file_is_not_used() {
    let mut guest = Guest::new();
    let asked = CreateIn { flags: 2, mode: 0o644, umask: 0, open_flags: 0 };
    for name in bad_names() {
        let _ = guest.call(opcode::TMPFILE, SHARE, &[asked.as_bytes(), &name, b"\0"]);
    }
    assert!(names(&guest.path("")).is_empty());
    guest.assert_nothing_escaped();
}

#[test]
fn symbolic_links_are_told_but_never_followed() {
    let mut guest = Guest::new();
    std::fs::create_dir(guest.path("inner")).unwrap();
    let outside = guest.outside("");
    let targets = [outside.to_str().unwrap(), "..", "inner", "/proc/self/fd/1", "/etc/passwd"];
    for (index, target) in targets.into_iter().enumerate() {
        symlink(target, guest.path(&index.to_string())).unwrap();
        let entry = guest.lookup(SHARE, index.to_string().as_bytes()).unwrap();
        assert_eq!(entry.attr.mode & 0o170_000, 0o120_000);
        assert_eq!(guest.call(opcode::READLINK, entry.nodeid, &[]).unwrap(), target.as_bytes());
        assert_eq!(guest.open(entry.nodeid, libc_flags::RDONLY).err(), Some(Errno::LOOP));
        assert_eq!(guest.opendir(entry.nodeid).err(), Some(Errno::NOTDIR));
        assert_eq!(guest.lookup(entry.nodeid, b"canary").err(), Some(Errno::NOTDIR));
        assert_eq!(guest.mkdir(entry.nodeid, b"new").err(), Some(Errno::NOTDIR));
        assert_eq!(guest.create(SHARE, index.to_string().as_bytes(), 0o644).err(), Some(Errno::EXIST));
    }
    assert!(names(&guest.path("inner")).is_empty());
    guest.assert_nothing_escaped();
}

#[test]
fn directory_swapped_for_a_link_is_not_followed() {
    let mut guest = Guest::new();
    std::fs::create_dir(guest.path("work")).unwrap();
    std::fs::write(guest.path("work/file"), b"inside").unwrap();
    let work = guest.lookup(SHARE, b"work").unwrap().nodeid;
    std::fs::rename(guest.path("work"), guest.path("aside")).unwrap();
    symlink(guest.outside(""), guest.path("work")).unwrap();
    assert_eq!(guest.lookup(work, b"canary").err(), Some(Errno::STALE));
    assert_eq!(guest.create(work, b"new", 0o644).err(), Some(Errno::STALE));
    guest.assert_nothing_escaped();
}

#[test]
fn only_regular_files_are_opened() {
    let mut guest = Guest::new();
    let path = guest.path("fifo");
    mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(guest.path("socket")).unwrap();
    for name in [&b"fifo"[..], b"socket"] {
        let node = guest.lookup(SHARE, name).unwrap().nodeid;
        for flags in [libc_flags::RDONLY, libc_flags::WRONLY, libc_flags::RDWR] {
            assert_eq!(guest.open(node, flags).err(), Some(Errno::NXIO));
            assert_eq!(guest.create_with(SHARE, name, 0o644, flags).err(), Some(Errno::EXIST));
        }
        assert_eq!(guest.opendir(node).err(), Some(Errno::NOTDIR));
        let size = wire::SetattrIn { valid: wire::set::SIZE, ..wire::SetattrIn::default() };
        assert_eq!(guest.setattr(node, &size).err(), Some(Errno::INVAL));
    }
}

#[test]
fn devices_of_the_host_are_not_opened() {
    let mut guest = Guest::new();
    for (name, kind, device) in [("chr", FileType::CharacterDevice, 5), ("blk", FileType::BlockDevice, 7)] {
        let device = rustix::fs::makedev(device, 0);
        if mknodat(CWD, guest.path(name), kind, Mode::RUSR | Mode::WUSR, device).is_err() {
            // Only root can make them.
            return;
        }
        let node = guest.lookup(SHARE, name.as_bytes()).unwrap().nodeid;
        for flags in [libc_flags::RDONLY, libc_flags::WRONLY, libc_flags::RDWR | libc_flags::TRUNC] {
            assert_eq!(guest.open(node, flags).err(), Some(Errno::NXIO));
            assert_eq!(guest.create_with(SHARE, name.as_bytes(), 0o644, flags).err(), Some(Errno::EXIST));
        }
        let size = wire::SetattrIn { valid: wire::set::SIZE, ..wire::SetattrIn::default() };
        assert_eq!(guest.setattr(node, &size).err(), Some(Errno::INVAL));
    }
}

#[test]
fn device_nodes_cannot_be_made() {
    let mut guest = Guest::new();
    assert_eq!(guest.mknod(SHARE, b"chr", 0o020_666).err(), Some(Errno::PERM));
    assert_eq!(guest.mknod(SHARE, b"blk", 0o060_666).err(), Some(Errno::PERM));
    assert_eq!(guest.mknod(SHARE, b"dir", 0o040_755).err(), Some(Errno::INVAL));
    // RENAME_WHITEOUT leaves a character device behind.
    guest.create(SHARE, b"file", 0o644).unwrap();
    assert_eq!(guest.rename((SHARE, b"file"), (SHARE, b"new"), 4).err(), Some(Errno::INVAL));
    assert_eq!(names(&guest.path("")), ["file"]);
}

#[test]
fn handles_belong_to_one_node_and_one_kind() {
    let mut guest = Guest::new();
    let (one, one_fh) = guest.create(SHARE, b"one", 0o644).unwrap();
    let (two, two_fh) = guest.create(SHARE, b"two", 0o644).unwrap();
    let directory_fh = guest.opendir(SHARE).unwrap();
    for (node, fh) in [(one.nodeid, two_fh), (two.nodeid, one_fh), (SHARE, one_fh), (one.nodeid, directory_fh)] {
        assert_eq!(guest.read(node, fh, 0, 16).err(), Some(Errno::BADF));
        assert_eq!(guest.write(node, fh, 0, b"x").err(), Some(Errno::BADF));
        assert_eq!(guest.release(node, fh).err(), Some(Errno::BADF));
    }
    assert_eq!(guest.read(SHARE, directory_fh, 0, 16).err(), Some(Errno::BADF));
    assert_eq!(guest.readdir(one.nodeid, one_fh, 0, 512).err(), Some(Errno::BADF));
    assert_eq!(guest.readdir(SHARE, one_fh, 0, 512).err(), Some(Errno::BADF));
    guest.release(one.nodeid, one_fh).unwrap();
    assert_eq!(guest.read(one.nodeid, one_fh, 0, 16).err(), Some(Errno::BADF));
    assert_eq!(guest.release(one.nodeid, one_fh).err(), Some(Errno::BADF));
    assert_eq!(guest.write(two.nodeid, two_fh, 0, b"still open"), Ok(10));
}

#[test]
fn nodes_that_were_never_told_name_nothing() {
    let mut guest = Guest::new();
    for node in [0, 3, 4711, u64::MAX] {
        assert_eq!(guest.getattr(node).err(), Some(Errno::STALE));
        assert_eq!(guest.lookup(node, b"canary").err(), Some(Errno::STALE));
        assert_eq!(guest.open(node, libc_flags::RDONLY).err(), Some(Errno::STALE));
        assert_eq!(guest.opendir(node).err(), Some(Errno::STALE));
        assert_eq!(guest.create(node, b"new", 0o644).err(), Some(Errno::STALE));
    }
    guest.assert_nothing_escaped();
}

#[test]
fn forgetting_more_than_was_told_harms_nobody() {
    let mut guest = Guest::new();
    std::fs::write(guest.path("file"), b"contents").unwrap();
    let node = guest.lookup(SHARE, b"file").unwrap().nodeid;
    guest.forget(node, u64::MAX);
    guest.forget(node, 1);
    assert_eq!(guest.getattr(node).err(), Some(Errno::STALE));
    for never_told in [0, ROOT, SHARE, 99, u64::MAX] {
        guest.forget(never_told, u64::MAX);
    }
    let again = guest.lookup(SHARE, b"file").unwrap().nodeid;
    assert_ne!(again, node, "IDs are never reused");
    assert_eq!(guest.getattr(again).unwrap().size, 8);
}

#[test]
fn batches_of_forgets_end_where_the_request_ends() {
    let mut guest = Guest::new();
    std::fs::write(guest.path("file"), b"").unwrap();
    let node = guest.lookup(SHARE, b"file").unwrap().nodeid;
    let body = [u64::from(u32::MAX), node, 1].as_bytes().to_vec();
    let header = InHeader { len: 64, opcode: opcode::BATCH_FORGET, ..InHeader::default() };
    assert_eq!(guest.raw(&[header.as_bytes(), &body].concat(), 64), b"");
    assert_eq!(guest.getattr(node).err(), Some(Errno::STALE));
}

#[test]
fn reading_past_all_ends_is_empty_or_an_error() {
    let mut guest = Guest::new();
    let (file, fh) = guest.create(SHARE, b"file", 0o644).unwrap();
    guest.write(file.nodeid, fh, 0, b"0123456789").unwrap();
    assert_eq!(guest.read(file.nodeid, fh, 8, 100).unwrap(), b"89");
    assert_eq!(guest.read(file.nodeid, fh, 10, 100).unwrap(), b"");
    assert_eq!(guest.read(file.nodeid, fh, (1 << 63) - 4096, 100).unwrap(), b"");
    assert_eq!(guest.read(file.nodeid, fh, 1 << 63, 100).err(), Some(Errno::INVAL));
    assert_eq!(guest.read(file.nodeid, fh, u64::MAX, u32::MAX).err(), Some(Errno::INVAL));
    assert_eq!(guest.read(file.nodeid, fh, 0, u32::MAX).unwrap(), b"0123456789");
}

#[test]
fn writes_that_lie_about_their_size_write_nothing() {
    let mut guest = Guest::new();
    let (file, fh) = guest.create(SHARE, b"file", 0o644).unwrap();
    for size in [5, 4096, (1 << 20) + 1, u32::MAX] {
        let asked = WriteIn { fh, size, ..WriteIn::default() };
        assert_eq!(guest.write_as(file.nodeid, &asked, b"four").err(), Some(Errno::INVAL));
    }
    let asked = WriteIn { fh, size: 2, offset: u64::MAX, ..WriteIn::default() };
    assert_eq!(guest.write_as(file.nodeid, &asked, b"four").err(), Some(Errno::INVAL));
    assert_eq!(std::fs::read(guest.path("file")).unwrap(), b"");
    let asked = WriteIn { fh, size: 2, ..WriteIn::default() };
    assert_eq!(guest.write_as(file.nodeid, &asked, b"four"), Ok(2));
    assert_eq!(std::fs::read(guest.path("file")).unwrap(), b"fo");
}

#[test]
fn headers_that_lie_about_their_length_are_refused() {
    let mut guest = Guest::new();
    for len in [0, 1, 39, 40, 44, 46, 4096, u32::MAX] {
        let header = InHeader { len, opcode: opcode::LOOKUP, unique: 7, nodeid: SHARE, ..InHeader::default() };
        let answer = guest.raw(&[header.as_bytes(), b"file\0"].concat(), 256);
        assert_eq!(answer, wire::OutHeader { len: 16, error: -22, unique: 7 }.as_bytes(), "{len}");
    }
    let header = InHeader { len: 45, opcode: opcode::LOOKUP, nodeid: SHARE, extensions: 1, ..InHeader::default() };
    let answer = guest.raw(&[header.as_bytes(), b"file\0"].concat(), 256);
    assert_eq!(answer, wire::OutHeader { len: 16, error: -22, unique: 0 }.as_bytes());
}

#[test]
fn requests_without_room_for_the_answer_change_nothing() {
    let mut guest = Guest::new();
    let mkdir = MkdirIn { mode: 0o755, umask: 0 };
    let create = CreateIn { flags: 2, mode: 0o644, umask: 0, open_flags: 0 };
    for room in [16, 17, 143] {
        assert!(guest.call_with_room(opcode::MKDIR, SHARE, &[mkdir.as_bytes(), b"new\0"], room).is_err());
        assert!(guest.call_with_room(opcode::CREATE, SHARE, &[create.as_bytes(), b"new\0"], room).is_err());
        assert!(guest.call_with_room(opcode::SYMLINK, SHARE, &[b"new\0target\0"], room).is_err());
    }
    for room in [0, 15] {
        let header = InHeader { len: 52, opcode: opcode::MKDIR, nodeid: SHARE, ..InHeader::default() };
        assert_eq!(guest.raw(&[header.as_bytes(), mkdir.as_bytes(), b"new\0"].concat(), room), b"");
    }
    assert!(names(&guest.path("")).is_empty());
}

#[test]
fn request_may_lie_where_its_answer_goes() {
    let mut guest = Guest::new();
    let (file, fh) = guest.create(SHARE, b"file", 0o644).unwrap();
    guest.write(file.nodeid, fh, 0, &[7; 4096]).unwrap();
    let asked = ReadIn { fh, size: 4096, ..ReadIn::default() };
    let header = InHeader { len: 80, opcode: opcode::READ, unique: 9, nodeid: file.nodeid, ..InHeader::default() };
    let request = [header.as_bytes(), asked.as_bytes()].concat();
    let written = guest.chain(&request, &[Buffer::readable(DATA, 80), Buffer::writable(DATA, 4096 + 16)]);
    assert_eq!(written, 4096 + 16);
    let head = wire::OutHeader { len: written, error: 0, unique: 9 };
    assert_eq!(guest.memory(DATA, written), [head.as_bytes(), &[7; 4096]].concat());
    // What is written to the file is being overwritten by the answer.
    let asked = WriteIn { fh, size: 4096, ..WriteIn::default() };
    let header = InHeader { len: 80 + 4096, opcode: opcode::WRITE, ..header };
    let request = [header.as_bytes(), asked.as_bytes(), &[8; 4096]].concat();
    let written = guest.chain(&request, &[Buffer::readable(DATA, 80 + 4096), Buffer::writable(DATA + 80, 64)]);
    assert_eq!(written, 24);
    assert_eq!(std::fs::read(guest.path("file")).unwrap(), [8; 4096]);
}

#[test]
fn pieces_of_no_length_are_passed_over() {
    let mut guest = Guest::new();
    std::fs::write(guest.path("file"), b"12345").unwrap();
    let header = InHeader { len: 45, opcode: opcode::LOOKUP, unique: 9, nodeid: SHARE, ..InHeader::default() };
    let request = [header.as_bytes(), b"file\0"].concat();
    let nothing = (Buffer::readable(DATA, 0), Buffer::writable(DATA, 0));
    let chain = [
        nothing.0,
        Buffer::readable(DATA, 3),
        nothing.0,
        Buffer::readable(DATA + 3, 42),
        nothing.0,
        nothing.1,
        Buffer::writable(ANSWER, 5),
        nothing.1,
        Buffer::writable(ANSWER + 5, 200),
        nothing.1,
    ];
    assert_eq!(guest.chain(&request, &chain), 144);
    let (head, rest) = wire::OutHeader::read_from_prefix(&guest.memory(ANSWER, 144))
        .map(|(head, rest)| (head, rest.to_vec()))
        .unwrap();
    assert_eq!((head.error, head.unique), (0, 9));
    assert_eq!(wire::EntryOut::read_from_bytes(&rest).unwrap().attr.size, 5);
}

#[test]
fn truncated_bodies_are_refused() {
    let mut guest = Guest::new();
    let (file, _) = guest.create(SHARE, b"file", 0o644).unwrap();
    for opcode in 1..=52 {
        if ![opcode::FORGET, opcode::BATCH_FORGET, opcode::INTERRUPT, opcode::DESTROY].contains(&opcode) {
            // No answer at all would hang the guest; READLINK, STATFS and SYNCFS need no body.
            let _ = guest.call(opcode, file.nodeid, &[]);
            let _ = guest.call(opcode, SHARE, &[&[0xff; 3]]);
        }
    }
    assert_eq!(names(&guest.path("")), ["file"]);
}

#[test]
fn unknown_requests_are_told_so() {
    let mut guest = Guest::new();
    for opcode in [0, 7, 19, 37, 40, 48, 53, 4096, u32::MAX] {
        assert_eq!(guest.call(opcode, SHARE, &[&[0; 64]]), Err(Errno::NOSYS), "{opcode}");
    }
}

#[test]
fn no_ioctl_reaches_the_host() {
    let mut guest = Guest::new();
    let (file, fh) = guest.create(SHARE, b"file", 0o644).unwrap();
    for command in [0x5401u32, 0x4004_6602, 0] {
        let body = [fh.as_bytes(), 0u32.as_bytes(), command.as_bytes(), &[0; 16]];
        assert_eq!(guest.call(opcode::IOCTL, file.nodeid, &body), Err(Errno::NOTTY));
    }
}

#[test]
fn interrupt_of_an_unknown_request_is_ignored() {
    let mut guest = Guest::new();
    let header = InHeader { len: 48, opcode: opcode::INTERRUPT, unique: 99, ..InHeader::default() };
    assert_eq!(guest.raw(&[header.as_bytes(), 4711u64.as_bytes()].concat(), 64), b"");
    guest.getattr(SHARE).unwrap();
}

#[test]
fn nothing_is_served_before_init_or_after_destroy() {
    let mut guest = Guest::before_init(&[Access::ReadWrite]);
    assert_eq!(guest.lookup(ROOT, b"0").err(), Some(Errno::IO));
    assert_eq!(guest.mkdir(SHARE, b"new").err(), Some(Errno::IO));
    guest.init(wire::MINOR).unwrap();
    guest.mkdir(SHARE, b"new").unwrap();
    guest.call(opcode::DESTROY, 0, &[]).unwrap();
    assert_eq!(guest.getattr(SHARE).err(), Some(Errno::IO));
}

#[test]
fn versions_are_settled_or_refused() {
    let mut guest = Guest::before_init(&[Access::ReadWrite]);
    for minor in [0, 12, 30] {
        assert_eq!(guest.init(minor).err(), Some(Errno::PROTO));
        assert_eq!(guest.getattr(SHARE).err(), Some(Errno::IO));
    }
    assert_eq!(guest.call(opcode::INIT, 0, &[[6u32, 41, 0, 0].as_bytes()]), Err(Errno::PROTO));
    let newer = guest.call(opcode::INIT, 0, &[[8u32, 0, 0, 0].as_bytes()]).unwrap();
    assert_eq!(newer[..8], *[7u32, 41].as_bytes());
    assert_eq!(guest.getattr(SHARE).err(), Some(Errno::IO), "the driver has to ask again");
    let settled = guest.init(u32::MAX).unwrap();
    assert_eq!((settled.major, settled.minor, settled.max_pages, settled.max_write), (7, 41, 256, 1 << 20));
    guest.getattr(SHARE).unwrap();
}

#[test]
fn second_init_begins_anew() {
    let mut guest = Guest::new();
    let (file, fh) = guest.create(SHARE, b"file", 0o644).unwrap();
    guest.init(wire::MINOR).unwrap();
    assert_eq!(guest.getattr(file.nodeid).err(), Some(Errno::STALE));
    assert_eq!(guest.read(file.nodeid, fh, 0, 1).err(), Some(Errno::BADF));
    assert_eq!(guest.lookup(SHARE, b"file").unwrap().attr.ino, file.attr.ino);
}

#[test]
fn size_of_a_read_costs_no_memory() {
    let mut guest = Guest::new();
    let (file, fh) = guest.create(SHARE, b"file", 0o644).unwrap();
    let asked = ReadIn { fh, size: u32::MAX, ..ReadIn::default() };
    assert_eq!(guest.call_with_room(opcode::READ, file.nodeid, &[asked.as_bytes()], 16).unwrap(), b"");
    assert!(guest.readdir(SHARE, fh, u64::MAX, u32::MAX).is_err());
    let directory = guest.opendir(SHARE).unwrap();
    let _ = guest.readdir(SHARE, directory, u64::MAX, u32::MAX);
    assert_eq!(guest.readdir(SHARE, directory, 0, u32::MAX).unwrap().len(), 3);
}

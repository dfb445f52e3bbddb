//! Extended attributes: programs' own are kept, all others refused.

use std::fs;

use rustix::fs::{CWD, Mode, OFlags, XattrFlags, getxattr, listxattr, openat, setxattr};
use rustix::io::Errno;
use zerocopy::IntoBytes;

use super::guest::{Guest, SHARE, folders};
use crate::fs::wire::{GetxattrIn, MINOR, ROOT, SetxattrIn, opcode};
use crate::fs::{Access, Guarded, Rule, Share};

const CREATE: u32 = 1;
const REPLACE: u32 = 2;
const FOREIGN: [&[u8]; 7] = [
    b"security.capability",
    b"security.selinux",
    b"trusted.overlay.opaque",
    b"system.posix_acl_access",
    b"User.x",
    b"user",
    b"x",
];

fn on_host(guest: &Guest, name: &str, attribute: &str) -> Result<Vec<u8>, Errno> {
    let mut value = [0; 64];
    let length = getxattr(guest.path(name), attribute, &mut value[..])?;
    Ok(value[..length].to_vec())
}

#[test]
fn programs_attributes_are_kept_by_the_host() {
    let mut guest = Guest::new();
    let file = guest.create(SHARE, b"file", 0o644).unwrap().0.nodeid;
    let directory = guest.mkdir(SHARE, b"directory").unwrap().nodeid;
    for (node, name) in [(file, "file"), (directory, "directory"), (SHARE, "")] {
        guest.setxattr(node, b"user.one", b"1\0\xff", 0).unwrap();
        guest.setxattr(node, b"user.empty", b"", CREATE).unwrap();
        assert_eq!(on_host(&guest, name, "user.one"), Ok(b"1\0\xff".to_vec()));
        assert_eq!(guest.getxattr(node, b"user.one", 3), Ok(b"1\0\xff".to_vec()));
        assert_eq!(guest.getxattr(node, b"user.empty", 100), Ok(Vec::new()));
        assert_eq!(guest.xattr_length(node, b"user.one").unwrap(), 3);
        assert_eq!(guest.getxattr(node, b"user.one", 2), Err(Errno::RANGE));
        assert_eq!(guest.xattr_names_length(node).unwrap(), 20);
        assert_eq!(guest.listxattr(node, 19), Err(Errno::RANGE));
        assert_eq!(guest.listxattr(node, 20).unwrap().len(), 20);
        guest.removexattr(node, b"user.one").unwrap();
        assert_eq!(guest.removexattr(node, b"user.one"), Err(Errno::NODATA));
        assert_eq!(guest.getxattr(node, b"user.one", 3), Err(Errno::NODATA));
        assert_eq!(guest.listxattr(node, 64), Ok(b"user.empty\0".to_vec()));
    }
}

#[test]
fn attributes_are_made_or_replaced_as_asked() {
    let mut guest = Guest::new();
    let file = guest.create(SHARE, b"file", 0o644).unwrap().0.nodeid;
    assert_eq!(guest.setxattr(file, b"user.x", b"1", REPLACE), Err(Errno::NODATA));
    guest.setxattr(file, b"user.x", b"1", CREATE).unwrap();
    assert_eq!(guest.setxattr(file, b"user.x", b"2", CREATE), Err(Errno::EXIST));
    guest.setxattr(file, b"user.x", b"2", REPLACE).unwrap();
    assert_eq!(guest.getxattr(file, b"user.x", 1), Ok(b"2".to_vec()));
    assert_eq!(guest.setxattr(file, b"user.x", b"3", 1 << 7), Err(Errno::INVAL));
}

#[test]
fn other_namespaces_are_neither_written_nor_told() {
    let mut guest = Guest::new();
    let file = guest.create(SHARE, b"file", 0o644).unwrap().0.nodeid;
    // What only the host's root could have set is not told either.
    let _ = setxattr(guest.path("file"), "trusted.x", b"host", XattrFlags::empty());
    for name in FOREIGN {
        assert_eq!(guest.setxattr(file, name, b"data", 0), Err(Errno::OPNOTSUPP), "{name:?}");
        assert_eq!(guest.getxattr(file, name, 64), Err(Errno::OPNOTSUPP), "{name:?}");
        assert_eq!(guest.getxattr(file, name, 0), Err(Errno::OPNOTSUPP), "{name:?}");
        assert_eq!(guest.removexattr(file, name), Err(Errno::OPNOTSUPP), "{name:?}");
    }
    assert_eq!(guest.listxattr(file, 4096), Ok(Vec::new()));
    assert_eq!(on_host(&guest, "file", "security.capability"), Err(Errno::NODATA));
}

#[test]
fn what_other_file_servers_believe_cannot_be_forged() {
    let mut guest = Guest::new();
    let file = guest.create(SHARE, b"file", 0o644).unwrap().0.nodeid;
    for name in [&b"user.containers.override_stat"[..], b"user.msb.override_stat", b"user.rootlesscontainers"] {
        assert_eq!(guest.setxattr(file, name, b"0:0:0104755", 0), Err(Errno::PERM));
        assert_eq!(guest.removexattr(file, name), Err(Errno::PERM));
    }
    assert_eq!(listxattr(guest.path("file"), &mut [0u8; 256]), Ok(0));
}

#[test]
fn the_server_itself_leaves_no_attributes() {
    let mut guest = Guest::new();
    let (file, fh) = guest.create(SHARE, b"file", 0o4755).unwrap();
    guest.mkdir(SHARE, b"directory").unwrap();
    guest.write(file.nodeid, fh, 0, b"data").unwrap();
    for name in ["file", "directory"] {
        assert_eq!(listxattr(guest.path(name), &mut [0u8; 256]), Ok(0));
    }
}

#[test]
fn sizes_that_lie_or_are_too_large_write_nothing() {
    let mut guest = Guest::new();
    let file = guest.create(SHARE, b"file", 0o644).unwrap().0.nodeid;
    for size in [0, 3, 5, u32::MAX] {
        let asked = SetxattrIn { size, flags: 0 };
        let answer = guest.call(opcode::SETXATTR, file, &[asked.as_bytes(), b"user.x\0data"]);
        assert_eq!(answer, Err(Errno::INVAL), "{size}");
    }
    let large = vec![b'x'; (64 << 10) + 1];
    assert_eq!(guest.setxattr(file, b"user.x", &large, 0), Err(Errno::TOOBIG));
    assert_eq!(guest.setxattr(file, b"user.x", &[large.as_slice(); 8].concat(), 0), Err(Errno::TOOBIG));
    // As much as Linux allows is up to the host's file system.
    assert_ne!(guest.setxattr(file, b"user.x", &large[1..], 0), Err(Errno::TOOBIG));
    let name = |length: usize| [b"user.".as_slice(), &vec![b'n'; length - 5]].concat();
    assert_eq!(guest.setxattr(file, &name(256), b"data", 0), Err(Errno::RANGE));
    assert_eq!(guest.setxattr(file, b"", b"data", 0), Err(Errno::RANGE));
    guest.setxattr(file, &name(255), b"data", 0).unwrap();
    assert_eq!(guest.getxattr(file, &name(255), u32::MAX), Ok(b"data".to_vec()));
    assert_eq!(guest.xattr_names_length(file).unwrap(), 256);
}

#[test]
fn names_without_an_end_are_no_names() {
    let mut guest = Guest::new();
    let file = guest.create(SHARE, b"file", 0o644).unwrap().0.nodeid;
    let get = GetxattrIn { size: 8, padding: 0 };
    assert_eq!(guest.call(opcode::GETXATTR, file, &[get.as_bytes(), b"user.x"]), Err(Errno::INVAL));
    assert_eq!(guest.call(opcode::GETXATTR, file, &[get.as_bytes(), b"user.x\0more"]), Err(Errno::INVAL));
    assert_eq!(guest.call(opcode::REMOVEXATTR, file, &[b"user.x"]), Err(Errno::INVAL));
    let set = SetxattrIn { size: 0, flags: 0 };
    assert_eq!(guest.call(opcode::SETXATTR, file, &[set.as_bytes(), b"user.x"]), Err(Errno::INVAL));
}

#[test]
fn only_files_and_directories_have_attributes() {
    let mut guest = Guest::new();
    fs::write(guest.outside("secret"), b"").unwrap();
    setxattr(guest.outside("secret"), "user.x", b"secret", XattrFlags::empty()).unwrap();
    let link = guest.symlink(SHARE, b"link", b"../secret").unwrap().nodeid;
    let fifo = guest.mknod(SHARE, b"fifo", 0o010_644).unwrap().nodeid;
    for node in [link, fifo] {
        assert_eq!(guest.setxattr(node, b"user.x", b"1", 0), Err(Errno::PERM));
        assert_eq!(guest.removexattr(node, b"user.x"), Err(Errno::PERM));
        assert_eq!(guest.getxattr(node, b"user.x", 64), Err(Errno::NODATA));
        assert_eq!(guest.listxattr(node, 64), Ok(Vec::new()));
    }
    assert_eq!(guest.setxattr(ROOT, b"user.x", b"1", 0), Err(Errno::ROFS));
    assert_eq!(guest.listxattr(ROOT, 64), Ok(Vec::new()));
    assert_eq!(guest.listxattr(99, 64), Err(Errno::STALE));
    fs::remove_file(guest.outside("secret")).unwrap();
    guest.assert_nothing_escaped();
}

#[test]
fn attributes_of_read_only_shares_stay() {
    let mut guest = Guest::with_access(&[Access::ReadOnly]);
    fs::write(guest.path("file"), b"").unwrap();
    setxattr(guest.path("file"), "user.x", b"1", XattrFlags::empty()).unwrap();
    let file = guest.lookup(SHARE, b"file").unwrap().nodeid;
    for node in [file, SHARE] {
        assert_eq!(guest.setxattr(node, b"user.x", b"2", 0), Err(Errno::ROFS));
        assert_eq!(guest.removexattr(node, b"user.x"), Err(Errno::ROFS));
    }
    assert_eq!(guest.getxattr(file, b"user.x", 8), Ok(b"1".to_vec()));
    assert_eq!(on_host(&guest, "file", "user.x"), Ok(b"1".to_vec()));
}

#[test]
fn attributes_of_protected_files_stay_by_whatever_name() {
    let host = tempfile::tempdir().unwrap();
    let root = host.path().join("0");
    fs::create_dir_all(root.join("kept")).unwrap();
    fs::write(root.join("kept/file"), b"").unwrap();
    fs::hard_link(root.join("kept/file"), root.join("alias")).unwrap();
    let mut share = Share::open(&root, Access::ReadWrite).unwrap();
    share.guarded = vec![Guarded { path: "kept".into(), rule: Rule::Protect }];
    let mut guest = Guest::serving(vec![share], host);
    guest.init(MINOR).unwrap();
    let alias = guest.lookup(SHARE, b"alias").unwrap().nodeid;
    let kept = guest.lookup(SHARE, b"kept").unwrap().nodeid;
    let file = guest.lookup(kept, b"file").unwrap().nodeid;
    for node in [alias, kept, file] {
        assert_eq!(guest.setxattr(node, b"user.x", b"1", 0), Err(Errno::ROFS));
        assert_eq!(guest.removexattr(node, b"user.x"), Err(Errno::ROFS));
    }
    guest.setxattr(SHARE, b"user.x", b"1", 0).unwrap();
}

#[test]
fn attributes_outlive_the_name_of_an_open_file() {
    let mut guest = Guest::new();
    let file = guest.create(SHARE, b"file", 0o644).unwrap().0.nodeid;
    guest.unlink(SHARE, b"file").unwrap();
    guest.setxattr(file, b"user.x", b"1", 0).unwrap();
    assert_eq!(guest.getxattr(file, b"user.x", 8), Ok(b"1".to_vec()));
}

#[test]
fn host_without_attributes_says_so() {
    let host = tempfile::tempdir().unwrap();
    let root = openat(CWD, c"/proc/self/fdinfo", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
    let mut share = Share::open(host.path(), Access::ReadWrite).unwrap();
    share.root = root;
    let mut guest = Guest::serving(vec![share], host);
    guest.init(MINOR).unwrap();
    assert_eq!(guest.setxattr(SHARE, b"user.x", b"1", 0), Err(Errno::OPNOTSUPP));
    assert_eq!(guest.getxattr(SHARE, b"user.x", 8), Err(Errno::OPNOTSUPP));
    assert_eq!(guest.listxattr(SHARE, 64), Ok(Vec::new()));
}

#[test]
fn driver_that_would_ask_before_every_write_is_told_once_that_there_are_none() {
    const ONLY_USER_XATTR: u64 = 1 << 61;
    let (host, shares) = folders(&[Access::ReadWrite]);
    let mut guest = Guest::serving(shares, host);
    guest.init_with(MINOR, !ONLY_USER_XATTR).unwrap();
    let file = guest.create(SHARE, b"file", 0o644).unwrap().0.nodeid;
    for name in [&b"security.capability"[..], b"user.x"] {
        assert_eq!(guest.getxattr(file, name, 0), Err(Errno::NOSYS));
        assert_eq!(guest.setxattr(file, name, b"1", 0), Err(Errno::NOSYS));
        assert_eq!(guest.removexattr(file, name), Err(Errno::NOSYS));
    }
    assert_eq!(guest.listxattr(file, 0), Err(Errno::NOSYS));
}

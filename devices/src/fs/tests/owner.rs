//! Whom files belong to on either side.

use std::os::unix::fs::MetadataExt;

use rustix::fs::{Gid, Uid, chown};
use rustix::io::Errno;
use rustix::process::geteuid;

use super::guest::{Guest, SHARE, folders};
use crate::fs::wire::{MINOR, SetattrIn, set};
use crate::fs::{Access, Fs, Owner, Ownership, Share};

const NOBODY: u32 = 65_534;
const USER: Owner = Owner { uid: 4711, gid: 4712 };

fn to_owner(uid: u32, gid: u32) -> SetattrIn {
    SetattrIn { valid: set::UID | set::GID, uid, gid, ..SetattrIn::default() }
}

#[test]
fn own_files_are_roots_in_the_guest() {
    let mut guest = Guest::new();
    let (file, _) = guest.create(SHARE, b"file", 0o644).unwrap();
    assert_eq!((file.attr.uid, file.attr.gid), (0, 0));
}

#[test]
fn giving_files_away_is_accepted_without_effect() {
    let mut guest = Guest::new();
    let (file, _) = guest.create(SHARE, b"file", 0o644).unwrap();
    let before = std::fs::metadata(guest.path("file")).unwrap();
    for (uid, gid) in [(0, 0), (1000, 1000), (u32::MAX, 0)] {
        let attr = guest.setattr(file.nodeid, &to_owner(uid, gid)).unwrap();
        assert_eq!((attr.uid, attr.gid), (0, 0));
    }
    let after = std::fs::metadata(guest.path("file")).unwrap();
    assert_eq!((after.uid(), after.gid()), (before.uid(), before.gid()));
}

#[test]
fn guest_may_know_the_owner_by_another_number() {
    let host = tempfile::tempdir().unwrap();
    let mut share = Share::open(host.path(), Access::ReadWrite).unwrap();
    share.ownership.guest = Owner { uid: 1000, gid: 1001 };
    let mut guest = Guest::serving(vec![share], host);
    guest.init(MINOR).unwrap();
    let (file, _) = guest.create(SHARE, b"file", 0o644).unwrap();
    assert_eq!((file.attr.uid, file.attr.gid), (1000, 1001));
}

#[test]
fn owner_may_be_told_when_the_device_runs() {
    let (host, shares) = folders(&[Access::ReadWrite]);
    let device = Fs::new(shares).unwrap();
    let owner_seen = device.owner_seen();
    let mut guest = Guest::around(device, host);
    guest.init(MINOR).unwrap();
    owner_seen.set(Owner { uid: NOBODY, gid: 1001 });
    let (file, _) = guest.create(SHARE, b"file", 0o644).unwrap();
    assert_eq!((file.attr.uid, file.attr.gid), (NOBODY, 1001));
    // Even whom nobody's files seem to belong to owns the share's.
    let attr = guest.setattr(file.nodeid, &to_owner(NOBODY, 1001)).unwrap();
    assert_eq!((attr.uid, attr.gid), (NOBODY, 1001));
}

#[test]
fn roots_server_gives_new_files_to_the_shares_owner() {
    if !geteuid().is_root() {
        // Nobody else can give files away.
        return;
    }
    let host = tempfile::tempdir().unwrap();
    let path = host.path().to_owned();
    let mut share = Share::open(&path, Access::ReadWrite).unwrap();
    share.ownership = Ownership { host: USER, guest: Owner { uid: 0, gid: 0 } };
    let mut guest = Guest::serving(vec![share], host);
    guest.init(MINOR).unwrap();
    guest.create(SHARE, b"file", 0o644).unwrap();
    guest.mkdir(SHARE, b"directory").unwrap();
    guest.symlink(SHARE, b"link", b"target").unwrap();
    guest.mknod(SHARE, b"fifo", 0o010_644).unwrap();
    for name in ["file", "directory", "link", "fifo"] {
        let metadata = path.join(name).symlink_metadata().unwrap();
        assert_eq!((metadata.uid(), metadata.gid()), (USER.uid, USER.gid), "{name}");
        let attr = guest.lookup(SHARE, name.as_bytes()).unwrap().attr;
        assert_eq!((attr.uid, attr.gid), (0, 0), "{name}");
    }
    std::fs::write(path.join("foreign"), b"").unwrap();
    chown(path.join("foreign"), Some(Uid::from_raw(1)), Some(Gid::from_raw(1))).unwrap();
    let foreign = guest.lookup(SHARE, b"foreign").unwrap();
    assert_eq!((foreign.attr.uid, foreign.attr.gid), (NOBODY, NOBODY));
    assert_eq!(guest.setattr(foreign.nodeid, &to_owner(0, 0)).err(), Some(Errno::PERM));
}

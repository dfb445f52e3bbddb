//! What the guest may believe for long, and what it is told when that changes.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use nix::sys::fanotify::MaskFlags;
use zerocopy::{FromBytes, IntoBytes};

use super::guest::SHARE;
use super::listener::{Listener, bytes};
use crate::fs::notice::Notice;
use crate::fs::wire::{AttrOut, GetattrIn, opcode};
use crate::fs::{Access, Guarded, Rule, Share};

const MOMENT: u64 = 1;
const DAY: u64 = 86_400;

fn valid(guest: &mut Listener, node: u64) -> u64 {
    let answer = guest.call(opcode::GETATTR, node, &[GetattrIn::default().as_bytes()]).unwrap();
    AttrOut::read_from_bytes(&answer).unwrap().attr_valid
}

fn node(node: u64, contents: bool) -> Notice {
    Notice::Node { node, contents }
}

fn entry(parent: u64, name: &str) -> Notice {
    Notice::Entry { parent, name: std::ffi::CString::new(name).unwrap() }
}

fn event(parent: u64, name: &str, mask: MaskFlags) -> Notice {
    let mask = u32::try_from(mask.bits()).unwrap();
    Notice::Event { parent, name: std::ffi::CString::new(name).unwrap(), mask, cookie: 0 }
}

fn all(notices: &[Notice]) -> Vec<Vec<u8>> {
    notices.iter().map(bytes).collect()
}

#[test]
fn names_and_attributes_are_believed_for_long_where_changes_are_told() {
    let mut guest = Listener::deaf();
    fs::write(guest.path("file"), b"data").unwrap();
    fs::create_dir(guest.path("folder")).unwrap();
    let believed = |guest: &mut Listener, name: &[u8]| {
        let entry = guest.lookup(SHARE, name).unwrap();
        (entry.entry_valid, entry.attr_valid)
    };
    assert_eq!(believed(&mut guest, b"file"), (MOMENT, MOMENT), "nobody listens");
    guest.listen();
    assert_eq!(believed(&mut guest, b"file"), (DAY, DAY));
    assert_eq!(guest.lookup(SHARE, b"absent").unwrap().entry_valid, DAY);
    let node = guest.lookup(SHARE, b"file").unwrap().nodeid;
    assert_eq!((valid(&mut guest, node), valid(&mut guest, SHARE)), (DAY, DAY));
    assert_eq!(believed(&mut guest, b"folder"), (DAY, MOMENT), "nobody looked into it");
    let folder = guest.lookup(SHARE, b"folder").unwrap().nodeid;
    guest.lookup(folder, b"absent").unwrap();
    assert_eq!((believed(&mut guest, b"folder"), valid(&mut guest, folder)), ((DAY, DAY), DAY));
    guest.turn_away();
    // The end is noticed as soon as the next message is sent, or before.
    fs::write(guest.path("other"), b"").unwrap();
    while believed(&mut guest, b"file") != (MOMENT, MOMENT) {}
    guest.listen();
    assert_eq!(believed(&mut guest, b"file"), (DAY, DAY));
}

#[test]
fn listings_tell_what_may_be_believed_for_long() {
    let mut guest = Listener::deaf();
    fs::write(guest.path("file"), b"data").unwrap();
    guest.listen();
    let fh = guest.opendir(SHARE).unwrap();
    let listed = guest.readdirplus(SHARE, fh, 0).unwrap();
    let (_, file) = listed.iter().find(|(name, _)| name == b"file").unwrap();
    assert_eq!((file.entry_valid, file.attr_valid), (DAY, DAY));
}

#[test]
fn attributes_of_files_with_several_names_are_believed_for_a_moment() {
    let mut guest = Listener::new();
    fs::write(guest.path("file"), b"").unwrap();
    fs::hard_link(guest.path("file"), guest.outside("link")).unwrap();
    let file = guest.lookup(SHARE, b"file").unwrap();
    assert_eq!((file.entry_valid, file.attr_valid), (DAY, MOMENT));
    assert_eq!(valid(&mut guest, file.nodeid), MOMENT);
}

#[test]
fn edit_in_place_is_told() {
    let mut guest = Listener::deaf();
    fs::write(guest.path("file"), b"old").unwrap();
    guest.listen();
    let file = guest.lookup(SHARE, b"file").unwrap().nodeid;
    fs::write(guest.path("file"), b"new contents").unwrap();
    let told = guest.told_until(&event(SHARE, "file", MaskFlags::FAN_CLOSE_WRITE));
    assert_eq!(told[0], bytes(&node(file, true)), "what is out of date comes first");
    assert!(told.contains(&bytes(&event(SHARE, "file", MaskFlags::FAN_MODIFY))));
    fs::set_permissions(guest.path("file"), PermissionsExt::from_mode(0o600)).unwrap();
    let told = guest.told_until(&event(SHARE, "file", MaskFlags::FAN_ATTRIB));
    assert_eq!(told.last(), Some(&bytes(&node(file, false))), "the contents are still good");
}

#[test]
fn new_and_removed_names_are_told() {
    let mut guest = Listener::new();
    fs::write(guest.path("new"), b"").unwrap();
    let told = guest.told_until(&event(SHARE, "new", MaskFlags::FAN_CREATE));
    assert_eq!(told, all(&[entry(SHARE, "new"), node(SHARE, true)]));
    guest.told_until(&event(SHARE, "new", MaskFlags::FAN_CLOSE_WRITE));
    fs::remove_file(guest.path("new")).unwrap();
    let told = guest.told_until(&event(SHARE, "new", MaskFlags::FAN_DELETE));
    assert_eq!(told, all(&[entry(SHARE, "new"), node(SHARE, true)]));
    fs::create_dir(guest.path("folder")).unwrap();
    guest.told_until(&event(SHARE, "folder", MaskFlags::FAN_CREATE | MaskFlags::FAN_ONDIR));
}

#[test]
fn move_is_told_at_both_ends() {
    let mut guest = Listener::deaf();
    fs::create_dir(guest.path("folder")).unwrap();
    fs::write(guest.path("folder/file"), b"new").unwrap();
    fs::write(guest.path("file"), b"old").unwrap();
    guest.listen();
    guest.lookup(SHARE, b"file").unwrap();
    let folder = guest.lookup(SHARE, b"folder").unwrap().nodeid;
    let moved = guest.lookup(folder, b"file").unwrap().nodeid;
    fs::rename(guest.path("folder/file"), guest.path("file")).unwrap();
    let end = |parent, mask: MaskFlags| {
        let mask = u32::try_from(mask.bits()).unwrap();
        Notice::Event { parent, name: c"file".into(), mask, cookie: 1 }
    };
    let told = guest.told_until(&end(SHARE, MaskFlags::FAN_MOVED_TO));
    let expected = [
        entry(folder, "file"),
        node(folder, true),
        entry(SHARE, "file"),
        node(SHARE, true),
        node(moved, true),
        end(folder, MaskFlags::FAN_MOVED_FROM),
    ];
    assert_eq!(told, all(&expected));
    assert_eq!(guest.getattr(moved).unwrap().size, 3, "it is found where it went");
}

#[test]
fn change_in_a_directory_that_moves_at_once_is_told() {
    let mut guest = Listener::deaf();
    fs::create_dir_all(guest.path("a/b")).unwrap();
    fs::write(guest.path("a/b/file"), b"old").unwrap();
    guest.listen();
    let a = guest.lookup(SHARE, b"a").unwrap().nodeid;
    let b = guest.lookup(a, b"b").unwrap().nodeid;
    let file = guest.lookup(b, b"file").unwrap().nodeid;
    fs::write(guest.path("a/b/file"), b"new").unwrap();
    fs::rename(guest.path("a"), guest.path("moved")).unwrap();
    fs::write(guest.path("moved/b/file"), b"newer").unwrap();
    fs::rename(guest.path("moved/b"), guest.outside("gone")).unwrap();
    fs::write(guest.path("marker"), b"").unwrap();
    let told = guest.told_until(&event(SHARE, "marker", MaskFlags::FAN_CREATE));
    // Whether the file was still within reach when the worker looked for it, or only its name is told.
    assert!(told.contains(&bytes(&node(file, true))) || told.contains(&bytes(&entry(b, "file"))));
    assert!(told.contains(&bytes(&entry(SHARE, "moved"))) && told.contains(&bytes(&entry(a, "b"))));
}

#[test]
fn hidden_names_are_never_told() {
    let host = tempfile::tempdir().unwrap();
    let path = host.path().join("0");
    fs::create_dir(&path).unwrap();
    fs::write(path.join("secret"), b"1").unwrap();
    let hidden = Guarded { path: "secret".into(), rule: Rule::Hide };
    let share = Share { guarded: vec![hidden], ..Share::open(&path, Access::ReadWrite).unwrap() };
    let mut guest = Listener::serving(vec![share], host, 1, u64::MAX);
    guest.listen();
    guest.lookup(SHARE, b"marker").unwrap();
    fs::write(guest.path("secret"), b"2").unwrap();
    fs::remove_file(guest.path("secret")).unwrap();
    fs::write(guest.path("secret"), b"3").unwrap();
    fs::rename(guest.path("secret"), guest.path("public")).unwrap();
    fs::write(guest.path("marker"), b"").unwrap();
    let told = guest.told_until(&event(SHARE, "marker", MaskFlags::FAN_CREATE)).concat();
    assert!(!told.windows(6).any(|piece| piece == b"secret"));
    assert!(told.windows(6).any(|piece| piece == b"public"));
}

#[test]
fn guests_own_changes_are_not_told() {
    let mut guest = Listener::alone();
    let (file, fh) = guest.create(SHARE, b"own", 0o644).unwrap();
    assert_eq!((file.entry_valid, file.attr_valid), (DAY, DAY));
    guest.write(file.nodeid, fh, 0, b"data").unwrap();
    guest.rename((SHARE, b"own"), (SHARE, b"renamed"), 0).unwrap();
    let touched = Command::new("touch").arg(guest.path("marker")).status().unwrap();
    assert!(touched.success());
    let told = guest.told_until(&event(SHARE, "marker", MaskFlags::FAN_CREATE));
    assert_eq!(told, all(&[entry(SHARE, "marker"), node(SHARE, true)]));
}

#[test]
fn many_changes_end_in_a_message_about_everything_at_most() {
    const MANY: usize = 20_000;
    let mut guest = Listener::new();
    for index in 0..MANY {
        fs::write(guest.path(&index.to_string()), b"").unwrap();
    }
    // Nobody has read anything so far; whether the last file is told of by name or as part of everything is all the same.
    let last = bytes(&entry(SHARE, &(MANY - 1).to_string()));
    loop {
        let message = guest.next_notice();
        if message == last || message == bytes(&Notice::Everything) {
            break;
        }
    }
}

#[test]
fn directory_can_be_forgotten_and_looked_into_again() {
    let mut guest = Listener::new();
    fs::create_dir(guest.path("folder")).unwrap();
    let first = guest.lookup(SHARE, b"folder").unwrap().nodeid;
    guest.lookup(first, b"absent").unwrap();
    guest.forget(first, 1);
    fs::write(guest.path("folder/unseen"), b"").unwrap();
    let second = guest.lookup(SHARE, b"folder").unwrap().nodeid;
    assert_ne!(first, second);
    assert_eq!(guest.lookup(second, b"absent").unwrap().entry_valid, DAY);
    fs::write(guest.path("folder/seen"), b"").unwrap();
    guest.told_until(&event(second, "seen", MaskFlags::FAN_CREATE));
}

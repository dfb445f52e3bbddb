//! Listings.

use std::collections::BTreeSet;
use std::fs;

use rustix::io::Errno;

use super::guest::{Guest, SHARE};
use crate::fs::Access;
use crate::fs::linger;
use crate::fs::wire::{self, InitOut, ROOT, feature};

const MANY: usize = 2000;

fn filled() -> (Guest, BTreeSet<Vec<u8>>) {
    let guest = Guest::new();
    let names: Vec<String> = (0..MANY).map(|index| format!("file with a name of some length {index}")).collect();
    for name in &names {
        fs::write(guest.path(name), b"").unwrap();
    }
    let all = names.into_iter().chain([".".into(), "..".into()]).map(String::into_bytes).collect();
    (guest, all)
}

#[test]
fn every_entry_is_listed_once_in_pieces_of_any_size() {
    let (mut guest, expected) = filled();
    for size in [200, 333, 4096, 8192] {
        let fh = guest.opendir(SHARE).unwrap();
        let mut listed = Vec::new();
        let mut offset = 0;
        loop {
            let piece = guest.readdir(SHARE, fh, offset, size).unwrap();
            let Some((_, next)) = piece.last() else { break };
            offset = *next;
            listed.extend(piece.into_iter().map(|(name, _)| name));
        }
        assert_eq!(listed.len(), expected.len());
        assert_eq!(listed.into_iter().collect::<BTreeSet<_>>(), expected);
        guest.release(SHARE, fh).unwrap();
    }
}

#[test]
fn listing_goes_on_from_any_position() {
    let (mut guest, _) = filled();
    let fh = guest.opendir(SHARE).unwrap();
    let whole = guest.readdir(SHARE, fh, 0, 4096).unwrap();
    let position = whole[9].1;
    guest.readdir(SHARE, fh, whole.last().unwrap().1, 4096).unwrap();
    let again = guest.readdir(SHARE, fh, position, 4096).unwrap();
    assert_eq!(again[0], whole[10]);
    assert_eq!(guest.readdir(SHARE, fh, 0, 4096).unwrap(), whole);
}

#[test]
fn entries_come_with_nodes_the_guest_may_forget() {
    let mut guest = Guest::new();
    fs::create_dir(guest.path("directory")).unwrap();
    fs::write(guest.path("file"), b"12345").unwrap();
    let fh = guest.opendir(SHARE).unwrap();
    let listed = guest.readdirplus(SHARE, fh, 0).unwrap();
    let known = |name: &[u8]| listed.iter().find(|(listed, _)| listed == name).unwrap().1;
    assert_eq!((known(b".").nodeid, known(b"..").nodeid), (0, 0));
    let file = known(b"file");
    assert_eq!((file.attr.size, file.attr.mode & 0o170_000), (5, 0o100_000));
    assert_eq!(guest.lookup(SHARE, b"file").unwrap().nodeid, file.nodeid);
    guest.forget(file.nodeid, 2);
    assert_eq!(guest.getattr(file.nodeid).err(), Some(Errno::STALE));
}

#[test]
fn shares_are_listed_in_the_root() {
    let mut guest = Guest::with_access(&[Access::ReadWrite; 200]);
    let fh = guest.opendir(ROOT).unwrap();
    let mut names = Vec::new();
    loop {
        let piece = guest.readdir(ROOT, fh, names.len() as u64, 1024).unwrap();
        if piece.is_empty() {
            break;
        }
        names.extend(piece.into_iter().map(|(name, _)| String::from_utf8(name).unwrap()));
    }
    assert_eq!(names, (0..200).map(|index| index.to_string()).collect::<Vec<_>>());
    let known = guest.readdirplus(ROOT, fh, 0).unwrap();
    assert_eq!((&known[1].0[..], known[1].1.nodeid), (&b"1"[..], SHARE + 1));
}

#[test]
fn too_little_room_for_one_entry_is_an_error_not_the_end() {
    let mut guest = Guest::new();
    fs::write(guest.path("file"), b"").unwrap();
    let fh = guest.opendir(SHARE).unwrap();
    assert_eq!(guest.readdir(SHARE, fh, 0, 31).err(), Some(Errno::INVAL));
    assert_eq!(guest.readdir(SHARE, fh, 0, 32).unwrap().len(), 1);
}

#[test]
fn files_are_no_directories() {
    let mut guest = Guest::new();
    let (file, _) = guest.create(SHARE, b"file", 0o644).unwrap();
    assert_eq!(guest.opendir(file.nodeid).err(), Some(Errno::NOTDIR));
    assert_eq!(guest.lookup(file.nodeid, b"x").err(), Some(Errno::NOTDIR));
    assert_eq!(guest.open(SHARE, 0).err(), Some(Errno::ISDIR));
}

#[test]
fn a_kernel_looks_for_answers_only_if_the_worker_stays_awake() {
    let mut guest = Guest::new();
    let agreed = |answer: InitOut| (u64::from(answer.flags2) << 32) & feature::ANSWERS_SOON != 0;
    assert_eq!(agreed(guest.init(wire::MINOR).unwrap()), linger::has_company());
    assert!(!agreed(guest.init_with(wire::MINOR, !feature::ANSWERS_SOON).unwrap()));
}

use rustix::fs::{MemfdFlags, memfd_create};

use super::*;

const LIMITS: Limits = Limits { cached: 3, pinned: 2 };
const FIRST: u64 = 2;

fn identity(inode: u64) -> Identity {
    Identity { share: 0, device: 1, inode, born: 0 }
}

fn descriptor() -> Arc<OwnedFd> {
    Arc::new(memfd_create("file", MemfdFlags::CLOEXEC).unwrap())
}

/// A table with one share, whose root has the ID `FIRST`.
fn nodes() -> Nodes {
    let nodes = Nodes::new(FIRST, LIMITS);
    assert_eq!(nodes.add_share(identity(0), FileType::Directory, descriptor(), Position::default()), FIRST);
    nodes
}

fn directory(nodes: &Nodes, parent: u64, inode: u64) -> u64 {
    nodes.remember(identity(inode), FileType::Directory, (parent, c"name"), Position::default()).unwrap().id
}

fn is_held(nodes: &Nodes, id: u64) -> bool {
    matches!(nodes.find(id).unwrap().way, Way::Held(_))
}

#[test]
fn node_lives_as_long_as_it_is_known() {
    let nodes = nodes();
    let id = directory(&nodes, FIRST, 10);
    assert_eq!(directory(&nodes, FIRST, 10), id);
    nodes.forget(id, 1);
    assert!(nodes.find(id).is_ok());
    nodes.forget(id, 1);
    assert_eq!(nodes.find(id).err(), Some(Errno::STALE));
    assert_eq!(nodes.len(), 1);
}

#[test]
fn parents_live_as_long_as_their_children_need_them() {
    let nodes = nodes();
    let top = directory(&nodes, FIRST, 10);
    let middle = directory(&nodes, top, 11);
    let bottom = directory(&nodes, middle, 12);
    nodes.forget(top, 1);
    nodes.forget(middle, 1);
    assert_eq!(nodes.len(), 4);
    nodes.forget(bottom, 1);
    assert_eq!(nodes.len(), 1);
}

#[test]
fn moving_a_node_releases_its_old_parent() {
    let nodes = nodes();
    let from = directory(&nodes, FIRST, 10);
    let child = directory(&nodes, from, 11);
    nodes.forget(from, 1);
    nodes.moved(&identity(11), (FIRST, c"elsewhere"), Position::default());
    assert_eq!(nodes.find(from).err(), Some(Errno::STALE));
    assert!(matches!(nodes.find(child).unwrap().way, Way::Named(FIRST, name) if name.as_c_str() == c"elsewhere"));
}

#[test]
fn shares_are_never_forgotten_or_moved() {
    let nodes = nodes();
    nodes.forget(FIRST, u64::MAX);
    nodes.moved(&identity(0), (FIRST, c"inside itself"), Position::default());
    assert!(is_held(&nodes, FIRST));
    nodes.clear();
    assert!(is_held(&nodes, FIRST));
}

#[test]
fn cache_keeps_what_is_used_and_closes_the_rest() {
    let nodes = nodes();
    let ids: Vec<u64> = (10..13).map(|inode| directory(&nodes, FIRST, inode)).collect();
    ids.iter().for_each(|id| nodes.cache(*id, descriptor()));
    // Everybody is used when new; this round takes all chances, and the oldest goes.
    let fourth = directory(&nodes, FIRST, 13);
    nodes.cache(fourth, descriptor());
    assert_eq!(ids.iter().map(|id| is_held(&nodes, *id)).collect::<Vec<_>>(), [false, true, true]);
    // By looking, both were used again, the fourth was not looked at since.
    let fifth = directory(&nodes, FIRST, 14);
    nodes.cache(fifth, descriptor());
    assert_eq!(nodes.descriptors(), 1 + LIMITS.cached);
    nodes.drop_cached();
    assert_eq!(nodes.descriptors(), 1);
}

#[test]
fn pins_are_bounded_and_outlive_the_cache() {
    let nodes = nodes();
    let ids: Vec<u64> = (10..13).map(|inode| directory(&nodes, FIRST, inode)).collect();
    assert_eq!(nodes.needs_pin(&identity(10)), Some(ids[0]));
    nodes.pin(ids[0], descriptor());
    assert_eq!(nodes.needs_pin(&identity(10)), None);
    nodes.pin(ids[1], descriptor());
    assert_eq!(nodes.needs_pin(&identity(12)), None, "no more than the limit");
    nodes.drop_cached();
    assert!(is_held(&nodes, ids[0]));
    nodes.forget(ids[0], 1);
    assert_eq!(nodes.needs_pin(&identity(12)), Some(ids[2]));
    nodes.unpin(ids[1]);
    assert!(!is_held(&nodes, ids[1]));
}

#[test]
fn file_without_a_name_is_held_until_it_is_forgotten() {
    let nodes = nodes();
    let file = memfd_create("file", MemfdFlags::CLOEXEC).unwrap();
    let id = nodes.remember_nameless(identity(10), FileType::RegularFile, file).unwrap();
    nodes.unpin(id);
    assert!(is_held(&nodes, id), "there is no other way to it");
    nodes.forget(id, 1);
    assert_eq!(nodes.descriptors(), 1);
}

#[test]
fn version_is_the_same_only_if_known_twice() {
    let nodes = nodes();
    let id = directory(&nodes, FIRST, 10);
    let version = Version { size: 1, modified: 2, changed: 3 };
    assert!(!nodes.opened(id, Some(version)));
    assert!(nodes.opened(id, Some(version)));
    assert!(!nodes.opened(id, Some(Version { changed: 4, ..version })));
    assert!(!nodes.opened(id, None));
    assert!(!nodes.opened(id, None));
}

#[test]
fn node_costs_little_memory() {
    // With its name and two map entries, about 250 bytes.
    assert!(size_of::<Node>() <= 112, "{}", size_of::<Node>());
}

#[test]
fn node_costs_no_more_than_300_bytes() {
    const NAME: usize = 32;
    // Maps are at worst 7/16 full; each slot has a byte of its own.
    let slots = (size_of::<(u64, Box<Node>)>() + 1 + size_of::<(Identity, u64)>() + 1) * 16 / 7;
    let all = size_of::<Node>() + NAME + slots;
    assert!(all <= 300, "{all}");
}

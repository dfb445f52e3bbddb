//! Protected and hidden paths, against everything that could change or show what is there.

use std::fs;
use std::path::PathBuf;

use rustix::io::Errno;
use tempfile::TempDir;
use zerocopy::IntoBytes;

use super::busy::Busy;
use super::guest::{Guest, SHARE, libc_flags, names};
use crate::fs::wire::{CreateIn, MINOR, ROOT, SetattrIn, opcode, set};
use crate::fs::{Access, GuardReport, Guarded, Rule, Share};

const REFUSED: Option<Errno> = Some(Errno::ROFS);
const EXCHANGE: u32 = 2;

/// A guest whose share is a git repository as far as the rules go, with a secret in it.
fn guest() -> Guest {
    guest_with(&[
        (".git/hooks", Rule::Protect),
        (".git/config", Rule::Protect),
        (".git/commondir", Rule::Protect),
        (".envrc", Rule::Protect),
        (".env", Rule::Hide),
        ("deep/secrets", Rule::Hide),
    ])
}

fn guest_with(rules: &[(&str, Rule)]) -> Guest {
    let (host, share) = guarded(rules);
    let mut guest = Guest::serving(vec![share], host);
    guest.init(MINOR).unwrap();
    guest
}

fn guarded(rules: &[(&str, Rule)]) -> (TempDir, Share) {
    let host = tempfile::tempdir().unwrap();
    let root = host.path().join("0");
    fs::create_dir_all(root.join(".git/hooks")).unwrap();
    fs::create_dir_all(root.join("deep/secrets")).unwrap();
    for (name, contents) in
        [(".git/config", "config"), (".git/hooks/pre-commit", "hook"), (".env", "secret"), ("deep/secrets/key", "key")]
    {
        fs::write(root.join(name), contents).unwrap();
    }
    let mut share = Share::open(&root, Access::ReadWrite).unwrap();
    share.guarded = rules.iter().map(|(path, rule)| Guarded { path: PathBuf::from(path), rule: *rule }).collect();
    (host, share)
}

fn node(guest: &mut Guest, path: &str) -> u64 {
    path.split('/').fold(SHARE, |parent, name| guest.lookup(parent, name.as_bytes()).unwrap().nodeid)
}

#[test]
fn protected_files_are_read_but_not_written() {
    let mut guest = guest();
    for path in [".git/config", ".git/hooks/pre-commit"] {
        let file = node(&mut guest, path);
        let fh = guest.open(file, libc_flags::RDONLY).unwrap().fh;
        assert!(!guest.read(file, fh, 0, 64).unwrap().is_empty());
        for flags in [libc_flags::WRONLY, libc_flags::RDWR, libc_flags::RDONLY | libc_flags::TRUNC] {
            assert_eq!(guest.open(file, flags).err(), REFUSED, "{path}");
        }
        for valid in [set::MODE, set::SIZE, set::MTIME | set::MTIME_NOW, set::UID, set::SIZE | set::FH] {
            assert_eq!(guest.setattr(file, &SetattrIn { valid, fh, ..SetattrIn::default() }).err(), REFUSED, "{path}");
        }
    }
    assert_eq!(fs::read(guest.path(".git/config")).unwrap(), b"config");
}

#[test]
fn protected_directories_keep_their_entries() {
    let mut guest = guest();
    let hooks = node(&mut guest, ".git/hooks");
    let (other, _) = guest.create(SHARE, b"other", 0o755).unwrap();
    assert_eq!(guest.create(hooks, b"post-commit", 0o755).err(), REFUSED);
    assert_eq!(guest.mkdir(hooks, b"x").err(), REFUSED);
    assert_eq!(guest.mknod(hooks, b"x", 0o100_755).err(), REFUSED);
    assert_eq!(guest.symlink(hooks, b"post-commit", b"/tmp/x").err(), REFUSED);
    assert_eq!(guest.link(other.nodeid, hooks, b"post-commit").err(), REFUSED);
    assert_eq!(guest.unlink(hooks, b"pre-commit").err(), REFUSED);
    assert_eq!(guest.rename((SHARE, b"other"), (hooks, b"pre-commit"), 0).err(), REFUSED);
    assert_eq!(guest.rename((hooks, b"pre-commit"), (SHARE, b"out"), 0).err(), REFUSED);
    assert_eq!(guest.rename((hooks, b"pre-commit"), (SHARE, b"other"), EXCHANGE).err(), REFUSED);
    let tmpfile = CreateIn { flags: 2, mode: 0o644, umask: 0, open_flags: 0 };
    assert_eq!(guest.call(opcode::TMPFILE, hooks, &[tmpfile.as_bytes(), b"/\0"]).err(), REFUSED);
    assert_eq!(names(&guest.path(".git/hooks")), ["pre-commit"]);
}

#[test]
fn nothing_takes_the_place_of_what_is_protected() {
    let mut guest = guest();
    let git = node(&mut guest, ".git");
    let (_, fh) = guest.create(git, b"config.lock", 0o644).unwrap();
    let lock = node(&mut guest, ".git/config.lock");
    guest.write(lock, fh, 0, b"[core] fsmonitor = evil").unwrap();
    guest.mkdir(SHARE, b"evil").unwrap();
    for flags in [0, EXCHANGE] {
        assert_eq!(guest.rename((git, b"config.lock"), (git, b"config"), flags).err(), REFUSED);
        assert_eq!(guest.rename((git, b"config.lock"), (SHARE, b".envrc"), flags).err(), REFUSED);
        assert_eq!(guest.rename((SHARE, b"evil"), (git, b"hooks"), flags).err(), REFUSED);
    }
    assert_eq!(guest.unlink(git, b"config").err(), REFUSED);
    assert_eq!(guest.rmdir(git, b"hooks").err(), REFUSED);
    // What is not there cannot be put there either.
    for (parent, name) in [(git, &b"commondir"[..]), (SHARE, b".envrc"), (SHARE, b".ENVRC")] {
        assert_eq!(guest.create(parent, name, 0o644).err(), REFUSED);
        assert_eq!(guest.mkdir(parent, name).err(), REFUSED);
        assert_eq!(guest.symlink(parent, name, b"evil").err(), REFUSED);
        assert_eq!(guest.link(lock, parent, name).err(), REFUSED);
    }
    assert_eq!(fs::read(guest.path(".git/config")).unwrap(), b"config");
}

#[test]
fn way_to_what_is_protected_cannot_be_bent() {
    let mut guest = guest();
    guest.mkdir(SHARE, b"evil").unwrap();
    assert_eq!(guest.rename((SHARE, b".git"), (SHARE, b"moved"), 0).err(), REFUSED);
    assert_eq!(guest.rename((SHARE, b"evil"), (SHARE, b".git"), EXCHANGE).err(), REFUSED);
    assert_eq!(guest.rename((SHARE, b".git"), (SHARE, b"evil"), EXCHANGE).err(), REFUSED);
    assert_eq!(guest.rmdir(SHARE, b"deep").err(), REFUSED);
    // The rest of the repository works as ever.
    let git = node(&mut guest, ".git");
    guest.create(git, b"index.lock", 0o644).unwrap();
    guest.rename((git, b"index.lock"), (git, b"index"), 0).unwrap();
    guest.unlink(git, b"index").unwrap();
}

#[test]
fn way_that_is_not_there_yet_is_made_of_directories_only() {
    let mut guest = guest_with(&[("new/inner/file", Rule::Protect)]);
    guest.mkdir(SHARE, b"elsewhere").unwrap();
    assert_eq!(guest.symlink(SHARE, b"new", b"elsewhere").err(), REFUSED);
    assert_eq!(guest.create(SHARE, b"NEW", 0o644).err(), REFUSED);
    assert_eq!(guest.rename((SHARE, b"elsewhere"), (SHARE, b"new"), 0).err(), REFUSED);
    let new = guest.mkdir(SHARE, b"new").unwrap().nodeid;
    let inner = guest.mkdir(new, b"inner").unwrap().nodeid;
    guest.create(inner, b"other", 0o644).unwrap();
    assert_eq!(guest.create(inner, b"file", 0o644).err(), REFUSED);
    assert_eq!(guest.rename((SHARE, b"new"), (SHARE, b"old"), 0).err(), REFUSED);
}

#[test]
fn other_names_of_a_protected_file_are_protected_too() {
    let mut guest = guest();
    fs::hard_link(guest.path(".git/hooks/pre-commit"), guest.path("link")).unwrap();
    fs::hard_link(guest.path(".git/config"), guest.path("cfg")).unwrap();
    for name in [&b"link"[..], b"cfg"] {
        let link = guest.lookup(SHARE, name).unwrap().nodeid;
        assert_eq!(guest.open(link, libc_flags::WRONLY).err(), REFUSED);
        assert_eq!(guest.setattr(link, &SetattrIn { valid: set::SIZE, ..SetattrIn::default() }).err(), REFUSED);
    }
    let hook = node(&mut guest, ".git/hooks/pre-commit");
    assert_eq!(guest.link(hook, SHARE, b"mine").err(), REFUSED);
    // Others with several names are not meant.
    fs::write(guest.path("one"), b"").unwrap();
    fs::hard_link(guest.path("one"), guest.path("two")).unwrap();
    let two = guest.lookup(SHARE, b"two").unwrap().nodeid;
    guest.open(two, libc_flags::WRONLY).unwrap();
}

#[test]
fn protection_follows_a_directory_the_host_moves() {
    let mut guest = guest();
    fs::rename(guest.path(".git"), guest.path("was-git")).unwrap();
    let hooks = node(&mut guest, "was-git/hooks");
    assert_eq!(guest.create(hooks, b"post-commit", 0o755).err(), REFUSED);
    assert_eq!(guest.create(hooks, b"pre-commit", 0o755).err(), REFUSED);
}

#[test]
fn what_the_host_replaces_stays_protected() {
    let mut guest = guest();
    fs::write(guest.path("config.new"), b"by the host").unwrap();
    fs::rename(guest.path("config.new"), guest.path(".git/config")).unwrap();
    let config = node(&mut guest, ".git/config");
    assert_eq!(guest.open(config, libc_flags::RDWR).err(), REFUSED);
}

#[test]
fn hidden_paths_are_not_there() {
    let mut guest = guest();
    for name in [&b".env"[..], b".ENV"] {
        assert_eq!(guest.lookup(SHARE, name).unwrap().nodeid, 0);
    }
    let deep = node(&mut guest, "deep");
    assert_eq!(guest.lookup(deep, b"secrets").unwrap().nodeid, 0);
    let fh = guest.opendir(SHARE).unwrap();
    let listed: Vec<_> = guest.readdir(SHARE, fh, 0, 4096).unwrap().into_iter().map(|(name, _)| name).collect();
    assert!(listed.contains(&b".git".to_vec()) && !listed.contains(&b".env".to_vec()));
    let fh = guest.opendir(deep).unwrap();
    let listed: Vec<_> = guest.readdirplus(deep, fh, 0).unwrap().into_iter().map(|(name, _)| name).collect();
    assert!(!listed.contains(&b"secrets".to_vec()));
}

#[test]
fn hidden_paths_cannot_be_brought_to_light() {
    let mut guest = guest();
    assert_eq!(guest.create(SHARE, b".env", 0o644).err(), REFUSED);
    assert_eq!(guest.mkdir(SHARE, b".env").err(), REFUSED);
    assert_eq!(guest.rename((SHARE, b".env"), (SHARE, b"seen"), 0).err(), REFUSED);
    assert_eq!(guest.rename((SHARE, b"deep"), (SHARE, b"seen"), 0).err(), REFUSED);
    guest.create(SHARE, b"file", 0o644).unwrap();
    assert_eq!(guest.rename((SHARE, b"file"), (SHARE, b".env"), EXCHANGE).err(), REFUSED);
    assert_eq!(guest.unlink(SHARE, b".env").err(), REFUSED);
    fs::hard_link(guest.path(".env"), guest.path("copy")).unwrap();
    fs::hard_link(guest.path("deep/secrets/key"), guest.path("copy of the key")).unwrap();
    for name in [&b"copy"[..], b"copy of the key"] {
        assert_eq!(guest.lookup(SHARE, name).unwrap().nodeid, 0);
    }
    assert_eq!(fs::read(guest.path(".env")).unwrap(), b"secret");
}

#[test]
fn whole_share_can_be_protected() {
    let mut guest = guest_with(&[("", Rule::Protect)]);
    assert_eq!(guest.create(SHARE, b"file", 0o644).err(), REFUSED);
    let config = node(&mut guest, ".git/config");
    assert_eq!(guest.open(config, libc_flags::RDWR).err(), REFUSED);
    assert_eq!(guest.lookup(ROOT, b"0").unwrap().nodeid, SHARE);
}

#[test]
fn what_is_reported_is_what_a_request_meets() {
    let (host, share) = guarded(&[
        ("deep", Rule::Hide),
        ("deep/secrets", Rule::Protect),
        (".git/hooks", Rule::Protect),
        (".envrc", Rule::Protect),
    ]);
    let mut guest = Busy::serving(vec![share], host);
    let [report] = guest.monitor.shares().unwrap().try_into().unwrap();
    assert_eq!(report.access, Access::ReadWrite);
    let place = |path: &str, rule, is_there| GuardReport { path: path.into(), rule, is_there };
    assert_eq!(
        report.guarded,
        [
            place("deep", Rule::Hide, true),
            place("deep/secrets", Rule::Hide, true),
            place(".git/hooks", Rule::Protect, true),
            place(".envrc", Rule::Protect, false),
        ]
    );
    assert_eq!(guest.lookup(SHARE, b"deep").unwrap().nodeid, 0);
    assert_eq!(guest.create(SHARE, b".envrc", 0o644).err(), REFUSED);
}

//! Requests that no guest's kernel sends, or that ours refuses on purpose: what each server makes of them. One row is
//! one difference, with its reason; the others' columns are there so that the reason stays true.

use devices::fs::test_kit::{Backend, Guest, SetattrIn, set};
use fs_reference::servers::{Kind, host};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::io::Errno;

type Any = Guest<Box<dyn Backend>>;

/// Guests of all servers, each with a share that `prepare` has filled.
fn guests(prepare: impl Fn(&Any)) -> [(Kind, Any); 3] {
    Kind::ALL.map(|kind| {
        let guest = kind.serve(host());
        prepare(&guest);
        (kind, guest)
    })
}

/// What came of the same request at ours, virtiofsd and fuse-backend-rs.
fn answers<T: std::fmt::Debug>(
    prepare: impl Fn(&Any),
    ask: impl Fn(&mut Any, u64) -> Result<T, Errno>,
) -> [Result<(), Errno>; 3] {
    guests(prepare).map(|(kind, mut guest)| ask(&mut guest, kind.root()).map(|_| ()))
}

fn nothing(_: &Any) {}

/// The kernel's mode bits: the sort of file in the upper ones.
const CHARACTER_DEVICE: u32 = 0o020_666;
const BLOCK_DEVICE: u32 = 0o060_666;

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[test]
fn device_nodes_are_made_by_the_others_only() {
    for mode in [CHARACTER_DEVICE, BLOCK_DEVICE] {
        let [ours, virtiofsd, fuse_backend] = answers(nothing, |guest, root| guest.mknod(root, b"node", mode));
        assert_eq!(ours, Err(Errno::PERM));
        // Whoever is not root could not either.
        assert_eq!((virtiofsd.is_ok(), fuse_backend.is_ok()), (is_root(), is_root()));
    }
}

#[test]
fn set_id_bits_are_made_by_the_others_only() {
    let modes = guests(nothing).map(|(kind, mut guest)| {
        let node = guest.create(kind.root(), b"file", 0o755).expect("a file").0.nodeid;
        let asked = SetattrIn { valid: set::MODE, mode: 0o6755, ..SetattrIn::default() };
        guest.setattr(node, &asked).expect("a mode").mode
    });
    assert_eq!(modes, [0o100_755, 0o106_755, 0o106_755]);
}

#[test]
fn owners_are_changed_by_the_others_only() {
    if !is_root() {
        return;
    }
    let owners = guests(nothing).map(|(kind, mut guest)| {
        let node = guest.create(kind.root(), b"file", 0o755).expect("a file").0.nodeid;
        let asked = SetattrIn { valid: set::UID | set::GID, uid: 4711, gid: 4711, ..SetattrIn::default() };
        guest.setattr(node, &asked).expect("an answer").uid
    });
    assert_eq!(owners, [0, 4711, 4711]);
}

#[test]
fn way_up_is_told_by_the_others_only() {
    for name in [b"..".as_slice(), b"."] {
        let outcomes = answers(nothing, |guest, root| guest.lookup(root, name));
        assert_eq!(outcomes, [Err(Errno::INVAL), Ok(()), Ok(())]);
    }
}

#[test]
fn fifos_are_opened_by_nobody() {
    let fifo = |guest: &Any| mknodat(CWD, guest.path("fifo"), FileType::Fifo, Mode::RWXU, 0).expect("a FIFO");
    let outcomes = answers(fifo, |guest, root| {
        let node = guest.lookup(root, b"fifo").expect("the FIFO").nodeid;
        guest.open(node, 0)
    });
    assert_eq!(outcomes, [Err(Errno::NXIO), Err(Errno::BADF), Err(Errno::BADF)]);
}

#[test]
fn folders_are_opened_as_files_by_the_others_only() {
    let [ours, virtiofsd, fuse_backend] = answers(nothing, |guest, root| guest.open(root, 0));
    assert_eq!((ours, virtiofsd, fuse_backend), (Err(Errno::ISDIR), Ok(()), Ok(())));
}

#[test]
fn forgotten_nodes_are_stale_to_us_and_bad_to_the_others() {
    let outcomes = answers(nothing, |guest, root| {
        let node = guest.mkdir(root, b"folder").expect("a folder").nodeid;
        guest.forget(node, 1);
        guest.getattr(node)
    });
    assert_eq!(outcomes, [Err(Errno::STALE), Err(Errno::BADF), Err(Errno::BADF)]);
}

//! Attributes.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::time::SystemTime;

use rustix::io::Errno;
use virtio::test_kit::{Local, Transport, ram};
use zerocopy::{FromBytes, IntoBytes};

use super::guest::{Guest, SHARE};
use crate::fs::test_kit::{MINOR, folders, queues};
use crate::fs::wire::{self, ROOT, SetattrIn, StatfsOut, StatxIn, StatxOut, opcode, set};
use crate::fs::{Access, Fs};

fn with_mode(mode: u32) -> SetattrIn {
    SetattrIn { valid: set::MODE, mode, ..SetattrIn::default() }
}

#[test]
fn attributes_are_those_of_the_host() {
    let mut guest = Guest::new();
    fs::write(guest.path("file"), [1; 5000]).unwrap();
    fs::set_permissions(guest.path("file"), PermissionsExt::from_mode(0o751)).unwrap();
    let host = fs::metadata(guest.path("file")).unwrap();
    let node = guest.lookup(SHARE, b"file").unwrap().nodeid;
    let attr = guest.getattr(node).unwrap();
    assert_eq!((attr.ino, attr.size, attr.blocks, attr.mode), (host.ino(), 5000, host.blocks(), 0o100_751));
    assert_eq!((attr.mtime.cast_signed(), i64::from(attr.mtimensec)), (host.mtime(), host.mtime_nsec()));
    assert_eq!((attr.ctime.cast_signed(), i64::from(attr.ctimensec)), (host.ctime(), host.ctime_nsec()));
}

fn statx(guest: &mut Guest, node: u64) -> Result<wire::Statx, Errno> {
    let asked = StatxIn { mask: 0xfff, ..StatxIn::default() };
    guest.call(opcode::STATX, node, &[asked.as_bytes()]).map(|answer| StatxOut::read_from_bytes(&answer).unwrap().stat)
}

#[test]
fn birth_times_are_not_told_unless_that_was_asked_for() {
    let mut guest = Guest::new();
    assert_eq!(statx(&mut guest, SHARE).err(), Some(Errno::NOSYS));
}

#[test]
fn birth_times_and_all_other_attributes_are_those_of_the_host() {
    let (host, shares) = folders(&[Access::ReadWrite]);
    let ram = ram();
    let queues = queues(&ram);
    let mut device = Local::serve(Box::new(Fs::new(shares).unwrap().with_birth_times()), &ram);
    device.start(0, &queues);
    let [_, driver] = queues;
    let mut guest = Guest::of(device, driver, host);
    guest.init(MINOR).unwrap();
    fs::write(guest.path("file"), [1; 5000]).unwrap();
    let host = fs::metadata(guest.path("file")).unwrap();
    let born = host.created().unwrap().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let node = guest.lookup(SHARE, b"file").unwrap().nodeid;
    let told = statx(&mut guest, node).unwrap();
    assert_eq!((told.ino, told.size, u32::from(told.mode)), (host.ino(), 5000, host.mode()));
    assert_eq!(told.mtime.sec, host.mtime());
    assert_eq!((told.btime.sec.cast_unsigned(), told.btime.nsec), (born.as_secs(), born.subsec_nanos()));
    assert_eq!(statx(&mut guest, ROOT).unwrap().mode, 0o040_555);
}

#[test]
fn permissions_are_set_but_never_a_set_id_bit() {
    let mut guest = Guest::new();
    let (file, _) = guest.create(SHARE, b"file", 0o6755).unwrap();
    let directory = guest.mkdir(SHARE, b"directory").unwrap().nodeid;
    assert_eq!(file.attr.mode, 0o100_755);
    assert_eq!(guest.setattr(file.nodeid, &with_mode(0o7711)).unwrap().mode, 0o101_711);
    assert_eq!(guest.setattr(directory, &with_mode(0o6777)).unwrap().mode, 0o040_777);
    assert_eq!(guest.mknod(SHARE, b"node", 0o106_755).unwrap().attr.mode, 0o100_755);
    assert_eq!(fs::metadata(guest.path("file")).unwrap().mode(), 0o101_711);
}

#[test]
fn set_group_id_of_a_directory_of_the_host_survives_if_asked_to() {
    let mut guest = Guest::new();
    fs::create_dir(guest.path("shared")).unwrap();
    fs::set_permissions(guest.path("shared"), PermissionsExt::from_mode(0o2775)).unwrap();
    let node = guest.lookup(SHARE, b"shared").unwrap().nodeid;
    assert_eq!(guest.setattr(node, &with_mode(0o2755)).unwrap().mode, 0o042_755);
    assert_eq!(guest.setattr(node, &with_mode(0o755)).unwrap().mode, 0o040_755);
    assert_eq!(guest.setattr(node, &with_mode(0o2755)).unwrap().mode, 0o040_755);
}

#[test]
fn hosts_umask_does_not_apply() {
    let mut guest = Guest::new();
    for mode in [0o777, 0o666, 0o007] {
        let name = format!("{mode:o}");
        assert_eq!(guest.create(SHARE, name.as_bytes(), mode).unwrap().0.attr.mode, 0o100_000 | mode);
        assert_eq!(
            guest.mknod(SHARE, format!("fifo {name}").as_bytes(), 0o010_000 | mode).unwrap().attr.mode,
            0o010_000 | mode
        );
    }
}

#[test]
fn sizes_are_set_by_node_and_by_handle() {
    let mut guest = Guest::new();
    let (file, fh) = guest.create(SHARE, b"file", 0o644).unwrap();
    let by_node = SetattrIn { valid: set::SIZE, size: 77, ..SetattrIn::default() };
    assert_eq!(guest.setattr(file.nodeid, &by_node).unwrap().size, 77);
    let by_handle = SetattrIn { valid: set::SIZE | set::FH, fh, size: 5, ..SetattrIn::default() };
    assert_eq!(guest.setattr(file.nodeid, &by_handle).unwrap().size, 5);
    assert_eq!(guest.setattr(SHARE, &by_node).err(), Some(Errno::ISDIR));
    let negative = SetattrIn { size: u64::MAX, ..by_node };
    assert_eq!(guest.setattr(file.nodeid, &negative).err(), Some(Errno::INVAL));
    let foreign = SetattrIn { fh: 99, ..by_handle };
    assert_eq!(guest.setattr(file.nodeid, &foreign).err(), Some(Errno::BADF));
}

#[test]
fn times_are_set_to_the_nanosecond_or_to_now() {
    let mut guest = Guest::new();
    let (file, _) = guest.create(SHARE, b"file", 0o644).unwrap();
    let exact = SetattrIn {
        valid: set::ATIME | set::MTIME,
        atime: 12,
        atimensec: 34,
        mtime: (-5i64).cast_unsigned(),
        mtimensec: 999_999_999,
        ..SetattrIn::default()
    };
    let attr = guest.setattr(file.nodeid, &exact).unwrap();
    assert_eq!((attr.atime, attr.atimensec), (12, 34));
    assert_eq!((attr.mtime.cast_signed(), attr.mtimensec), (-5, 999_999_999));
    let now = SetattrIn { valid: set::MTIME | set::MTIME_NOW, ..SetattrIn::default() };
    let attr = guest.setattr(file.nodeid, &now).unwrap();
    assert_eq!(attr.atime, 12);
    assert!(attr.mtime > 1_700_000_000);
    // UTIME_NOW and UTIME_OMIT of the host's kernel are not the guest's to use.
    for nanoseconds in [1_000_000_000, (1 << 30) - 1, (1 << 30) - 2] {
        let special = SetattrIn { atimensec: nanoseconds, ..exact };
        assert_eq!(guest.setattr(file.nodeid, &special).err(), Some(Errno::INVAL));
    }
}

#[test]
fn links_have_times_but_no_mode() {
    let mut guest = Guest::new();
    let link = guest.symlink(SHARE, b"link", b"/etc/passwd").unwrap().nodeid;
    let time = SetattrIn { valid: set::MTIME, mtime: 1, ..SetattrIn::default() };
    assert_eq!(guest.setattr(link, &time).unwrap().mtime, 1);
    assert_eq!(guest.setattr(link, &with_mode(0o777)).err(), Some(Errno::OPNOTSUPP));
}

#[test]
fn roots_attributes_cannot_be_changed() {
    let mut guest = Guest::new();
    assert_eq!(guest.setattr(ROOT, &with_mode(0o777)).err(), Some(Errno::ROFS));
}

#[test]
fn space_is_that_of_the_hosts_file_system() {
    let mut guest = Guest::new();
    let host = rustix::fs::statvfs(guest.path("")).unwrap();
    let (file, _) = guest.create(SHARE, b"file", 0o644).unwrap();
    for node in [SHARE, file.nodeid] {
        let stat = StatfsOut::read_from_bytes(&guest.call(opcode::STATFS, node, &[]).unwrap()).unwrap();
        assert_eq!((stat.blocks, u64::from(stat.namelen)), (host.f_blocks, host.f_namemax));
    }
    let root = StatfsOut::read_from_bytes(&guest.call(opcode::STATFS, ROOT, &[]).unwrap()).unwrap();
    assert_eq!(root.namelen, 255);
}

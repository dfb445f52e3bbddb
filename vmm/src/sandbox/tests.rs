use std::fs;
use std::io::Read;
use std::net::UdpSocket;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::thread;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, linkat, mkdirat, openat, renameat, symlinkat, unlinkat};
use rustix::net::{SendFlags, send};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

use super::*;

fn subtree(path: &Path, is_writable: bool) -> Subtree {
    Subtree { root: openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap(), is_writable }
}

/// Runs `act` on a thread confined to the subtrees, and on one that is started from there.
fn confined<T: Send>(subtrees: Vec<Subtree>, act: impl Fn() -> T + Send + Sync) -> [T; 2] {
    let profile = Profile::Files(subtrees);
    thread::scope(|scope| {
        let outer = scope.spawn(|| {
            profile.confine(ThreadKind::Worker).unwrap();
            let inner = thread::scope(|scope| scope.spawn(&act).join().unwrap());
            [act(), inner]
        });
        outer.join().unwrap()
    })
}

fn has_landlock() -> bool {
    let report = LandlockReport::examine();
    println!("landlock: {report}");
    report.is_usable()
}

#[test]
fn files_outside_the_shares_cannot_be_opened() {
    let share = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir().unwrap();
    let file = outside.path().join("file");
    fs::write(&file, b"secret").unwrap();
    let opened = confined(vec![subtree(share.path(), true)], || {
        [
            fs::read(&file).is_ok(),
            fs::write(&file, b"x").is_ok(),
            fs::read_dir(outside.path()).is_ok(),
            fs::read("/etc/shadow").is_ok(),
            fs::write(outside.path().join("new"), b"x").is_ok(),
            unlinkat(CWD, &file, AtFlags::empty()).is_ok(),
        ]
    });
    assert_eq!(opened, if has_landlock() { [[false; 6]; 2] } else { opened });
}

#[test]
fn shares_work_as_before() {
    let share = tempfile::tempdir().unwrap();
    let at = |name: &str| share.path().join(name);
    let worked = confined(vec![subtree(share.path(), true)], || {
        mkdirat(CWD, at("a"), Mode::RWXU).unwrap();
        mkdirat(CWD, at("b"), Mode::RWXU).unwrap();
        fs::write(at("a/file"), b"data").unwrap();
        renameat(CWD, at("a/file"), CWD, at("b/file")).unwrap();
        linkat(CWD, at("b/file"), CWD, at("a/link"), AtFlags::empty()).unwrap();
        symlinkat("x", CWD, at("a/symlink")).unwrap();
        let read = fs::read(at("a/link")).unwrap();
        for (name, how) in [
            ("a/link", AtFlags::empty()),
            ("a/symlink", AtFlags::empty()),
            ("a", AtFlags::REMOVEDIR),
            ("b/file", AtFlags::empty()),
            ("b", AtFlags::REMOVEDIR),
        ] {
            unlinkat(CWD, at(name), how).unwrap();
        }
        read
    });
    assert_eq!(worked, [b"data", b"data"]);
}

#[test]
fn read_only_share_is_not_written() {
    let share = tempfile::tempdir().unwrap();
    let file = share.path().join("file");
    fs::write(&file, b"data").unwrap();
    let did = confined(vec![subtree(share.path(), false)], || {
        [fs::read(&file).is_ok(), fs::write(&file, b"x").is_ok(), unlinkat(CWD, &file, AtFlags::empty()).is_ok()]
    });
    assert_eq!(did, if has_landlock() { [[true, false, false]; 2] } else { did });
}

#[test]
fn shared_file_is_all_there_is_of_its_folder() {
    let folder = tempfile::tempdir().unwrap();
    let [file, beside] = ["file", "beside"].map(|name| folder.path().join(name));
    fs::write(&file, b"").unwrap();
    fs::write(&beside, b"").unwrap();
    let did = confined(vec![subtree(&file, true)], || [fs::write(&file, b"x").is_ok(), fs::read(&beside).is_ok()]);
    assert_eq!(did, if has_landlock() { [[true, false]; 2] } else { did });
}

#[test]
fn directory_that_left_the_share_is_out_of_reach() {
    let share = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir().unwrap();
    fs::create_dir(share.path().join("held")).unwrap();
    let held = openat(CWD, share.path().join("held"), OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
    fs::rename(share.path().join("held"), outside.path().join("held")).unwrap();
    fs::write(outside.path().join("held/file"), b"").unwrap();
    let opened = confined(vec![subtree(share.path(), true)], || {
        let create = OFlags::WRONLY | OFlags::CREATE;
        [
            openat(&held, c"file", OFlags::RDONLY, Mode::empty()).is_ok(),
            openat(&held, c"new", create, Mode::RUSR).is_ok(),
        ]
    });
    assert_eq!(opened, if has_landlock() { [[false; 2]; 2] } else { opened });
}

#[test]
fn programs_sockets_and_executable_memory_are_refused() {
    let share = tempfile::tempdir().unwrap();
    let did = confined(vec![subtree(share.path(), true)], || {
        [
            Command::new("/bin/true").status().is_ok(),
            UdpSocket::bind("127.0.0.1:0").is_ok(),
            std::os::unix::net::UnixStream::pair().is_ok(),
            rustix::mount::unmount("/nowhere", rustix::mount::UnmountFlags::empty()) != Err(rustix::io::Errno::PERM),
        ]
    });
    assert_eq!(did, [[false; 4]; 2]);
}

#[test]
fn directories_are_watched_and_reported_on_by_what_was_there_before() {
    let share = tempfile::tempdir().unwrap();
    let flags = libc::FAN_CLASS_NOTIF | libc::FAN_CLOEXEC | libc::FAN_REPORT_DIR_FID | libc::FAN_REPORT_NAME;
    // SAFETY: takes numbers and returns a new descriptor or an error.
    let group = || unsafe { libc::fanotify_init(flags, 0) };
    let outer = group();
    let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC).unwrap();
    let (here, mut there) = UnixStream::pair().unwrap();
    let did = confined(vec![subtree(share.path(), true)], || {
        let folder = openat(CWD, share.path(), OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
        // SAFETY: the path is a C string, and the call keeps no pointer to it.
        let marked = unsafe {
            libc::fanotify_mark(outer, libc::FAN_MARK_ADD, libc::FAN_CREATE, folder.as_raw_fd(), c".".as_ptr())
        };
        let once = Timespec { tv_sec: 0, tv_nsec: 1 };
        let spec = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: once };
        [
            marked == 0,
            virtio::file_handle(folder.as_fd()).is_ok(),
            timerfd_settime(&timer, TimerfdTimerFlags::empty(), &spec).is_ok(),
            send(&here, b"x", SendFlags::NOSIGNAL).is_ok(),
            group() < 0,
        ]
    });
    assert_eq!(did, [[true; 5]; 2]);
    there.read_exact(&mut [0; 2]).unwrap();
}

#[test]
fn other_devices_and_threads_are_left_alone() {
    let rng = devices::rng::Rng::new();
    let profile = Profile::of(&rng).unwrap();
    thread::scope(|scope| {
        let free = scope.spawn(|| {
            profile.confine(ThreadKind::Worker).unwrap();
            Profile::Files(Vec::new()).confine(ThreadKind::Session).unwrap();
            UdpSocket::bind("127.0.0.1:0").is_ok()
        });
        assert!(free.join().unwrap());
    });
}

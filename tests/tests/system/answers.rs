//! What system calls say about files in a share: errors, time stamps, owners and modes. [`sharing`](crate::sharing)
//! says which cases these are.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::SystemTime;

use anyhow::{Result, ensure};
use rustix::process::getuid;
use system_tests::{NOTICE, Stage, User};

use crate::sharing::{PATIENCE, guest, python};

/// How far the guest's clock may be off in seconds. It is set once, at the start, by a message that a busy machine
/// delays.
const MAX_SKEW: f64 = 0.25;

pub fn errors_are_the_exact_ones(stage: &Stage) -> Result<()> {
    let [small, inner, other] = ["small", "project/inner", "other"].map(|name| stage.folder().join(name));
    for folder in [&small, &inner, &other] {
        fs::create_dir(folder)?;
    }
    let mount = |path: &Path, at: &str| format!("{}:{at}", path.display());
    let mut run = stage.run("");
    run.args(["--mount", &mount(&small, "/small"), "--mount", &mount(&other, "/other")]);
    run.through_script(&format!(
        "mount -t tmpfs -o size=2M,nr_inodes=40 small '{}'; mount -t tmpfs inner '{}'; exec \"$@\"",
        small.display(),
        inner.display()
    ));
    let mut guest = run.patience(PATIENCE).converse()?;
    python(
        &mut guest,
        r#"
import errno, os
def fails(expected, what, *words):
    try: what(*words)
    except OSError as error:
        assert error.errno == expected, (expected, error); return
    assert False, (errno.errorcode[expected], what, words)
def fill():
    with open("/small/big", "wb", 0) as f:
        for _ in range(64): f.write(bytes(65536))
def crowd():
    for n in range(50): os.mkdir("/small/%d" % n)
fails(errno.ENOSPC, fill); assert 0 < os.stat("/small/big").st_size <= 2 << 20
os.unlink("/small/big"); open("/small/fits", "wb").write(bytes(1 << 20))
fails(errno.ENOSPC, crowd)
fails(errno.ENOSPC, lambda: os.symlink("x", "/small/link"))
open("file", "w").write("x"); os.mkdir("folder"); os.mkdir("folder/full")
fails(errno.EXDEV, os.rename, "file", "/other/file")
fails(errno.EXDEV, os.link, "file", "/other/file")
fails(errno.EXDEV, os.rename, "file", "inner/file")
fails(errno.EXDEV, os.link, "file", "inner/file")
fails(errno.EBUSY, os.rmdir, "inner")
fails(errno.ENAMETOOLONG, os.mkdir, "n" * 256)
fails(errno.ENAMETOOLONG, os.symlink, "t" * 5000, "target")
os.symlink("round", "about"); os.symlink("about", "round")
fails(errno.ELOOP, os.open, "round", os.O_RDONLY)
fails(errno.ELOOP, os.open, "about", os.O_RDONLY | os.O_NOFOLLOW)
fails(errno.ENOTEMPTY, os.rmdir, "folder")
fails(errno.EISDIR, os.open, "folder", os.O_WRONLY)
fails(errno.EISDIR, os.rename, "file", "folder")
fails(errno.ENOTDIR, os.rename, "folder", "file")
fails(errno.ENOTDIR, os.stat, "file/below")
fails(errno.ENOTDIR, os.open, "file", os.O_DIRECTORY)
fails(errno.EEXIST, os.mkdir, "folder")
fails(errno.EEXIST, os.open, "file", os.O_CREAT | os.O_EXCL)
fails(errno.EEXIST, os.symlink, "x", "file")
fails(errno.ENOENT, os.unlink, "absent")
fails(errno.ENOENT, os.symlink, "", "nowhere")
fails(errno.EINVAL, os.rename, "folder", "folder/full/below")
fails(errno.EINVAL, os.readlink, "file")
try: os.truncate("file", (1 << 63) - 1) # as large as may be on tmpfs, too large on ext4
except OSError as error: assert error.errno == errno.EFBIG, error
fails(errno.EPERM, os.mknod, "device", 0o020600, os.makedev(1, 3))
"#,
    )?;
    guest.leave()
}

pub fn time_stamps_serve_make(stage: &Stage) -> Result<()> {
    let project = stage.project();
    let mut guest = guest(stage, &[])?;
    python(
        &mut guest,
        r#"
import ctypes, os, time
open("f", "w").close()
os.utime("f", ns=(1_000_000_001, 2_123_456_789)); s = os.stat("f")
assert (s.st_atime_ns, s.st_mtime_ns) == (1_000_000_001, 2_123_456_789), s
NOW, OMIT = (1 << 30) - 1, (1 << 30) - 2
libc = ctypes.CDLL(None)
def utimens(*times): assert libc.utimensat(-100, b"f", (ctypes.c_long * 4)(*times), 0) == 0
utimens(0, OMIT, 7, 5); s = os.stat("f"); assert (s.st_atime_ns, s.st_mtime_ns) == (1_000_000_001, 7_000_000_005), s
utimens(3, 4, 0, OMIT); s = os.stat("f"); assert (s.st_atime_ns, s.st_mtime_ns) == (3_000_000_004, 7_000_000_005), s
utimens(0, NOW, 0, NOW); s = os.stat("f"); assert abs(s.st_mtime - time.time()) < 1, s
os.utime("f", ns=(-5_000_000_000, -5_000_000_000)); assert os.stat("f").st_mtime == -5
last = 0
for n in range(30):
    os.chmod("f", 0o600 + n % 2); now = os.stat("f").st_ctime_ns
    assert now >= last; last = now
"#,
    )?;
    // Files carry the host's time; a guest whose clock runs elsewhere would make `make` warn or build anew.
    let clock = || -> Result<f64> { Ok(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs_f64()) };
    let before = clock()?;
    guest.does("echo x >stamp; stat -c %.Y stamp")?;
    let (stamp, after) = (fs::metadata(project.join("stamp"))?.modified()?, clock()?);
    let stamp = stamp.duration_since(SystemTime::UNIX_EPOCH)?.as_secs_f64();
    // Time stamps are as coarse as the host's tick.
    ensure!((before - 0.01..=after).contains(&stamp), "a file written between {before} and {after} is of {stamp}");
    let skew: f64 = python(
        &mut guest,
        r#"
import os, time
worst = 0
for n in range(20):
    before = time.time(); open("stamp%d" % n, "w").write("x"); after = time.time()
    stamp = os.stat("stamp%d" % n).st_mtime
    worst = max(worst, before - stamp, stamp - after)
print("%.6f" % worst)
"#,
    )?
    .parse()?;
    ensure!(skew < MAX_SKEW, "the guest's clock is {skew} s off the files' time");
    fs::write(project.join("Makefile"), "all: out\nout: mid\n\tcp mid out\nmid: src\n\tcp src mid\n")?;
    fs::write(project.join("src"), "1")?;
    guest.does("make 2>&1 | tee log && ! grep -qi 'skew\\|future' log && make -q")?;
    fs::write(project.join("src"), "22")?;
    guest.sees("! make -q", NOTICE)?;
    guest.does("make 2>&1 | tee log && ! grep -qi 'skew\\|future' log && make -q; test $(cat out) = 22")?;
    guest.leave()
}

pub fn owners_and_modes_for_an_ordinary_user(stage: &Stage) -> Result<()> {
    ensure!(getuid().is_root(), "running vmm as another user needs root; run the tests as root");
    let project = stage.project();
    let run = stage.as_user(User::OfKvmGroup, stage.run("").patience(PATIENCE))?;
    let (uid, gid) = User::OfKvmGroup.ids();
    fs::write(project.join("roots"), "root's")?;
    fs::write(project.join("secret"), "root's")?;
    fs::set_permissions(project.join("secret"), fs::Permissions::from_mode(0o600))?;
    fs::write(project.join("users"), "theirs")?;
    std::os::unix::fs::chown(project.join("users"), Some(uid), Some(gid))?;
    for (name, mode) in [("sticky", 0o1777), ("grouped", 0o2775)] {
        fs::create_dir(project.join(name))?;
        std::os::unix::fs::chown(project.join(name), Some(uid), Some(gid))?;
        fs::set_permissions(project.join(name), fs::Permissions::from_mode(mode))?;
    }
    let mut guest = run.converse()?;
    guest.does("test $(stat -c %u:%g users) = 0:0; test $(stat -c %u:%g roots) = 65534:65534; cat roots")?;
    guest.fails("echo x >>roots", "Permission denied")?;
    guest.fails("cat secret", "Permission denied")?;
    guest.fails("chmod 777 roots", "not permitted")?;
    guest.fails("chown 0 roots", "not permitted")?;
    guest.does("chown 0:0 users && chown 1000:1000 users && test $(stat -c %u users) = 0")?;
    guest.does("for mask in 000 022 077 027; do (umask $mask; echo >f$mask; mkdir d$mask; mkfifo p$mask); done")?;
    guest.does("chmod 754 f000; chmod 1777 d000; chmod 4755 f022; chmod 2755 d022; install -m 640 users copy")?;
    guest.does(
        "echo x >sticky/mine; mkdir grouped/below; echo x >grouped/file; mv roots moved; rm moved; touch -d @5 users",
    )?;
    guest.leave()?;
    let modes = [
        ("f000", 0o754),
        ("f022", 0o755),
        ("f077", 0o600),
        ("f027", 0o640),
        ("d000", 0o1777),
        ("d022", 0o755),
        ("d077", 0o700),
        ("p077", 0o600),
        ("copy", 0o640),
        ("grouped/below", 0o2755),
    ];
    for (name, mode) in modes {
        let found = fs::metadata(project.join(name))?;
        ensure!(found.mode() & 0o7777 == mode, "{name} has mode {:o}", found.mode());
        ensure!((found.uid(), found.gid()) == (uid, gid), "{name} belongs to {}:{}", found.uid(), found.gid());
    }
    ensure!(fs::metadata(project.join("users"))?.mtime() == 5);
    ensure!(!project.join("roots").exists(), "a folder's owner may remove what is in it");
    Ok(())
}

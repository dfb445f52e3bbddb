//! Shared folders as programs in the guest use them. The numbers are those of our list of file-sharing cases:
//!
//! | case | what | test |
//! |---|---|---|
//! | 4 | links out of the share lead to the guest's own files | `sharing::links_lead_nowhere_on_the_host` |
//! | 6 | a folder moved out of the share under the guest's feet | `two_sides::folder_moved_out_of_the_share_is_closed` |
//! | 17 | a large tree with few descriptors | `sharing::large_tree_needs_few_descriptors` |
//! | 19 | files that lose their names while in use | `sharing::files_keep_their_nature` |
//! | 20 | hard links | the same |
//! | 21 | names of any bytes | the same |
//! | 22 | holes, ranges, copies | the same |
//! | 24 | mapped memory | `two_sides::contents_cross_at_once` |
//! | 26 | names that come and go on the host | `two_sides::names_cross` |
//! | 27 | what the guest wrote, on the host | `two_sides::contents_cross_at_once` |
//! | 30 | locks; both sides commit | `sharing::files_keep_their_nature`, `two_sides::git_commits_from_both_sides_at_once` |
//! | 32 | errors | `sharing::errors_are_the_exact_ones` |
//! | 35 | time stamps | `sharing::time_stamps_serve_make` |
//! | 36 | git | `files::git_is_used_from_both_sides`, `two_sides::git_status_is_stable_on_either_side`, `repository` (`tests/fs-suites`: 50,000 files) |
//! | 37 | package managers, archives, databases | `programs::*` |
//! | 38 | owners, modes, umask | `sharing::owners_and_modes_for_an_ordinary_user` |
//! | 41 | protected paths | `files::guarded_paths_hold_against_the_guest` |
//! | 42 | inotify, of the guest's own changes | `sharing::files_keep_their_nature` |
//! | 25, 26, 42 | what the guest believes, and hears of the host's changes | `belief::*` |
//!
//! Cases without a guest (raw messages) are unit tests of the device; pjdfstest and fsx are in `suites`.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use rustix::process::getuid;
use system_tests::{Conversation, Stage, User};

/// Many small programs in an emulated machine, in the kvm engine's case inside another one.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// How far the guest's clock may be off in seconds. It is set once, at the start, by a message that a busy machine delays.
const MAX_SKEW: f64 = 0.25;

/// A guest at work in the project.
pub fn guest(stage: &Stage, options: &[&str]) -> Result<Conversation> {
    stage.run("").args(options).patience(PATIENCE).converse()
}

/// Runs a Python program in the guest.
pub fn python(guest: &mut Conversation, program: &str) -> Result<String> {
    guest.does(&format!("python3 - <<'PROGRAM'\n{program}\nPROGRAM"))
}

pub fn links_lead_nowhere_on_the_host(stage: &Stage) -> Result<()> {
    let (project, outside) = (stage.project(), stage.folder().join("outside"));
    fs::create_dir(&outside)?;
    fs::write(outside.join("secret"), "the host's")?;
    let secret = outside.join("secret");
    symlink(&secret, project.join("absolute"))?;
    symlink("../outside/secret", project.join("relative"))?;
    symlink(&outside, project.join("folder"))?;
    symlink("/proc/self/fd/0", project.join("descriptor"))?;
    symlink("/etc/hostname", project.join("hostname"))?;
    symlink(project.join("real"), project.join("inward"))?;
    symlink("loop", project.join("loop"))?;
    fs::write(project.join("real"), "inside")?;
    let mut guest = guest(stage, &[])?;
    for link in ["absolute", "relative", "folder/secret"] {
        guest.fails(&format!("cat {link}"), "No such file or directory").context(link)?;
    }
    guest.does(
        "test \"$(cat hostname)\" = \"$(cat /etc/hostname)\"; ln -s '../../../../../etc/shadow' up; readlink up",
    )?;
    guest.does("test \"$(cat inward)\" = inside; echo from the pipe | cat descriptor | grep -q pipe")?;
    guest.fails("cat loop", "Too many levels of symbolic links")?;
    // What is written through a link arises where the guest's own path leads to.
    guest.does(&format!(
        "mkdir -p '{0}' && echo forged >absolute && echo new >folder/new && ls '{0}'",
        outside.display()
    ))?;
    guest.leave()?;
    ensure!(fs::read(&secret)? == b"the host's" && !outside.join("new").exists(), "a link led to the host");
    ensure!(fs::read_link(project.join("up"))? == Path::new("../../../../../etc/shadow"));
    Ok(())
}

pub fn large_tree_needs_few_descriptors(stage: &Stage) -> Result<()> {
    const FOLDERS: usize = 400;
    const FILES: usize = 25;
    let project = stage.project();
    for folder in 0..FOLDERS {
        let folder = project.join(format!("{}/{folder}", folder % 20));
        fs::create_dir_all(&folder)?;
        for file in 0..FILES {
            fs::write(folder.join(format!("file{file}")), "x")?;
        }
    }
    let mut run = stage.run("");
    run.through(["prlimit", "--nofile=1024:1024"]).patience(PATIENCE);
    let mut guest = run.converse()?;
    let count = format!("test \"$(find . -type f -size 1c | wc -l)\" = {}", FOLDERS * FILES);
    guest.does(&count)?;
    guest.does("cat */*/file1 | wc -c | grep -qx 400")?;
    // Who holds more files open than there are descriptors is refused, and told so: no listing is cut short.
    python(
        &mut guest,
        r#"
import errno, glob, os, resource
resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
held, refused = [], None
for name in glob.glob("*/*/file*")[:3000]:
    try:
        held.append(os.open(name, os.O_RDONLY))
    except OSError as error:
        refused = error.errno
        break
assert len(held) > 200, len(held)
assert refused in (None, errno.ENFILE, errno.EMFILE), refused
assert os.stat("7/7/file3").st_size == 1
for folder, entries in (("0", 20), ("19/399", 25)):
    try: assert len(os.listdir(folder)) == entries
    except OSError as error: assert error.errno == errno.ENFILE, error
for descriptor in held:
    assert os.read(descriptor, 9) == b"x"
    os.close(descriptor)
"#,
    )?;
    guest.does(&format!("echo 3 >/proc/sys/vm/drop_caches; {count}; cat */*/file2 | wc -c | grep -qx 400"))?;
    guest.leave()
}

/// One guest, several behaviours.
pub fn files_keep_their_nature(stage: &Stage) -> Result<()> {
    let project = stage.project();
    let mut guest = guest(stage, &[])?;
    files_outlive_their_names(&mut guest).context("files that lose their names")?;
    hard_links_are_one_file(&mut guest, &project).context("hard links")?;
    names_are_any_bytes(&mut guest, &project).context("names")?;
    holes_and_ranges(&mut guest, &project).context("holes and ranges")?;
    locks_hold_between_processes(&mut guest).context("locks")?;
    own_changes_are_announced(&mut guest).context("inotify")?;
    guest.leave()
}

fn files_outlive_their_names(guest: &mut Conversation) -> Result<()> {
    python(
        guest,
        r#"
import mmap, os
os.mkdir("gone"); os.chdir("gone")
f = open("open", "w+b"); f.write(b"kept"); f.flush(); os.unlink("open")
f.write(b" on"); f.flush()
f.seek(0); assert f.read() == b"kept on" and os.fstat(f.fileno()).st_nlink == 0
os.ftruncate(f.fileno(), 2); assert os.fstat(f.fileno()).st_size == 2
os.fchmod(f.fileno(), 0o600); os.utime(f.fileno(), (1, 2)); assert os.fstat(f.fileno()).st_mtime == 2
again = os.open("/proc/self/fd/%d" % f.fileno(), os.O_RDONLY); assert os.read(again, 9) == b"ke"

open("old", "w").write("old"); old = open("old"); open("new", "w").write("new"); os.rename("new", "old")
assert old.read() + open("old").read() == "oldnew"

with open("mapped", "w+b") as f:
    f.truncate(8192)
    memory = mmap.mmap(f.fileno(), 8192)
os.unlink("mapped"); memory[5000:5004] = b"page"; memory.flush(); assert memory[5000:5004] == b"page"

os.mkdir("folder"); handle = os.open("folder", os.O_DIRECTORY); os.chdir("folder"); os.rmdir("../folder")
assert os.listdir(".") == [] and os.fstat(handle).st_nlink == 0
try: open("new", "w"); assert False, "created in a removed folder"
except FileNotFoundError: pass
os.chdir("/"); os.close(handle)
"#,
    )?;
    guest.does("rm -r gone").map(drop)
}

fn hard_links_are_one_file(guest: &mut Conversation, project: &Path) -> Result<()> {
    fs::write(project.join("one"), "first")?;
    fs::hard_link(project.join("one"), project.join("two"))?;
    let inode = fs::metadata(project.join("one"))?.ino();
    guest.does(&format!("test one -ef two; test $(stat -c %i:%h two) = {inode}:2"))?;
    guest.does("ln two three; mkdir deep; mv two deep/four; echo second >>deep/four; test $(stat -c %h one) = 3")?;
    guest.does("rm one; test \"$(cat three)\" = \"$(printf firstsecond)\"; test $(stat -c %h three) = 2")?;
    guest.fails("ln deep another", "not allowed for directory")?;
    let [three, four] = ["three", "deep/four"].map(|name| fs::metadata(project.join(name)));
    ensure!(three?.ino() == inode && four?.ino() == inode);
    Ok(())
}

fn names_are_any_bytes(guest: &mut Conversation, project: &Path) -> Result<()> {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    let names: [&[u8]; 8] = [
        b"README",
        b"readme",
        b"new\nline",
        "\u{1f600} emoji".as_bytes(),
        b"\xff\xfe not text",
        b" -rf * $HOME `id` \\",
        &[b'x'; 255],
        b"...",
    ];
    let by_guest = project.join("by-guest");
    fs::create_dir(project.join("by-host"))?;
    for name in names {
        fs::write(project.join("by-host").join(OsStr::from_bytes(name)), name)?;
    }
    python(
        guest,
        r#"
import errno, os
os.mkdir("by-guest")
names = os.listdir(b"by-host")
assert len(names) == 8, names
for name in names:
    assert open(b"by-host/" + name, "rb").read() == name, name
    open(b"by-guest/" + name, "wb").write(name)
assert sorted(os.listdir(b"by-guest")) == sorted(names)
try: open(b"by-guest/" + b"y" * 256, "wb"); assert False
except OSError as error: assert error.errno == errno.ENAMETOOLONG
"#,
    )?;
    for name in names {
        ensure!(fs::read(by_guest.join(OsStr::from_bytes(name)))? == name, "{name:?}");
    }
    ensure!(fs::read_dir(&by_guest)?.count() == names.len());
    Ok(())
}

fn holes_and_ranges(guest: &mut Conversation, project: &Path) -> Result<()> {
    python(
        guest,
        r#"
import ctypes, errno, fcntl, os
M = 1 << 20
f = os.open("sparse", os.O_RDWR | os.O_CREAT)
os.ftruncate(f, 4 * M); os.pwrite(f, b"data", 2 * M)
assert os.lseek(f, 0, os.SEEK_DATA) == 2 * M, os.lseek(f, 0, os.SEEK_DATA)
assert 2 * M < os.lseek(f, 2 * M, os.SEEK_HOLE) <= 2 * M + 65536
try: os.lseek(f, 3 * M, os.SEEK_DATA); assert False
except OSError as error: assert error.errno == errno.ENXIO
assert os.fstat(f).st_blocks * 512 < M
libc = ctypes.CDLL(None, use_errno=True)
def fallocate(mode, offset, length):
    ok = libc.fallocate(f, mode, ctypes.c_long(offset), ctypes.c_long(length)) == 0
    return 0 if ok else ctypes.get_errno()
assert fallocate(0, 4 * M, M) == 0 and os.fstat(f).st_size == 5 * M
assert fallocate(1, 5 * M, M) == 0 and os.fstat(f).st_size == 5 * M             # keep the size
assert fallocate(3, 2 * M, M) == 0 and os.pread(f, 4, 2 * M) == bytes(4)        # punch a hole
os.pwrite(f, b"zero", 0); assert fallocate(16, 0, 4096) in (0, errno.EOPNOTSUPP)
assert fallocate(8, 0, 4096) == errno.EOPNOTSUPP                                # collapse
os.fsync(f)
g = os.open("copy", os.O_RDWR | os.O_CREAT)
os.pwrite(f, b"c" * M, 0); copied = 0
while copied < M: copied += os.copy_file_range(f, g, M - copied, copied, copied)
assert os.pread(g, M, 0) == b"c" * M
try: fcntl.ioctl(g, 0x40049409, f); assert False, "reflink"
except OSError as error: assert error.errno in (errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV), error
"#,
    )?;
    let blocks: u64 = guest.does("cp --reflink=auto sparse again && cmp sparse again; stat -c %b sparse")?.parse()?;
    ensure!(fs::metadata(project.join("sparse"))?.blocks() == blocks, "the guest sees {blocks} blocks");
    Ok(())
}

fn locks_hold_between_processes(guest: &mut Conversation) -> Result<()> {
    python(
        guest,
        r#"
import errno, fcntl, os, struct
OFD_SETLK = 37
whole = lambda kind: struct.pack("hhqqi4x", kind, os.SEEK_SET, 0, 0, 0)
takes = {
    "flock": lambda f: fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB),
    "posix": lambda f: fcntl.lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 5),
    "ofd": lambda f: fcntl.fcntl(f, OFD_SETLK, whole(fcntl.F_WRLCK)),
}
def try_in_child(take, name):
    child = os.fork()
    if child == 0:
        try: take(open(name, "r+")); os._exit(0)
        except OSError as error: os._exit(error.errno)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
for kind, take in takes.items():
    name = "lock-" + kind
    holder = open(name, "w+"); holder.write("x" * 100); holder.flush()
    take(holder)
    assert try_in_child(take, name) in (errno.EAGAIN, errno.EACCES), kind
    holder.close()
    assert try_in_child(take, name) == 0, kind
counter = os.open("counter", os.O_RDWR | os.O_CREAT); os.write(counter, b"0")
children = []
for _ in range(4):
    children.append(os.fork())
    if children[-1] == 0:
        own = os.open("counter", os.O_RDWR)
        for _ in range(50):
            fcntl.lockf(own, fcntl.LOCK_EX); n = int(os.pread(own, 9, 0)); os.pwrite(own, b"%d" % (n + 1), 0)
            fcntl.lockf(own, fcntl.LOCK_UN)
        os._exit(0)
for child in children: assert os.waitpid(child, 0)[1] == 0
assert os.pread(counter, 9, 0) == b"200", os.pread(counter, 9, 0)
"#,
    )
    .map(drop)
}

fn own_changes_are_announced(guest: &mut Conversation) -> Result<()> {
    python(
        guest,
        r#"
import ctypes, os, select, struct
libc = ctypes.CDLL(None)
os.mkdir("watched"); open("watched/old", "w").close()
inotify = libc.inotify_init1(os.O_NONBLOCK)
assert libc.inotify_add_watch(inotify, b"watched", 0xfff) > 0
with open("watched/new", "w") as f: f.write("x")
os.rename("watched/new", "watched/moved"); os.chmod("watched/old", 0o600); os.unlink("watched/old")
seen = set()
while select.select([inotify], [], [], 0.5)[0]:
    data = os.read(inotify, 65536)
    while data:
        _, mask, _, length = struct.unpack("iIII", data[:16])
        seen.add((mask & 0xfff, data[16:16 + length].rstrip(b"\0").decode())); data = data[16 + length:]
for expected in [(0x100, "new"), (0x2, "new"), (0x8, "new"), (0x40, "new"), (0x80, "moved"), (0x4, "old"), (0x200, "old")]:
    assert expected in seen, (expected, seen)
"#,
    )
    .map(drop)
}

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
    guest.does("make 2>&1 | tee log; ! grep -qi 'skew\\|future' log; make -q")?;
    fs::write(project.join("src"), "22")?;
    guest.sees("! make -q", Duration::from_secs(5))?;
    guest.does("make 2>&1 | tee log; ! grep -qi 'skew\\|future' log; make -q; test $(cat out) = 22")?;
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

pub fn two_hundred_shares_and_single_files(stage: &Stage) -> Result<()> {
    const SHARES: usize = 200;
    let mut run = stage.run("");
    for index in 0..SHARES {
        let folder = stage.folder().join(format!("share{index}"));
        fs::create_dir(&folder)?;
        fs::write(folder.join("number"), index.to_string())?;
        let mode = if index % 2 == 0 { "" } else { ":ro" };
        run.args(["--mount", &format!("{}:/many/{index}{mode}", folder.display())]);
    }
    let [single, fixed] = ["single", "fixed"].map(|name| stage.folder().join(name));
    fs::write(&single, "one file\n")?;
    fs::write(&fixed, "fixed")?;
    run.args(["--mount", &format!("{}:/files/single", single.display())]);
    run.args(["--mount", &format!("{}:/files/fixed:ro", fixed.display())]);
    let mut guest = run.patience(PATIENCE).converse()?;
    guest.does("for n in $(seq 0 199); do test $(cat /many/$n/number) = $n || exit 1; done")?;
    guest.does("for n in $(seq 0 2 199); do echo guest >/many/$n/new; done")?;
    guest.fails("echo x >/many/1/new", "Read-only file system")?;
    guest.does("cat /files/single; echo more >>/files/single; test $(wc -l </files/single) = 2")?;
    guest.fails("echo x >/files/fixed", "Read-only file system")?;
    guest.fails("rm /files/single", "busy")?;
    // An append by the host, as a log file gets it.
    fs::File::options().append(true).open(&single)?.write_all(b"the host's\n")?;
    guest.sees("test $(wc -l </files/single) = 3", Duration::from_secs(5))?;
    guest.leave()?;
    ensure!((0..SHARES).all(|n| stage.folder().join(format!("share{n}/new")).exists() == (n % 2 == 0)));
    ensure!(fs::read(&single)? == b"one file\nmore\nthe host's\n" && fs::read(&fixed)? == b"fixed");
    Ok(())
}

//! What programs take for granted of files, in a share: that they outlive their names, may have several and any names,
//! have holes, can be locked, and be watched. [`sharing`](crate::sharing) says which cases these are.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use system_tests::{Conversation, Stage};

use crate::sharing::{guest, python};

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

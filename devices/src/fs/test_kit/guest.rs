//! The driver's side: builds messages, honest or not, and takes the answers apart.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use tempfile::TempDir;
use virtio::test_kit::{Buffer, DATA, DriverQueue, Local, Transport, ram};
use zerocopy::{FromBytes, IntoBytes};

use super::backend::{Backend, queues};
use crate::fs::wire::{
    self, Attr, AttrOut, CopyFileRangeIn, CreateIn, Dirent, EntryOut, FallocateIn, FsyncIn, GetattrIn, InHeader,
    LseekIn, LseekOut, MkdirIn, OpenIn, OpenOut, OutHeader, ROOT, ReadIn, Rename2In, SetattrIn, StatfsOut, WriteIn,
    WriteOut, opcode,
};
use crate::fs::{Access, Fs, Share};

/// Where answers go; requests start at `DATA`, and both may be a little longer than 1 MiB.
pub const ANSWER: u64 = DATA + (3 << 19);
/// Room offered for an answer unless a test says otherwise.
const ROOM: u32 = 8192;
const PAGE: u32 = 4096;
/// Room for the longest answer there is.
const MOST_ROOM: u32 = (1 << 20) + 16;
/// Node of the first share's root.
pub const SHARE: u64 = ROOT + 1;
const SETXATTR: u32 = 21;
const GETXATTR: u32 = 22;
const LISTXATTR: u32 = 23;
const REMOVEXATTR: u32 = 24;
/// Content of a file beside the share that no test may change.
const CANARY: &[u8] = b"untouched";

/// What a host's user sees, and a guest that has it mounted.
#[derive(Debug)]
pub struct Guest<B = Local> {
    backend: B,
    driver: DriverQueue,
    unique: u64,
    host: TempDir,
}

impl Guest {
    /// A guest that has begun a session with one writable share.
    pub fn new() -> Self {
        Self::with_access(&[Access::ReadWrite])
    }

    /// One share for each access; the first is at [`Guest::path`], the others beside it, called `1`, `2`, ...
    pub fn with_access(access: &[Access]) -> Self {
        let mut guest = Self::before_init(access);
        guest.init(wire::MINOR).expect("a session");
        guest
    }

    /// The same, before the session begins.
    pub fn before_init(access: &[Access]) -> Self {
        let (host, shares) = folders(access);
        Self::serving(shares, host)
    }

    /// A guest of these shares that has not begun a session.
    pub fn serving(shares: Vec<Share>, host: TempDir) -> Self {
        Self::around(Fs::new(shares).expect("a device"), host)
    }

    /// The same of this device.
    pub fn around(device: Fs, host: TempDir) -> Self {
        let ram = ram();
        let queues = queues(&ram);
        let mut device = Local::serve(Box::new(device), &ram);
        device.start(0, &queues);
        let [_, driver] = queues;
        Self::of(device, driver, host)
    }
}

impl Default for Guest {
    fn default() -> Self {
        Self::new()
    }
}

/// A folder of the host with a file in it that is not shared, and shares in folders beside that, called `0`, `1`, ...
pub fn folders(access: &[Access]) -> (TempDir, Vec<Share>) {
    let host = tempfile::tempdir().expect("a folder");
    std::fs::write(host.path().join("canary"), CANARY).expect("a file");
    let share = |(index, access): (usize, &Access)| {
        let path = host.path().join(index.to_string());
        std::fs::create_dir(&path).expect("a folder");
        // The umask may be anybody's in this process: servers of other makers change it.
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).expect("a mode");
        Share::open(&path, *access).expect("a share")
    };
    let shares = access.iter().enumerate().map(share).collect();
    (host, shares)
}

impl<B: Backend> Guest<B> {
    /// A guest of any server, before the session begins. The folders of `host` should be named as [`folders`] does it.
    pub fn of(backend: B, driver: DriverQueue, host: TempDir) -> Self {
        Self { backend, driver, unique: 0, host }
    }

    /// Begins a session with all features there are.
    pub fn init(&mut self, minor: u32) -> Result<wire::InitOut, Errno> {
        self.init_with(minor, u64::MAX)
    }

    /// Begins a session with some features.
    pub fn init_with(&mut self, minor: u32, features: u64) -> Result<wire::InitOut, Errno> {
        let versions = [wire::MAJOR, minor, 1 << 20];
        self.call(opcode::INIT, 0, &[versions.as_bytes(), features.as_bytes(), &[0; 44]]).map(|answer| parsed(&answer))
    }

    /// A path in the first share, as the host sees it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.host.path().join("0").join(name)
    }

    /// A path beside the shares.
    pub fn outside(&self, name: &str) -> PathBuf {
        self.host.path().join(name)
    }

    /// Nothing but the shares and the canary is in the directory they are in.
    ///
    /// # Panics
    /// When something else is there, or the canary has changed.
    pub fn assert_nothing_escaped(&self) {
        let mut there = names(self.host.path());
        there.retain(|name| name.parse::<u32>().is_err());
        assert_eq!(there, ["canary"]);
        assert_eq!(std::fs::read(self.outside("canary")).expect("the canary"), CANARY);
    }

    /// Sends a message whose header is honest.
    pub fn call(&mut self, opcode: u32, nodeid: u64, body: &[&[u8]]) -> Result<Vec<u8>, Errno> {
        self.call_with_room(opcode, nodeid, body, ROOM)
    }

    /// The same with so many bytes of room for the answer.
    ///
    /// # Panics
    /// When the answer is none.
    pub fn call_with_room(&mut self, opcode: u32, nodeid: u64, body: &[&[u8]], room: u32) -> Result<Vec<u8>, Errno> {
        let body = body.concat();
        let len = narrow(size_of::<InHeader>() + body.len());
        self.unique += 1;
        let header = InHeader { len, opcode, unique: self.unique, nodeid, ..InHeader::default() };
        let answer = self.raw(&[header.as_bytes(), &body].concat(), room);
        let (head, rest) = OutHeader::read_from_prefix(&answer).expect("an answer");
        assert_eq!((head.unique, head.len), (self.unique, narrow(answer.len())));
        match head.error {
            0 => Ok(rest.to_vec()),
            error => {
                assert_eq!(rest, b"", "an error has no contents");
                Err(Errno::from_raw_os_error(-error))
            }
        }
    }

    /// Sends any bytes at all and returns the answer, which may be none.
    ///
    /// # Panics
    /// When the answer is longer than there is room.
    pub fn raw(&mut self, request: &[u8], room: u32) -> Vec<u8> {
        let mut buffers: Vec<Buffer> =
            pages(narrow(request.len())).map(|(at, length)| Buffer::readable(DATA + at, length)).collect();
        buffers.extend(pages(room).map(|(at, length)| Buffer::writable(ANSWER + at, length)));
        let written = self.chain(request, &buffers);
        assert!(written <= room);
        self.memory(ANSWER, written)
    }

    /// Writes any bytes to `DATA`, sends a chain of any buffers and returns how many bytes were written to them.
    pub fn chain(&mut self, request: &[u8], buffers: &[Buffer]) -> u32 {
        self.driver.write(DATA, request);
        self.driver.send(buffers);
        self.backend.answer(&mut self.driver).length
    }

    /// The guest's memory.
    pub fn memory(&self, address: u64, length: u32) -> Vec<u8> {
        self.driver.read(address, wide(length))
    }

    fn entry(&mut self, opcode: u32, parent: u64, body: &[&[u8]]) -> Result<EntryOut, Errno> {
        self.call(opcode, parent, body).map(|answer| parsed(&answer))
    }

    /// LOOKUP.
    pub fn lookup(&mut self, parent: u64, name: &[u8]) -> Result<EntryOut, Errno> {
        self.entry(opcode::LOOKUP, parent, &[name, b"\0"])
    }

    /// MKDIR with mode 0755.
    pub fn mkdir(&mut self, parent: u64, name: &[u8]) -> Result<EntryOut, Errno> {
        self.mkdir_with(parent, name, 0o755)
    }

    /// MKDIR.
    pub fn mkdir_with(&mut self, parent: u64, name: &[u8], mode: u32) -> Result<EntryOut, Errno> {
        self.entry(opcode::MKDIR, parent, &[MkdirIn { mode, umask: 0 }.as_bytes(), name, b"\0"])
    }

    /// MKNOD; the device number is that of a host's device, whatever is to be made.
    pub fn mknod(&mut self, parent: u64, name: &[u8], mode: u32) -> Result<EntryOut, Errno> {
        let asked = wire::MknodIn { mode, rdev: 0x103, ..wire::MknodIn::default() };
        self.entry(opcode::MKNOD, parent, &[asked.as_bytes(), name, b"\0"])
    }

    /// SYMLINK.
    pub fn symlink(&mut self, parent: u64, name: &[u8], target: &[u8]) -> Result<EntryOut, Errno> {
        self.entry(opcode::SYMLINK, parent, &[name, b"\0", target, b"\0"])
    }

    /// READLINK.
    pub fn readlink(&mut self, node: u64) -> Result<Vec<u8>, Errno> {
        self.call(opcode::READLINK, node, &[])
    }

    /// LINK.
    pub fn link(&mut self, old: u64, parent: u64, name: &[u8]) -> Result<EntryOut, Errno> {
        self.entry(opcode::LINK, parent, &[old.as_bytes(), name, b"\0"])
    }

    /// UNLINK.
    pub fn unlink(&mut self, parent: u64, name: &[u8]) -> Result<(), Errno> {
        self.call(opcode::UNLINK, parent, &[name, b"\0"]).map(|_| ())
    }

    /// RMDIR.
    pub fn rmdir(&mut self, parent: u64, name: &[u8]) -> Result<(), Errno> {
        self.call(opcode::RMDIR, parent, &[name, b"\0"]).map(|_| ())
    }

    /// RENAME2.
    pub fn rename(&mut self, from: (u64, &[u8]), to: (u64, &[u8]), flags: u32) -> Result<(), Errno> {
        let asked = Rename2In { newdir: to.0, flags, padding: 0 };
        self.call(opcode::RENAME2, from.0, &[asked.as_bytes(), from.1, b"\0", to.1, b"\0"]).map(|_| ())
    }

    /// CREATE for reading and writing: the entry and the handle.
    pub fn create(&mut self, parent: u64, name: &[u8], mode: u32) -> Result<(EntryOut, u64), Errno> {
        self.create_with(parent, name, mode, libc_flags::RDWR)
    }

    /// CREATE.
    pub fn create_with(&mut self, parent: u64, name: &[u8], mode: u32, flags: u32) -> Result<(EntryOut, u64), Errno> {
        self.make_open(opcode::CREATE, parent, name, &CreateIn { flags, mode, ..CreateIn::default() })
    }

    /// TMPFILE; the kernel sends a name nobody needs.
    pub fn tmpfile(&mut self, parent: u64, mode: u32, flags: u32) -> Result<(EntryOut, u64), Errno> {
        self.make_open(opcode::TMPFILE, parent, b"/", &CreateIn { flags, mode, ..CreateIn::default() })
    }

    fn make_open(&mut self, opcode: u32, parent: u64, name: &[u8], asked: &CreateIn) -> Result<(EntryOut, u64), Errno> {
        let answer = self.call(opcode, parent, &[asked.as_bytes(), name, b"\0"])?;
        let (entry, rest) = EntryOut::read_from_prefix(&answer).expect("an entry");
        Ok((entry, parsed::<OpenOut>(rest).fh))
    }

    /// OPEN.
    pub fn open(&mut self, node: u64, flags: u32) -> Result<OpenOut, Errno> {
        let answer = self.call(opcode::OPEN, node, &[OpenIn { flags, open_flags: 0 }.as_bytes()])?;
        Ok(parsed(&answer))
    }

    /// RELEASE.
    pub fn release(&mut self, node: u64, fh: u64) -> Result<(), Errno> {
        let asked = wire::ReleaseIn { fh, ..wire::ReleaseIn::default() };
        self.call(opcode::RELEASE, node, &[asked.as_bytes()]).map(|_| ())
    }

    /// RELEASEDIR.
    pub fn releasedir(&mut self, node: u64, fh: u64) -> Result<(), Errno> {
        let asked = wire::ReleaseIn { fh, ..wire::ReleaseIn::default() };
        self.call(opcode::RELEASEDIR, node, &[asked.as_bytes()]).map(|_| ())
    }

    /// READ.
    pub fn read(&mut self, node: u64, fh: u64, offset: u64, size: u32) -> Result<Vec<u8>, Errno> {
        let asked = ReadIn { fh, offset, size, ..ReadIn::default() };
        self.call_with_room(opcode::READ, node, &[asked.as_bytes()], size.saturating_add(16).min(MOST_ROOM))
    }

    /// WRITE.
    pub fn write(&mut self, node: u64, fh: u64, offset: u64, data: &[u8]) -> Result<u32, Errno> {
        let size = narrow(data.len());
        self.write_as(node, &WriteIn { fh, offset, size, ..WriteIn::default() }, data)
    }

    /// WRITE with all that can be said.
    pub fn write_as(&mut self, node: u64, asked: &WriteIn, data: &[u8]) -> Result<u32, Errno> {
        let answer = self.call(opcode::WRITE, node, &[asked.as_bytes(), data])?;
        Ok(parsed::<WriteOut>(&answer).size)
    }

    /// GETATTR.
    pub fn getattr(&mut self, node: u64) -> Result<Attr, Errno> {
        let answer = self.call(opcode::GETATTR, node, &[GetattrIn::default().as_bytes()])?;
        Ok(parsed::<AttrOut>(&answer).attr)
    }

    /// SETATTR.
    pub fn setattr(&mut self, node: u64, asked: &SetattrIn) -> Result<Attr, Errno> {
        let answer = self.call(opcode::SETATTR, node, &[asked.as_bytes()])?;
        Ok(parsed::<AttrOut>(&answer).attr)
    }

    /// STATFS.
    pub fn statfs(&mut self, node: u64) -> Result<StatfsOut, Errno> {
        self.call(opcode::STATFS, node, &[]).map(|answer| parsed(&answer))
    }

    /// FSYNC, or FDATASYNC.
    pub fn fsync(&mut self, node: u64, fh: u64, is_data_only: bool) -> Result<(), Errno> {
        let asked = FsyncIn { fh, flags: u32::from(is_data_only), padding: 0 };
        self.call(opcode::FSYNC, node, &[asked.as_bytes()]).map(|_| ())
    }

    /// LSEEK.
    pub fn lseek(&mut self, node: u64, fh: u64, offset: u64, whence: u32) -> Result<u64, Errno> {
        let asked = LseekIn { fh, offset, whence, padding: 0 };
        self.call(opcode::LSEEK, node, &[asked.as_bytes()]).map(|answer| parsed::<LseekOut>(&answer).offset)
    }

    /// FALLOCATE.
    pub fn fallocate(&mut self, node: u64, asked: &FallocateIn) -> Result<(), Errno> {
        self.call(opcode::FALLOCATE, node, &[asked.as_bytes()]).map(|_| ())
    }

    /// COPY_FILE_RANGE from a file of this node.
    pub fn copy_file_range(&mut self, node: u64, asked: &CopyFileRangeIn) -> Result<u32, Errno> {
        self.call(opcode::COPY_FILE_RANGE, node, &[asked.as_bytes()]).map(|answer| parsed::<WriteOut>(&answer).size)
    }

    /// SETXATTR, in its short form: a session with the feature `SETXATTR_EXT` takes a longer one.
    pub fn setxattr(&mut self, node: u64, name: &[u8], value: &[u8], flags: u32) -> Result<(), Errno> {
        let head = [narrow(value.len()), flags];
        self.call(SETXATTR, node, &[head.as_bytes(), name, b"\0", value]).map(|_| ())
    }

    /// GETXATTR with so many bytes of room for the value.
    pub fn getxattr(&mut self, node: u64, name: &[u8], room: u32) -> Result<Vec<u8>, Errno> {
        self.call(GETXATTR, node, &[[room, 0].as_bytes(), name, b"\0"])
    }

    /// GETXATTR without room: how long the value is.
    pub fn xattr_length(&mut self, node: u64, name: &[u8]) -> Result<u32, Errno> {
        let answer = self.getxattr(node, name, 0)?;
        Ok(parsed::<[u32; 2]>(&answer)[0])
    }

    /// LISTXATTR with so many bytes of room for the names.
    pub fn listxattr(&mut self, node: u64, room: u32) -> Result<Vec<u8>, Errno> {
        self.call(LISTXATTR, node, &[[room, 0].as_bytes()])
    }

    /// LISTXATTR without room: how long the names are.
    pub fn xattr_names_length(&mut self, node: u64) -> Result<u32, Errno> {
        let answer = self.listxattr(node, 0)?;
        Ok(parsed::<[u32; 2]>(&answer)[0])
    }

    /// REMOVEXATTR.
    pub fn removexattr(&mut self, node: u64, name: &[u8]) -> Result<(), Errno> {
        self.call(REMOVEXATTR, node, &[name, b"\0"]).map(|_| ())
    }

    /// FORGET.
    ///
    /// # Panics
    /// When it is answered.
    pub fn forget(&mut self, node: u64, lookups: u64) {
        let header = InHeader { len: 48, opcode: opcode::FORGET, unique: 0, nodeid: node, ..InHeader::default() };
        assert_eq!(self.raw(&[header.as_bytes(), lookups.as_bytes()].concat(), ROOM), b"", "FORGET has no answer");
    }

    /// OPENDIR.
    pub fn opendir(&mut self, node: u64) -> Result<u64, Errno> {
        let answer = self.call(opcode::OPENDIR, node, &[OpenIn::default().as_bytes()])?;
        Ok(parsed::<OpenOut>(&answer).fh)
    }

    /// One READDIR: names and the positions after them.
    pub fn readdir(&mut self, node: u64, fh: u64, offset: u64, size: u32) -> Result<Vec<(Vec<u8>, u64)>, Errno> {
        let asked = ReadIn { fh, offset, size, ..ReadIn::default() };
        let room = size.saturating_add(16).min(ROOM);
        let answer = self.call_with_room(opcode::READDIR, node, &[asked.as_bytes()], room)?;
        let mut rest = answer.as_slice();
        let mut entries = Vec::new();
        while !rest.is_empty() {
            let (name, dirent);
            (name, dirent, rest) = take_dirent(rest);
            entries.push((name, dirent.off));
        }
        Ok(entries)
    }

    /// One READDIRPLUS: names and what is told about them.
    pub fn readdirplus(&mut self, node: u64, fh: u64, offset: u64) -> Result<Vec<(Vec<u8>, EntryOut)>, Errno> {
        let listed = self.readdirplus_from(node, fh, offset, ROOM)?;
        Ok(listed.into_iter().map(|(name, known, _)| (name, known)).collect())
    }

    /// The same with the positions after the entries, as many as fit into `size` bytes.
    pub fn readdirplus_from(
        &mut self,
        node: u64,
        fh: u64,
        offset: u64,
        size: u32,
    ) -> Result<Vec<(Vec<u8>, EntryOut, u64)>, Errno> {
        let asked = ReadIn { fh, offset, size, ..ReadIn::default() };
        let room = size.saturating_add(16).min(ROOM);
        let answer = self.call_with_room(opcode::READDIRPLUS, node, &[asked.as_bytes()], room)?;
        let mut rest = answer.as_slice();
        let mut entries = Vec::new();
        while !rest.is_empty() {
            let (known, tail) = EntryOut::read_from_prefix(rest).expect("an entry");
            let (name, dirent, tail) = take_dirent(tail);
            entries.push((name, known, dirent.off));
            rest = tail;
        }
        Ok(entries)
    }
}

/// A buffer in pieces of a page, as the guest's kernel has them; an empty one is one piece.
fn pages(length: u32) -> impl Iterator<Item = (u64, u32)> {
    let starts = (0..length.max(1)).step_by(wide(PAGE));
    starts.map(move |start| (u64::from(start), (length - start).min(PAGE)))
}

fn take_dirent(bytes: &[u8]) -> (Vec<u8>, Dirent, &[u8]) {
    let (dirent, rest) = Dirent::read_from_prefix(bytes).expect("an entry of a directory");
    let length = wide(dirent.namelen);
    let (name, rest) = rest.split_at(length.next_multiple_of(8));
    (name.iter().copied().take(length).collect(), dirent, rest)
}

fn parsed<T: FromBytes>(answer: &[u8]) -> T {
    T::read_from_bytes(answer).expect("an answer of the right length")
}

fn narrow(length: usize) -> u32 {
    u32::try_from(length).expect("less than 4 GiB")
}

fn wide(length: u32) -> usize {
    usize::try_from(length).expect("a host of 64 bits")
}

/// Names in a directory on the host, sorted.
///
/// # Panics
/// When it cannot be read, or one of them is no text.
pub fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).expect("a directory");
    let mut names: Vec<_> =
        entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("a text")).collect();
    names.sort();
    names
}

/// Open flags as the guest's kernel sends them.
pub mod libc_flags {
    /// `O_RDONLY`.
    pub const RDONLY: u32 = 0;
    /// `O_WRONLY`.
    pub const WRONLY: u32 = 1;
    /// `O_RDWR`.
    pub const RDWR: u32 = 2;
    /// `O_EXCL`.
    pub const EXCL: u32 = 0o200;
    /// `O_TRUNC`.
    pub const TRUNC: u32 = 0o1000;
    /// `O_APPEND`.
    pub const APPEND: u32 = 0o2000;
    /// `O_DIRECT`.
    pub const DIRECT: u32 = 0o40000;
}

//! The driver's side: builds messages, honest or not, and takes the answers apart.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use tempfile::TempDir;
use virtio::test_kit::{Buffer, DATA, DriverQueue, Exchange, Local, Transport, ram};
use zerocopy::{FromBytes, IntoBytes};

use crate::fs::wire::{
    self, Attr, AttrOut, CreateIn, Dirent, EntryOut, GetattrIn, InHeader, MkdirIn, OpenIn, OpenOut, OutHeader, ROOT,
    ReadIn, Rename2In, SetattrIn, WriteIn, WriteOut, opcode,
};
use crate::fs::{Access, Fs, Share};

/// Where answers go; requests start at `DATA`, and both may be a little longer than 1 MiB.
const ANSWER: u64 = DATA + (3 << 19);
const REQUEST_QUEUE: u16 = 1;
/// Room offered for an answer unless a test says otherwise.
const ROOM: u32 = 8192;
/// Node of the first share's root.
pub(super) const SHARE: u64 = ROOT + 1;

/// What a host's user sees, and a guest that has one share of it mounted.
pub(super) struct Guest {
    device: Local,
    driver: DriverQueue,
    unique: u64,
    host: TempDir,
}

/// Content of a file beside the share that no test may change.
const CANARY: &[u8] = b"untouched";

impl Guest {
    /// A guest that has begun a session with one writable share.
    pub(super) fn new() -> Self {
        Self::with_access(&[Access::ReadWrite])
    }

    /// One share for each access; the first is at [`Guest::path`], the others beside it, called `1`, `2`, ...
    pub(super) fn with_access(access: &[Access]) -> Self {
        let mut guest = Self::before_init(access);
        guest.init(wire::MINOR).unwrap();
        guest
    }

    pub(super) fn before_init(access: &[Access]) -> Self {
        let host = tempfile::tempdir().unwrap();
        std::fs::write(host.path().join("canary"), CANARY).unwrap();
        let shares = access.iter().enumerate().map(|(index, access)| {
            let path = host.path().join(index.to_string());
            std::fs::create_dir(&path).unwrap();
            Share::open(&path, *access).unwrap()
        });
        let shares = shares.collect();
        Self::serving(shares, host)
    }

    /// A guest of these shares that has not begun a session.
    pub(super) fn serving(shares: Vec<Share>, host: TempDir) -> Self {
        let ram = ram();
        let queues = [DriverQueue::new(&ram, 0, 1024), DriverQueue::new(&ram, 1, 1024)];
        let mut device = Local::serve(Box::new(Fs::new(shares).unwrap()), &ram);
        device.start(0, &queues);
        let [_, driver] = queues;
        Self { device, driver, unique: 0, host }
    }

    pub(super) fn init(&mut self, minor: u32) -> Result<wire::InitOut, Errno> {
        let features = [u32::MAX; 2];
        let body = [7, minor, 1 << 20, features[0], features[1]].as_bytes().to_vec();
        self.call(opcode::INIT, 0, &[&body, &[0; 44]]).map(|answer| wire::InitOut::read_from_bytes(&answer).unwrap())
    }

    /// A path in the first share, as the host sees it.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.host.path().join("0").join(name)
    }

    /// A path beside the shares.
    pub(super) fn outside(&self, name: &str) -> PathBuf {
        self.host.path().join(name)
    }

    /// Nothing but the shares and the canary is in the directory they are in.
    pub(super) fn assert_nothing_escaped(&self) {
        let mut names: Vec<_> =
            std::fs::read_dir(self.host.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.retain(|name| name.to_str().unwrap().parse::<u32>().is_err());
        assert_eq!(names, [OsStr::from_bytes(b"canary")]);
        assert_eq!(std::fs::read(self.outside("canary")).unwrap(), CANARY);
    }

    /// Sends a message whose header is honest.
    pub(super) fn call(&mut self, opcode: u32, nodeid: u64, body: &[&[u8]]) -> Result<Vec<u8>, Errno> {
        self.call_with_room(opcode, nodeid, body, ROOM)
    }

    /// The same with so many bytes of room for the answer.
    pub(super) fn call_with_room(
        &mut self,
        opcode: u32,
        nodeid: u64,
        body: &[&[u8]],
        room: u32,
    ) -> Result<Vec<u8>, Errno> {
        let body = body.concat();
        let len = u32::try_from(size_of::<InHeader>() + body.len()).unwrap();
        self.unique += 1;
        let header = InHeader { len, opcode, unique: self.unique, nodeid, ..InHeader::default() };
        let answer = self.raw(&[header.as_bytes(), &body].concat(), room);
        let (head, rest) = OutHeader::read_from_prefix(&answer).unwrap();
        assert_eq!((head.unique, usize::try_from(head.len).unwrap()), (self.unique, answer.len()));
        match head.error {
            0 => Ok(rest.to_vec()),
            error => {
                assert_eq!(rest, b"", "an error has no contents");
                Err(Errno::from_raw_os_error(-error))
            }
        }
    }

    /// Sends any bytes at all and returns the answer, which may be none.
    pub(super) fn raw(&mut self, request: &[u8], room: u32) -> Vec<u8> {
        self.driver.write(DATA, request);
        let buffers = [Buffer::readable(DATA, u32::try_from(request.len()).unwrap()), Buffer::writable(ANSWER, room)];
        let used = self.device.exchange(REQUEST_QUEUE, &mut self.driver, &buffers);
        assert!(used.length <= room);
        self.driver.read(ANSWER, usize::try_from(used.length).unwrap())
    }

    fn entry(&mut self, opcode: u32, parent: u64, body: &[&[u8]]) -> Result<EntryOut, Errno> {
        self.call(opcode, parent, body).map(|answer| EntryOut::read_from_bytes(&answer).unwrap())
    }

    pub(super) fn lookup(&mut self, parent: u64, name: &[u8]) -> Result<EntryOut, Errno> {
        self.entry(opcode::LOOKUP, parent, &[name, b"\0"])
    }

    pub(super) fn mkdir(&mut self, parent: u64, name: &[u8]) -> Result<EntryOut, Errno> {
        self.entry(opcode::MKDIR, parent, &[MkdirIn { mode: 0o755, umask: 0 }.as_bytes(), name, b"\0"])
    }

    pub(super) fn mknod(&mut self, parent: u64, name: &[u8], mode: u32) -> Result<EntryOut, Errno> {
        let asked = wire::MknodIn { mode, rdev: 0x103, ..wire::MknodIn::default() };
        self.entry(opcode::MKNOD, parent, &[asked.as_bytes(), name, b"\0"])
    }

    pub(super) fn symlink(&mut self, parent: u64, name: &[u8], target: &[u8]) -> Result<EntryOut, Errno> {
        self.entry(opcode::SYMLINK, parent, &[name, b"\0", target, b"\0"])
    }

    pub(super) fn link(&mut self, old: u64, parent: u64, name: &[u8]) -> Result<EntryOut, Errno> {
        self.entry(opcode::LINK, parent, &[old.as_bytes(), name, b"\0"])
    }

    pub(super) fn unlink(&mut self, parent: u64, name: &[u8]) -> Result<(), Errno> {
        self.call(opcode::UNLINK, parent, &[name, b"\0"]).map(|_| ())
    }

    pub(super) fn rmdir(&mut self, parent: u64, name: &[u8]) -> Result<(), Errno> {
        self.call(opcode::RMDIR, parent, &[name, b"\0"]).map(|_| ())
    }

    pub(super) fn rename(&mut self, from: (u64, &[u8]), to: (u64, &[u8]), flags: u32) -> Result<(), Errno> {
        let asked = Rename2In { newdir: to.0, flags, padding: 0 };
        self.call(opcode::RENAME2, from.0, &[asked.as_bytes(), from.1, b"\0", to.1, b"\0"]).map(|_| ())
    }

    pub(super) fn create(&mut self, parent: u64, name: &[u8], mode: u32) -> Result<(EntryOut, u64), Errno> {
        self.create_with(parent, name, mode, libc_flags::RDWR)
    }

    pub(super) fn create_with(
        &mut self,
        parent: u64,
        name: &[u8],
        mode: u32,
        flags: u32,
    ) -> Result<(EntryOut, u64), Errno> {
        let asked = CreateIn { flags, mode, ..CreateIn::default() };
        let answer = self.call(opcode::CREATE, parent, &[asked.as_bytes(), name, b"\0"])?;
        let (entry, rest) = EntryOut::read_from_prefix(&answer).unwrap();
        Ok((entry, OpenOut::read_from_bytes(rest).unwrap().fh))
    }

    pub(super) fn open(&mut self, node: u64, flags: u32) -> Result<OpenOut, Errno> {
        let answer = self.call(opcode::OPEN, node, &[OpenIn { flags, open_flags: 0 }.as_bytes()])?;
        Ok(OpenOut::read_from_bytes(&answer).unwrap())
    }

    pub(super) fn release(&mut self, node: u64, fh: u64) -> Result<(), Errno> {
        let asked = wire::ReleaseIn { fh, ..wire::ReleaseIn::default() };
        self.call(opcode::RELEASE, node, &[asked.as_bytes()]).map(|_| ())
    }

    pub(super) fn read(&mut self, node: u64, fh: u64, offset: u64, size: u32) -> Result<Vec<u8>, Errno> {
        let asked = ReadIn { fh, offset, size, ..ReadIn::default() };
        self.call_with_room(opcode::READ, node, &[asked.as_bytes()], size.saturating_add(16).min(ROOM))
    }

    pub(super) fn write(&mut self, node: u64, fh: u64, offset: u64, data: &[u8]) -> Result<u32, Errno> {
        let size = u32::try_from(data.len()).unwrap();
        self.write_as(node, &WriteIn { fh, offset, size, ..WriteIn::default() }, data)
    }

    pub(super) fn write_as(&mut self, node: u64, asked: &WriteIn, data: &[u8]) -> Result<u32, Errno> {
        let answer = self.call(opcode::WRITE, node, &[asked.as_bytes(), data])?;
        Ok(WriteOut::read_from_bytes(&answer).unwrap().size)
    }

    pub(super) fn getattr(&mut self, node: u64) -> Result<Attr, Errno> {
        let answer = self.call(opcode::GETATTR, node, &[GetattrIn::default().as_bytes()])?;
        Ok(AttrOut::read_from_bytes(&answer).unwrap().attr)
    }

    pub(super) fn setattr(&mut self, node: u64, asked: &SetattrIn) -> Result<Attr, Errno> {
        let answer = self.call(opcode::SETATTR, node, &[asked.as_bytes()])?;
        Ok(AttrOut::read_from_bytes(&answer).unwrap().attr)
    }

    pub(super) fn forget(&mut self, node: u64, lookups: u64) {
        let header = InHeader { len: 48, opcode: opcode::FORGET, unique: 0, nodeid: node, ..InHeader::default() };
        assert_eq!(self.raw(&[header.as_bytes(), lookups.as_bytes()].concat(), ROOM), b"", "FORGET has no answer");
    }

    pub(super) fn opendir(&mut self, node: u64) -> Result<u64, Errno> {
        let answer = self.call(opcode::OPENDIR, node, &[OpenIn::default().as_bytes()])?;
        Ok(OpenOut::read_from_bytes(&answer).unwrap().fh)
    }

    /// One READDIR: names and the positions after them.
    pub(super) fn readdir(&mut self, node: u64, fh: u64, offset: u64, size: u32) -> Result<Vec<(Vec<u8>, u64)>, Errno> {
        let asked = ReadIn { fh, offset, size, ..ReadIn::default() };
        let answer =
            self.call_with_room(opcode::READDIR, node, &[asked.as_bytes()], size.saturating_add(16).min(ROOM))?;
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
    pub(super) fn readdirplus(&mut self, node: u64, fh: u64, offset: u64) -> Result<Vec<(Vec<u8>, EntryOut)>, Errno> {
        let asked = ReadIn { fh, offset, size: ROOM, ..ReadIn::default() };
        let answer = self.call(opcode::READDIRPLUS, node, &[asked.as_bytes()])?;
        let mut rest = answer.as_slice();
        let mut entries = Vec::new();
        while !rest.is_empty() {
            let (known, tail) = EntryOut::read_from_prefix(rest).unwrap();
            let (name, _, tail) = take_dirent(tail);
            entries.push((name, known));
            rest = tail;
        }
        Ok(entries)
    }
}

fn take_dirent(bytes: &[u8]) -> (Vec<u8>, Dirent, &[u8]) {
    let (dirent, rest) = Dirent::read_from_prefix(bytes).unwrap();
    let length = usize::try_from(dirent.namelen).unwrap();
    (rest[..length].to_vec(), dirent, &rest[length.next_multiple_of(8)..])
}

/// Names in a directory on the host, sorted.
pub(super) fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Open flags as the guest's kernel sends them.
pub(super) mod libc_flags {
    pub(in super::super) const RDONLY: u32 = 0;
    pub(in super::super) const WRONLY: u32 = 1;
    pub(in super::super) const RDWR: u32 = 2;
    pub(in super::super) const EXCL: u32 = 0o200;
    pub(in super::super) const TRUNC: u32 = 0o1000;
    pub(in super::super) const APPEND: u32 = 0o2000;
    pub(in super::super) const DIRECT: u32 = 0o40000;
}

//! Plays operations to one server and says what came of them, in words that mean the same for every server.

use std::collections::BTreeMap;
use std::path::PathBuf;

use devices::fs::test_kit::{Attr, Backend, CopyFileRangeIn, EntryOut, FallocateIn, Guest, SetattrIn, WriteIn, set};
use rustix::io::Errno;

use crate::operation::Operation;
use crate::servers::{Kind, host};

/// What an operation told, or how it failed.
pub type Outcome = Result<Told, Errno>;

/// What an operation told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// That it was done.
    Done,
    /// That there is no such entry, and for how long that holds.
    Absent,
    /// An entry or a node.
    File(Look),
    /// A file and its times of access and change.
    Times(Look, [(u64, u32); 2]),
    /// Data, the target of a link, or the value of an attribute.
    Bytes(Vec<u8>),
    /// A number of bytes or an offset.
    Number(u64),
    /// A directory, by name: what is told of each entry.
    Entries(BTreeMap<Vec<u8>, Option<Look>>),
    /// The names of attributes.
    Attributes(Vec<Vec<u8>>),
    /// Size of a file system in blocks, and the longest name it takes.
    Space(u64, u32),
}

/// A file as a guest sees it, without what no two files have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    mode: u32,
    /// Directories of the same contents may differ.
    size: Option<u64>,
    links: u32,
    owner: (u32, u32),
}

impl Look {
    fn of(attr: &Attr) -> Self {
        let is_directory = attr.mode & TYPE == DIRECTORY;
        Self {
            mode: attr.mode,
            size: (!is_directory).then_some(attr.size),
            links: attr.nlink,
            owner: (attr.uid, attr.gid),
        }
    }
}

/// One server and what its guest knows of it.
pub struct Player {
    guest: Guest<Box<dyn Backend>>,
    /// Their IDs and types.
    nodes: Vec<(u64, u32)>,
    handles: Vec<(u64, u64)>,
    news: News,
}

/// What the last operation added to the guest's knowledge.
#[derive(Debug, Clone, Copy, Default)]
struct News {
    node: Option<(u64, u32)>,
    handle: Option<(u64, u64)>,
}

/// The bits of a mode that are a type.
const TYPE: u32 = 0o170_000;
const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;

impl Player {
    /// A guest of a server with an empty share.
    pub fn new(kind: Kind) -> Self {
        let guest = kind.serve(host());
        Self { guest, nodes: vec![(kind.root(), DIRECTORY)], handles: Vec::new(), news: News::default() }
    }

    /// The share, as the host sees it.
    pub fn share(&self) -> PathBuf {
        self.guest.path("")
    }

    /// Plays one operation.
    pub fn play(&mut self, operation: &Operation) -> Outcome {
        self.news = News::default();
        let outcome = self.serve(operation);
        self.nodes.extend(self.news.node);
        self.handles.extend(self.news.handle);
        outcome
    }

    /// Whether there is anything to play the operation on, and Linux would: the servers may do what they like with
    /// requests that no guest's kernel sends.
    pub fn can_play(&self, operation: &Operation) -> bool {
        match operation {
            operation if operation.is_on_open_file() => !self.handles.is_empty(),
            Operation::Open { node, .. } | Operation::Truncate { node, .. } => self.kind(node) == REGULAR,
            Operation::List { node, .. } => self.kind(node) == DIRECTORY,
            Operation::Readlink { node } => self.kind(node) == 0o120_000,
            Operation::Link { old, .. } => self.kind(old) != DIRECTORY,
            _ => true,
        }
    }

    fn kind(&self, node: &proptest::sample::Index) -> u32 {
        node.get(&self.nodes).1
    }

    fn node(&self, node: &proptest::sample::Index) -> u64 {
        node.get(&self.nodes).0
    }

    fn handle(&self, handle: &proptest::sample::Index) -> (u64, u64) {
        *handle.get(&self.handles)
    }

    fn serve(&mut self, operation: &Operation) -> Outcome {
        match operation {
            Operation::Lookup { parent, name } => {
                let entry = self.guest.lookup(self.node(parent), name)?;
                Ok(if entry.nodeid == 0 { Told::Absent } else { self.learn(&entry) })
            }
            Operation::Getattr { node } => Ok(Told::File(Look::of(&self.guest.getattr(self.node(node))?))),
            Operation::Mkdir { parent, name, mode } => {
                let entry = self.guest.mkdir_with(self.node(parent), name, *mode)?;
                Ok(self.learn(&entry))
            }
            Operation::Mknod { parent, name, mode } => {
                let entry = self.guest.mknod(self.node(parent), name, *mode)?;
                Ok(self.learn(&entry))
            }
            Operation::Create { parent, name, mode, flags } => {
                let opened = self.guest.create_with(self.node(parent), name, *mode, *flags)?;
                Ok(self.learn_open(opened))
            }
            Operation::Tmpfile { parent, mode } => {
                let opened = self.guest.tmpfile(self.node(parent), *mode, 2)?;
                Ok(self.learn_open(opened))
            }
            Operation::Symlink { parent, name, target } => {
                let entry = self.guest.symlink(self.node(parent), name, target)?;
                Ok(self.learn(&entry))
            }
            Operation::Readlink { node } => self.guest.readlink(self.node(node)).map(Told::Bytes),
            Operation::Link { old, parent, name } => {
                let entry = self.guest.link(self.node(old), self.node(parent), name)?;
                Ok(self.learn(&entry))
            }
            Operation::Unlink { parent, name } => self.guest.unlink(self.node(parent), name).map(|()| Told::Done),
            Operation::Rmdir { parent, name } => self.guest.rmdir(self.node(parent), name).map(|()| Told::Done),
            Operation::Rename { from, name, to, new, flags } => {
                let (from, to) = ((self.node(from), name.as_slice()), (self.node(to), new.as_slice()));
                self.guest.rename(from, to, *flags).map(|()| Told::Done)
            }
            Operation::List { node, has_attributes } => self.list(self.node(node), *has_attributes),
            Operation::Chmod { node, mode } => {
                let asked = SetattrIn { valid: set::MODE, mode: *mode, ..SetattrIn::default() };
                Ok(Told::File(Look::of(&self.guest.setattr(self.node(node), &asked)?)))
            }
            Operation::Truncate { node, size } => {
                let asked = SetattrIn { valid: set::SIZE, size: *size, ..SetattrIn::default() };
                Ok(Told::File(Look::of(&self.guest.setattr(self.node(node), &asked)?)))
            }
            Operation::Times { node, accessed, modified } => self.times(self.node(node), *accessed, *modified),
            Operation::Statfs { node } => {
                let space = self.guest.statfs(self.node(node))?;
                Ok(Told::Space(space.blocks, space.namelen))
            }
            Operation::Open { node, flags } => {
                let node = self.node(node);
                let opened = self.guest.open(node, *flags)?;
                self.news.handle = Some((node, opened.fh));
                Ok(Told::Done)
            }
            Operation::SetAttribute { node, name, value, flags } => {
                self.guest.setxattr(self.node(node), name, value, *flags).map(|()| Told::Done)
            }
            Operation::GetAttribute { node, name, room: 0 } => {
                self.guest.xattr_length(self.node(node), name).map(|length| Told::Number(length.into()))
            }
            Operation::GetAttribute { node, name, room } => {
                self.guest.getxattr(self.node(node), name, *room).map(Told::Bytes)
            }
            Operation::ListAttributes { node, room } => self.list_attributes(self.node(node), *room),
            Operation::RemoveAttribute { node, name } => {
                self.guest.removexattr(self.node(node), name).map(|()| Told::Done)
            }
            _ => self.serve_open(operation),
        }
    }

    /// Operations on an open file.
    fn serve_open(&mut self, operation: &Operation) -> Outcome {
        match operation {
            Operation::Read { handle, offset, size } => {
                let (node, fh) = self.handle(handle);
                self.guest.read(node, fh, *offset, *size).map(Told::Bytes)
            }
            Operation::Write { handle, offset, data } => {
                let (node, fh) = self.handle(handle);
                let size = u32::try_from(data.len()).expect("short");
                let asked = WriteIn { fh, offset: *offset, size, ..WriteIn::default() };
                self.guest.write_as(node, &asked, data).map(|count| Told::Number(count.into()))
            }
            Operation::Fsync { handle, is_data_only } => {
                let (node, fh) = self.handle(handle);
                self.guest.fsync(node, fh, *is_data_only).map(|()| Told::Done)
            }
            Operation::Fallocate { handle, mode, offset, length } => {
                let (node, fh) = self.handle(handle);
                let asked = FallocateIn { fh, offset: *offset, length: *length, mode: *mode, padding: 0 };
                self.guest.fallocate(node, &asked).map(|()| Told::Done)
            }
            Operation::Lseek { handle, offset, whence } => {
                let (node, fh) = self.handle(handle);
                self.guest.lseek(node, fh, *offset, *whence).map(Told::Number)
            }
            Operation::Copy { from, to, off_in, off_out, length } => {
                let ((node, fh_in), (nodeid_out, fh_out)) = (self.handle(from), self.handle(to));
                let (off_in, off_out, len) = (*off_in, *off_out, *length);
                let asked = CopyFileRangeIn { fh_in, off_in, nodeid_out, fh_out, off_out, len, flags: 0 };
                self.guest.copy_file_range(node, &asked).map(|count| Told::Number(count.into()))
            }
            Operation::TruncateOpen { handle, size } => {
                let (node, fh) = self.handle(handle);
                let asked = SetattrIn { valid: set::SIZE | set::FH, fh, size: *size, ..SetattrIn::default() };
                Ok(Told::File(Look::of(&self.guest.setattr(node, &asked)?)))
            }
            Operation::Release { handle } => {
                let (node, fh) = self.handle(handle);
                self.guest.release(node, fh).map(|()| Told::Done)
            }
            _ => unreachable!("{operation:?} is about no open file"),
        }
    }

    fn learn(&mut self, entry: &EntryOut) -> Told {
        self.news.node = Some((entry.nodeid, entry.attr.mode & TYPE));
        Told::File(Look::of(&entry.attr))
    }

    fn learn_open(&mut self, (entry, fh): (EntryOut, u64)) -> Told {
        self.news.handle = Some((entry.nodeid, fh));
        self.learn(&entry)
    }

    fn times(&mut self, node: u64, accessed: Option<(u64, u32)>, modified: Option<(u64, u32)>) -> Outcome {
        let mut asked = SetattrIn::default();
        if let Some((seconds, nanoseconds)) = accessed {
            asked.valid |= set::ATIME;
            (asked.atime, asked.atimensec) = (seconds, nanoseconds);
        }
        if let Some((seconds, nanoseconds)) = modified {
            asked.valid |= set::MTIME;
            (asked.mtime, asked.mtimensec) = (seconds, nanoseconds);
        }
        let attr = self.guest.setattr(node, &asked)?;
        // What was not set is each server's own.
        let accessed = accessed.map_or((0, 0), |_| (attr.atime, attr.atimensec));
        let modified = modified.map_or((0, 0), |_| (attr.mtime, attr.mtimensec));
        Ok(Told::Times(Look::of(&attr), [accessed, modified]))
    }

    fn list(&mut self, node: u64, has_attributes: bool) -> Outcome {
        let fh = self.guest.opendir(node)?;
        let listed = self.list_open(node, fh, has_attributes);
        self.guest.releasedir(node, fh).expect("an open directory is closed");
        listed
    }

    fn list_open(&mut self, node: u64, fh: u64, has_attributes: bool) -> Outcome {
        let mut entries = BTreeMap::new();
        let mut offset = 0;
        loop {
            let piece: Vec<(Vec<u8>, Option<EntryOut>, u64)> = if has_attributes {
                let piece = self.guest.readdirplus_from(node, fh, offset, 4096)?;
                piece.into_iter().map(|(name, known, next)| (name, Some(known), next)).collect()
            } else {
                let piece = self.guest.readdir(node, fh, offset, 4096)?;
                piece.into_iter().map(|(name, next)| (name, None, next)).collect()
            };
            let Some((.., next)) = piece.last() else { break };
            offset = *next;
            for (name, known, _) in piece {
                // The nodes are not forgotten: they stay as they are for later operations.
                let known = known.filter(|known| known.nodeid != 0).map(|known| Look::of(&known.attr));
                let twice = entries.insert(name, known);
                assert_eq!(twice, None, "an entry is listed twice");
            }
        }
        Ok(Told::Entries(entries))
    }

    fn list_attributes(&mut self, node: u64, room: u32) -> Outcome {
        if room == 0 {
            return self.guest.xattr_names_length(node).map(|length| Told::Number(length.into()));
        }
        let list = self.guest.listxattr(node, room)?;
        let mut names: Vec<Vec<u8>> = list.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect();
        names.sort();
        Ok(Told::Attributes(names))
    }
}

//! What a guest asks of a file server, without the numbers that are each server's own.
//!
//! Nodes and handles are places in lists that grow as the operations succeed, so that one sequence makes sense to
//! every server. No manners are kept: an operation may be about any node, whatever it is by then.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

/// A place in the list of nodes, whatever its length.
pub type Node = proptest::sample::Index;
/// A place in the list of handles.
pub type Handle = proptest::sample::Index;
/// The name of an entry.
pub type Name = Vec<u8>;

/// One operation.
#[derive(Debug, Clone)]
pub enum Operation {
    /// LOOKUP.
    Lookup { parent: Node, name: Name },
    /// GETATTR.
    Getattr { node: Node },
    /// MKDIR.
    Mkdir { parent: Node, name: Name, mode: u32 },
    /// MKNOD of a regular file, a FIFO or a socket.
    Mknod { parent: Node, name: Name, mode: u32 },
    /// CREATE.
    Create { parent: Node, name: Name, mode: u32, flags: u32 },
    /// TMPFILE.
    Tmpfile { parent: Node, mode: u32 },
    /// SYMLINK.
    Symlink { parent: Node, name: Name, target: Name },
    /// READLINK.
    Readlink { node: Node },
    /// LINK.
    Link { old: Node, parent: Node, name: Name },
    /// UNLINK.
    Unlink { parent: Node, name: Name },
    /// RMDIR.
    Rmdir { parent: Node, name: Name },
    /// RENAME2.
    Rename { from: Node, name: Name, to: Node, new: Name, flags: u32 },
    /// OPEN.
    Open { node: Node, flags: u32 },
    /// READ.
    Read { handle: Handle, offset: u64, size: u32 },
    /// WRITE.
    Write { handle: Handle, offset: u64, data: Vec<u8> },
    /// FSYNC.
    Fsync { handle: Handle, is_data_only: bool },
    /// FALLOCATE.
    Fallocate { handle: Handle, mode: u32, offset: u64, length: u64 },
    /// LSEEK.
    Lseek { handle: Handle, offset: u64, whence: u32 },
    /// COPY_FILE_RANGE.
    Copy { from: Handle, to: Handle, off_in: u64, off_out: u64, length: u64 },
    /// RELEASE.
    Release { handle: Handle },
    /// OPENDIR, all of READDIR or READDIRPLUS, RELEASEDIR.
    List { node: Node, has_attributes: bool },
    /// SETATTR of the mode.
    Chmod { node: Node, mode: u32 },
    /// SETATTR of the size.
    Truncate { node: Node, size: u64 },
    /// SETATTR of the size, by a handle.
    TruncateOpen { handle: Handle, size: u64 },
    /// SETATTR of the times of access and change.
    Times { node: Node, accessed: Option<(u64, u32)>, modified: Option<(u64, u32)> },
    /// STATFS.
    Statfs { node: Node },
    /// SETXATTR.
    SetAttribute { node: Node, name: Name, value: Vec<u8>, flags: u32 },
    /// GETXATTR; without room the length is asked for.
    GetAttribute { node: Node, name: Name, room: u32 },
    /// LISTXATTR.
    ListAttributes { node: Node, room: u32 },
    /// REMOVEXATTR.
    RemoveAttribute { node: Node, name: Name },
}

/// Few, so that they meet.
fn name() -> impl Strategy<Value = Name> {
    const NAMES: [&[u8]; 8] = [b"a", b"b", b"c", b"A", b"dir", b"file", b"\xff\xfe\n", b" two words"];
    prop_oneof![
        20 => select(&NAMES[..]).prop_map(<[u8]>::to_vec),
        1 => Just(vec![b'x'; 255]),
    ]
}

fn node() -> impl Strategy<Value = Node> {
    any::<Node>()
}

fn mode() -> impl Strategy<Value = u32> {
    select(vec![0o755u32, 0o700, 0o644, 0o600, 0o444, 0o000, 0o777, 0o1777])
}

fn offset() -> impl Strategy<Value = u64> {
    prop_oneof![4 => 0..64u64, 4 => select(vec![4095u64, 4096, 8192, 65_536, 1 << 20]), 1 => 0..1u64 << 21]
}

/// Times before the epoch and after 2038 are in there, with and without parts of a second.
fn time() -> impl Strategy<Value = Option<(u64, u32)>> {
    let seconds = select(vec![0u64, 1, 1_000_000_000, 1 << 31, (1 << 32) + 1, u64::MAX - 4]);
    proptest::option::of((seconds, select(vec![0u32, 1, 999_999_999])))
}

fn attribute() -> impl Strategy<Value = Name> {
    select(vec![&b"user.a"[..], b"user.b", b"user.long name"]).prop_map(<[u8]>::to_vec)
}

/// What changes which names there are.
fn shape() -> impl Strategy<Value = Operation> {
    let kind = select(vec![0o100_000u32, 0o010_000, 0o140_000]);
    prop_oneof![
        3 => (node(), name(), mode()).prop_map(|(parent, name, mode)| Operation::Mkdir { parent, name, mode }),
        2 => (node(), name(), kind, mode()).prop_map(|(parent, name, kind, mode)| Operation::Mknod { parent, name, mode: kind | mode }),
        // O_RDONLY, O_WRONLY, O_RDWR, each with O_EXCL, O_TRUNC or neither.
        4 => (node(), name(), mode(), 0..3u32, select(vec![0u32, 0o200, 0o1000]))
            .prop_map(|(parent, name, mode, access, flags)| Operation::Create { parent, name, mode, flags: access | flags }),
        1 => (node(), mode()).prop_map(|(parent, mode)| Operation::Tmpfile { parent, mode }),
        2 => (node(), name(), name()).prop_map(|(parent, name, target)| Operation::Symlink { parent, name, target }),
        2 => (node(), node(), name()).prop_map(|(old, parent, name)| Operation::Link { old, parent, name }),
        3 => (node(), name()).prop_map(|(parent, name)| Operation::Unlink { parent, name }),
        2 => (node(), name()).prop_map(|(parent, name)| Operation::Rmdir { parent, name }),
        // None, RENAME_NOREPLACE, RENAME_EXCHANGE, both, and one there is not.
        4 => (node(), name(), node(), name(), select(vec![0u32, 0, 0, 1, 2, 3, 8]))
            .prop_map(|(from, name, to, new, flags)| Operation::Rename { from, name, to, new, flags }),
    ]
}

/// What reads or changes the contents of files.
fn contents() -> impl Strategy<Value = Operation> {
    let handle = any::<Handle>;
    let data = prop_oneof![4 => vec(any::<u8>(), 0..64), 1 => (any::<u8>(), 4000..6000usize).prop_map(|(byte, length)| vec![byte; length])];
    prop_oneof![
        4 => (node(), 0..3u32, select(vec![0u32, 0, 0o1000, 0o2000]))
            .prop_map(|(node, access, flags)| Operation::Open { node, flags: access | flags }),
        4 => (handle(), offset(), 0..7000u32).prop_map(|(handle, offset, size)| Operation::Read { handle, offset, size }),
        4 => (handle(), offset(), data).prop_map(|(handle, offset, data)| Operation::Write { handle, offset, data }),
        1 => (handle(), any::<bool>()).prop_map(|(handle, is_data_only)| Operation::Fsync { handle, is_data_only }),
        // Plain, KEEP_SIZE, PUNCH_HOLE with it, ZERO_RANGE with and without.
        2 => (handle(), select(vec![0u32, 1, 3, 0x10, 0x11]), offset(), offset())
            .prop_map(|(handle, mode, offset, length)| Operation::Fallocate { handle, mode, offset, length }),
        2 => (handle(), offset(), 3..5u32).prop_map(|(handle, offset, whence)| Operation::Lseek { handle, offset, whence }),
        2 => (handle(), handle(), offset(), offset(), 0..70_000u64)
            .prop_map(|(from, to, off_in, off_out, length)| Operation::Copy { from, to, off_in, off_out, length }),
        1 => handle().prop_map(|handle| Operation::Release { handle }),
        2 => (node(), offset()).prop_map(|(node, size)| Operation::Truncate { node, size }),
        1 => (handle(), offset()).prop_map(|(handle, size)| Operation::TruncateOpen { handle, size }),
    ]
}

/// What reads names and attributes or changes the latter.
fn attributes() -> impl Strategy<Value = Operation> {
    let value = vec(any::<u8>(), 0..40);
    prop_oneof![
        6 => (node(), name()).prop_map(|(parent, name)| Operation::Lookup { parent, name }),
        3 => node().prop_map(|node| Operation::Getattr { node }),
        1 => node().prop_map(|node| Operation::Readlink { node }),
        2 => (node(), any::<bool>()).prop_map(|(node, has_attributes)| Operation::List { node, has_attributes }),
        2 => (node(), mode()).prop_map(|(node, mode)| Operation::Chmod { node, mode }),
        2 => (node(), time(), time()).prop_map(|(node, accessed, modified)| Operation::Times { node, accessed, modified }),
        1 => node().prop_map(|node| Operation::Statfs { node }),
        // Neither, XATTR_CREATE, XATTR_REPLACE.
        2 => (node(), attribute(), value, 0..3u32).prop_map(|(node, name, value, flags)| Operation::SetAttribute { node, name, value, flags }),
        2 => (node(), attribute(), select(vec![0u32, 3, 256])).prop_map(|(node, name, room)| Operation::GetAttribute { node, name, room }),
        1 => (node(), select(vec![0u32, 3, 256])).prop_map(|(node, room)| Operation::ListAttributes { node, room }),
        1 => (node(), attribute()).prop_map(|(node, name)| Operation::RemoveAttribute { node, name }),
    ]
}

impl Operation {
    /// Whether it is about an open file rather than a node.
    pub fn is_on_open_file(&self) -> bool {
        matches!(
            self,
            Self::Read { .. }
                | Self::Write { .. }
                | Self::Fsync { .. }
                | Self::Fallocate { .. }
                | Self::Lseek { .. }
                | Self::Copy { .. }
                | Self::Release { .. }
                | Self::TruncateOpen { .. }
        )
    }
}

/// Any operation.
pub fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![4 => shape(), 4 => contents(), 3 => attributes()]
}

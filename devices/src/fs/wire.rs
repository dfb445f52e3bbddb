//! FUSE messages as they lie in guest memory (Linux `include/uapi/linux/fuse.h`, protocol 7.41).
//!
//! Plain structs with no padding; every bit pattern is a valid value, so reading one from the guest cannot fail except
//! by being too short. What the values mean, and whether to believe them, is up to the server.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Protocol spoken: the major version is fixed, the minor is that of Linux 6.12.
pub(super) const MAJOR: u32 = 7;
pub const MINOR: u32 = 41;
/// Oldest driver served: the one that came with virtio-fs (Linux 5.4).
pub(super) const OLDEST_MINOR: u32 = 31;

/// Node of the tree's root.
pub const ROOT: u64 = 1;

macro_rules! message {
    ($(#[$meta:meta])* $name:ident { $($field:ident: $kind:ty,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
        #[repr(C)]
        pub struct $name { $(pub $field: $kind,)* }
    };
}

/// What a request asks for.
pub(super) mod opcode {
    pub(in super::super) const LOOKUP: u32 = 1;
    pub(in super::super) const FORGET: u32 = 2;
    pub(in super::super) const GETATTR: u32 = 3;
    pub(in super::super) const SETATTR: u32 = 4;
    pub(in super::super) const READLINK: u32 = 5;
    pub(in super::super) const SYMLINK: u32 = 6;
    pub(in super::super) const MKNOD: u32 = 8;
    pub(in super::super) const MKDIR: u32 = 9;
    pub(in super::super) const UNLINK: u32 = 10;
    pub(in super::super) const RMDIR: u32 = 11;
    pub(in super::super) const RENAME: u32 = 12;
    pub(in super::super) const LINK: u32 = 13;
    pub(in super::super) const OPEN: u32 = 14;
    pub(in super::super) const READ: u32 = 15;
    pub(in super::super) const WRITE: u32 = 16;
    pub(in super::super) const STATFS: u32 = 17;
    pub(in super::super) const RELEASE: u32 = 18;
    pub(in super::super) const FSYNC: u32 = 20;
    pub(in super::super) const SETXATTR: u32 = 21;
    pub(in super::super) const GETXATTR: u32 = 22;
    pub(in super::super) const LISTXATTR: u32 = 23;
    pub(in super::super) const REMOVEXATTR: u32 = 24;
    pub(in super::super) const INIT: u32 = 26;
    pub(in super::super) const OPENDIR: u32 = 27;
    pub(in super::super) const READDIR: u32 = 28;
    pub(in super::super) const RELEASEDIR: u32 = 29;
    pub(in super::super) const FSYNCDIR: u32 = 30;
    pub(in super::super) const CREATE: u32 = 35;
    pub(in super::super) const INTERRUPT: u32 = 36;
    pub(in super::super) const DESTROY: u32 = 38;
    pub(in super::super) const IOCTL: u32 = 39;
    pub(in super::super) const BATCH_FORGET: u32 = 42;
    pub(in super::super) const FALLOCATE: u32 = 43;
    pub(in super::super) const READDIRPLUS: u32 = 44;
    pub(in super::super) const RENAME2: u32 = 45;
    pub(in super::super) const LSEEK: u32 = 46;
    pub(in super::super) const COPY_FILE_RANGE: u32 = 47;
    pub(in super::super) const SYNCFS: u32 = 50;
    pub(in super::super) const TMPFILE: u32 = 51;
    pub(in super::super) const STATX: u32 = 52;
}

/// Features negotiated by INIT, both words as one.
pub(super) mod feature {
    pub(in super::super) const ASYNC_READ: u64 = 1 << 0;
    pub(in super::super) const BIG_WRITES: u64 = 1 << 5;
    pub(in super::super) const AUTO_INVAL_DATA: u64 = 1 << 12;
    pub(in super::super) const DO_READDIRPLUS: u64 = 1 << 13;
    pub(in super::super) const READDIRPLUS_AUTO: u64 = 1 << 14;
    pub(in super::super) const ASYNC_DIO: u64 = 1 << 15;
    pub(in super::super) const PARALLEL_DIROPS: u64 = 1 << 18;
    pub(in super::super) const MAX_PAGES: u64 = 1 << 22;
    pub(in super::super) const CACHE_SYMLINKS: u64 = 1 << 23;
    pub(in super::super) const SUBMOUNTS: u64 = 1 << 27;
    pub(in super::super) const HANDLE_KILLPRIV_V2: u64 = 1 << 28;
    pub(in super::super) const INIT_EXT: u64 = 1 << 30;
    pub(in super::super) const NO_EXPORT_SUPPORT: u64 = 1 << 38;
    /// Of our kernel: looks for answers for a moment instead of sleeping until they come.
    pub(in super::super) const ANSWERS_SOON: u64 = 1 << 60;
    /// Of our kernel: understands [`super::ATTR_NO_OPEN`].
    pub(in super::super) const ATTR_NO_OPEN: u64 = 1 << 62;
    /// Not upstream's: the driver asks for attributes of programs only (`user.*`).
    pub(in super::super) const ONLY_USER_XATTR: u64 = 1 << 61;
}

/// What a message that nobody asked for is about (`enum fuse_notify_code`), and its flags.
pub(super) mod notice {
    pub(in super::super) const INVAL_INODE: i32 = 2;
    pub(in super::super) const INVAL_ENTRY: i32 = 3;
    /// Ours: something happened in a directory.
    pub(in super::super) const EVENT: i32 = 1001;
    /// Ours: nothing that was told is still believed.
    pub(in super::super) const EPOCH: i32 = 1002;
    /// `fuse_notify_inval_entry_out.flags`: the name is asked for again when it is next used.
    pub(in super::super) const EXPIRE_ONLY: u32 = 1;
}

/// `fuse_setattr_in.valid`: which fields count.
pub mod set {
    pub const MODE: u32 = 1 << 0;
    pub const UID: u32 = 1 << 1;
    pub const GID: u32 = 1 << 2;
    pub const SIZE: u32 = 1 << 3;
    pub const ATIME: u32 = 1 << 4;
    pub const MTIME: u32 = 1 << 5;
    pub const FH: u32 = 1 << 6;
    pub const ATIME_NOW: u32 = 1 << 7;
    pub const MTIME_NOW: u32 = 1 << 8;
    pub const KILL_SUIDGID: u32 = 1 << 11;
}

/// `fuse_getattr_in.getattr_flags`: the file handle counts.
pub(super) const GETATTR_FH: u32 = 1;
/// `fuse_open_in.open_flags`: the caller may not keep the set-id bits.
pub(super) const OPEN_KILL_SUIDGID: u32 = 1;
/// `fuse_open_out.open_flags`: cached pages of the file are still good.
pub(super) const OPENED_KEEP_CACHE: u32 = 1 << 1;
/// `fuse_open_out.open_flags`: the driver may cache the directory.
pub(super) const OPENED_CACHE_DIR: u32 = 1 << 3;
/// `fuse_write_in.write_flags`: pages the driver writes back on its own, by any handle.
pub(super) const WRITE_CACHE: u32 = 1;
/// `fuse_write_in.write_flags`: the caller may not keep the set-id bits.
pub(super) const WRITE_KILL_SUIDGID: u32 = 1 << 2;
/// `fuse_fsync_in.fsync_flags`: data only.
pub(super) const FSYNC_FDATASYNC: u32 = 1;
/// `fuse_attr.flags`: root of another file system.
pub(super) const ATTR_SUBMOUNT: u32 = 1;
/// `fuse_attr.flags`, of our kernel: read without being opened; the handle is then 0.
pub(super) const ATTR_NO_OPEN: u32 = 1 << 31;

message! { InHeader { len: u32, opcode: u32, unique: u64, nodeid: u64, uid: u32, gid: u32, pid: u32, extensions: u16, padding: u16, } }
message! { OutHeader { len: u32, error: i32, unique: u64, } }

message! {
    Attr {
        ino: u64, size: u64, blocks: u64, atime: u64, mtime: u64, ctime: u64, atimensec: u32, mtimensec: u32,
        ctimensec: u32, mode: u32, nlink: u32, uid: u32, gid: u32, rdev: u32, blksize: u32, flags: u32,
    }
}
message! {
    EntryOut {
        nodeid: u64, generation: u64, entry_valid: u64, attr_valid: u64, entry_valid_nsec: u32, attr_valid_nsec: u32,
        attr: Attr,
    }
}
message! { AttrOut { attr_valid: u64, attr_valid_nsec: u32, padding: u32, attr: Attr, } }

message! { StatxTime { sec: i64, nsec: u32, reserved: u32, } }
message! {
    Statx {
        mask: u32, blksize: u32, attributes: u64, nlink: u32, uid: u32, gid: u32, mode: u16, spare0: u16, ino: u64,
        size: u64, blocks: u64, attributes_mask: u64, atime: StatxTime, btime: StatxTime, ctime: StatxTime,
        mtime: StatxTime, rdev_major: u32, rdev_minor: u32, dev_major: u32, dev_minor: u32, spare2: [u64; 14],
    }
}
message! { StatxIn { getattr_flags: u32, reserved: u32, fh: u64, flags: u32, mask: u32, } }
message! { StatxOut { attr_valid: u64, attr_valid_nsec: u32, flags: u32, spare: [u64; 2], stat: Statx, } }

message! {
    InitIn { major: u32, minor: u32, max_readahead: u32, flags: u32, }
}
message! {
    InitOut {
        major: u32, minor: u32, max_readahead: u32, flags: u32, max_background: u16, congestion_threshold: u16,
        max_write: u32, time_gran: u32, max_pages: u16, map_alignment: u16, flags2: u32, max_stack_depth: u32,
        unused: [u32; 6],
    }
}

message! { ForgetIn { lookups: u64, } }
message! { ForgetOne { nodeid: u64, lookups: u64, } }
message! { BatchForgetIn { count: u32, padding: u32, } }
message! { GetattrIn { flags: u32, padding: u32, fh: u64, } }
message! {
    SetattrIn {
        valid: u32, padding: u32, fh: u64, size: u64, lock_owner: u64, atime: u64, mtime: u64, ctime: u64,
        atimensec: u32, mtimensec: u32, ctimensec: u32, mode: u32, unused4: u32, uid: u32, gid: u32, unused5: u32,
    }
}
message! { MknodIn { mode: u32, rdev: u32, umask: u32, padding: u32, } }
message! { MkdirIn { mode: u32, umask: u32, } }
message! { RenameIn { newdir: u64, } }
message! { Rename2In { newdir: u64, flags: u32, padding: u32, } }
message! { LinkIn { oldnodeid: u64, } }
message! { OpenIn { flags: u32, open_flags: u32, } }
message! { OpenOut { fh: u64, open_flags: u32, backing_id: i32, } }
message! { CreateIn { flags: u32, mode: u32, umask: u32, open_flags: u32, } }
message! { ReleaseIn { fh: u64, flags: u32, release_flags: u32, lock_owner: u64, } }
message! { ReadIn { fh: u64, offset: u64, size: u32, read_flags: u32, lock_owner: u64, flags: u32, padding: u32, } }
message! { WriteIn { fh: u64, offset: u64, size: u32, write_flags: u32, lock_owner: u64, flags: u32, padding: u32, } }
message! { WriteOut { size: u32, padding: u32, } }
message! {
    /// Followed by the name and the value.
    SetxattrIn { size: u32, flags: u32, }
}
message! {
    /// Followed by the name, for one attribute. With size 0 only the size is wanted.
    GetxattrIn { size: u32, padding: u32, }
}
message! { GetxattrOut { size: u32, padding: u32, } }
message! { InterruptIn { unique: u64, } }
message! { FsyncIn { fh: u64, flags: u32, padding: u32, } }
message! { LseekIn { fh: u64, offset: u64, whence: u32, padding: u32, } }
message! { LseekOut { offset: u64, } }
message! { FallocateIn { fh: u64, offset: u64, length: u64, mode: u32, padding: u32, } }
message! { CopyFileRangeIn { fh_in: u64, off_in: u64, nodeid_out: u64, fh_out: u64, off_out: u64, len: u64, flags: u64, } }
message! {
    StatfsOut {
        blocks: u64, bfree: u64, bavail: u64, files: u64, ffree: u64, bsize: u32, namelen: u32, frsize: u32,
        padding: u32, spare: [u32; 6],
    }
}
message! {
    /// Followed by the name and zeroes up to a multiple of 8 bytes.
    Dirent { ino: u64, off: u64, namelen: u32, kind: u32, }
}
message! { InvalInode { node: u64, offset: i64, length: i64, } }
message! { InvalEntry { parent: u64, namelen: u32, flags: u32, } }
message! {
    /// Of [`notice::EVENT`]; followed by the name and a zero.
    Told { parent: u64, mask: u32, cookie: u32, namelen: u32, padding: u32, }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sizes from the kernel's header.
    #[test]
    fn messages_have_the_sizes_of_the_kernel() {
        assert_eq!([size_of::<InHeader>(), size_of::<OutHeader>(), size_of::<Attr>()], [40, 16, 88]);
        assert_eq!([size_of::<EntryOut>(), size_of::<AttrOut>(), size_of::<StatxOut>()], [128, 104, 288]);
        assert_eq!([size_of::<InitIn>(), size_of::<InitOut>(), size_of::<SetattrIn>()], [16, 64, 88]);
        assert_eq!([size_of::<ReadIn>(), size_of::<WriteIn>(), size_of::<StatfsOut>()], [40, 40, 80]);
        assert_eq!([size_of::<CopyFileRangeIn>(), size_of::<Dirent>(), size_of::<FallocateIn>()], [56, 24, 32]);
    }
}

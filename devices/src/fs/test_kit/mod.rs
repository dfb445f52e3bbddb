//! A guest in a box: raw FUSE messages over an in-memory virtqueue, honest or not, with no kernel to keep to the rules.
//!
//! For this package's tests and, with the feature `test-kit`, for those that set other servers beside ours: whatever
//! serves a virtqueue ([`Backend`]) can be driven by a [`Guest`]. Nothing here is part of a running VM, and everything
//! panics when a test's expectation does not hold.

mod backend;
mod guest;

pub use backend::{Backend, REQUESTS, queues};
pub use guest::{ANSWER, Guest, SHARE, folders, libc_flags, names};

pub use super::wire::{
    Attr, AttrOut, CopyFileRangeIn, CreateIn, EntryOut, FallocateIn, FsyncIn, InitOut, LseekIn, MINOR, OpenOut, ROOT,
    ReadIn, SetattrIn, StatfsOut, WriteIn, set,
};

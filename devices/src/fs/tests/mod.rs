//! Raw FUSE messages at the device over in-memory rings: no guest, no manners.

mod arbitrary;
mod directory;
mod file;
mod guarded;
mod guest;
mod hostile;
mod metadata;
mod owner;
mod read_only;
mod tree;

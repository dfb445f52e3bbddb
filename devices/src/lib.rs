//! Virtio devices, one folder or file each, on the contract of the `virtio` package.
#![forbid(unsafe_code)]

pub mod balloon;
pub mod blk;
pub mod console;
pub mod fs;
pub mod net;
pub mod rng;
pub mod vsock;

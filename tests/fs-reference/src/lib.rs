//! Our file server beside others: the same raw FUSE requests over the same in-memory virtqueue to each of them.
//!
//! The others are virtiofsd's and fuse-backend-rs's passthrough file systems. The tests compare what comes of any
//! sequence of requests, the program `fs-server` what they cost; no guest is needed for either. Nothing here is part of
//! a running VM.

pub mod difference;
pub mod operation;
pub mod player;
pub mod servers;
pub mod tree;

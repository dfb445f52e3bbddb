//! The guest agent: PID 1 of the guest and the server of its commands.
//!
//! The kernel starts it from an initramfs as `/init`. It asks the host what the guest is to become ([`boot`]), then
//! serves commands ([`exec`]) until it is told to shut down ([`control`]), and meanwhile tells the kernel what changed
//! on the host (`notice`). It trusts the host; its clients' safety from it is the host's business. Written without
//! unsafe code, asynchronous runtime or global state; what other programs do between fork and exec is done by running
//! this program again as a helper ([`exec::helper`]).
//!
//! A library so that the exec server can be tested on any stream; the binary is `main.rs`.
#![forbid(unsafe_code)]

mod accept;
pub mod boot;
pub mod control;
pub mod exec;
pub mod failure;
pub mod log;
pub mod net;
mod notice;
pub mod ports;
pub mod shutdown;
pub mod vsock;

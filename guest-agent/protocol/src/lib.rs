//! What the host and the guest agent say to each other: types, framing, credit.
//!
//! Three kinds of connection, all vsock streams:
//!
//! * **control** ([`control`]): the agent connects to [`HOST_CID`]:[`CONTROL_PORT`] once, says `Hello`, is told its
//!   `Setup`, answers `Ready` or `Failed`; later the host sends `SetClock` and `Shutdown` over it.
//! * **exec** ([`exec`]): the host connects to the guest's [`EXEC_PORT`] once per command and sends `Exec`; data flows
//!   under credit ([`credit`]) so that a slow reader of one stream delays neither the others nor signals.
//! * **notice** ([`notice`]): the host connects to the guest's [`notice::NOTICE_PORT`] once and says what changed in
//!   the shares, in the kernel's own words.
//!
//! Everything on the first two is a frame ([`frame`]): length, kind, body. A body is decoded once into types that
//! cannot be wrong ([`bytes`]); each kind has its own length limit, checked before anything is buffered. Neither side
//! trusts the other: the host because the guest is hostile, the agent because it is cheap. [`client`] is the host's
//! half of a command.
#![forbid(unsafe_code)]

pub mod bytes;
pub mod client;
pub mod control;
pub mod credit;
pub mod exec;
pub mod frame;
pub mod notice;
pub mod setup;
mod wire;

pub use frame::{FrameReader, Message, ProtocolError, encode};
pub use wire::{Decoder, Encoder};

/// Version of everything in this package; both sides refuse any other.
pub const VERSION: u32 = 3;
/// The host's well-known vsock address.
pub const HOST_CID: u32 = 2;
/// Host port the agent connects to.
pub const CONTROL_PORT: u32 = 1024;
/// Guest port on which the agent takes commands.
pub const EXEC_PORT: u32 = 1025;
/// Tag of the one virtio-fs device that carries every share.
pub const SHARES_TAG: &str = "vmm-shares";

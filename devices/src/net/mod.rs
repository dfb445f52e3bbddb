//! virtio-net: moves Ethernet frames between the guest's rings and the network stack.
//!
//! The device judges nothing about a frame's contents; it copies each frame out of guest memory once, so that what the
//! stack judges cannot change, and refuses header fields that do not fit the frame or the negotiated features. When the
//! stack is slow, frames stay in the guest's transmit queue; when the guest is slow, they stay in the stack.
//! Used by both engines: in process, or taken apart for QEMU's own device ([`Net::into_link`]).

mod config;
mod device;
mod receive;
#[cfg(test)]
mod tests;
mod transmit;

pub use config::NetConfig;
pub use device::Net;

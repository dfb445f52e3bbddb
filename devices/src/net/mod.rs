//! virtio-net: moves Ethernet frames between the guest's rings and the network stack.
//!
//! The device judges nothing about a frame's contents. It borrows the stack and runs it on its own thread, with the
//! guest's frames and receive buffers at hand ([`virtio::frame::Port`]). When the stack is slow, frames stay in the
//! guest's transmit queue; when the guest is slow, they stay in the stack. Used by both engines: in process, or served
//! over vhost-user.

mod config;
mod device;
#[cfg(test)]
mod tests;

pub use config::NetConfig;
pub use device::Net;

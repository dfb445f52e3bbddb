//! Serves any [`virtio::VirtioDevice`] on a vhost-user connection.
//!
//! Called by the qemu engine: [`Server::start`] gives the connected end that a QEMU chardev takes as `fd=`. There is no
//! path and no listener, so nothing can collide, leak or be connected to by somebody else. Two threads per device: the
//! session, which answers the monitor's messages, and the device's [`virtio::Worker`]. The monitor at the other end is
//! our own child, but it runs the guest's emulated devices: what it sends is checked, and never trusted with more than
//! the memory it passes. Ring contents are the guest's and are checked by `virtio`.
#![forbid(unsafe_code)]

mod memory;
mod notifier;
mod ring;
mod served;
mod server;
mod session;
#[cfg(any(test, feature = "test-kit"))]
pub mod test_kit;
#[cfg(test)]
mod tests;

pub use server::Server;

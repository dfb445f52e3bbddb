//! virtio-vsock (virtio 1.2, section 5.10): stream sockets between the host process and the guest, without a network.
//!
//! [`Vsock`] is the device, [`VsockHost`] the host's way in: each connection is one end of a socket pair whose other
//! end the device moves bytes from and to. The guest is bounded by credit in both directions: what it sends and nobody
//! reads is at most [`BUFFER`] bytes per connection, what the host sends waits in the socket pair until the guest has
//! room and buffers, and answers that find no receive buffer stop the transmit queue. The launcher talks to the guest
//! agent through this; both engines serve it unchanged.

mod account;
mod connection;
mod device;
mod header;
mod host;
mod table;

#[cfg(test)]
mod tests;

pub use account::BUFFER;
pub use device::{MAX_CONNECTIONS, Vsock};
pub use host::{VsockHost, VsockListener};

//! Ethernet frames between a network device and the network stack.
//!
//! [`FrameLink::new`] makes a connected pair: the launcher gives [`StackEnd`] to the stack and [`DeviceEnd`] to whoever
//! owns the guest's network card: our virtio-net device, or QEMU, which gets the bare descriptor
//! ([`DeviceEnd::into_datagram_fd`]). How frames travel is private to this module. The stack trusts the device end for
//! the shape of [`FrameHeader`]s (our device refused the guest's lies before sending), never for what is in a frame.

mod header;
mod link;
mod seat;
#[cfg(test)]
mod tests;

pub use header::{BadHeader, FrameHeader, HEADER_LEN, PartialChecksum, SegmentKind, Segmentation};
pub use link::{DeviceEnd, FrameLink, Offloads, StackEnd};
pub use seat::{LentStack, Stack, StackSeat, Turn};

/// Longest frame either side accepts: an Ethernet header and the longest IP packet.
pub const MAX_FRAME: usize = 14 + 65_535;

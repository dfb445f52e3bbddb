//! Ethernet frames between a network device and the network stack.
//!
//! [`FrameLink::new`] makes a connected pair: the launcher gives [`StackEnd`] to the stack and [`DeviceEnd`] to the
//! guest's network card. No frame waits in between: the card borrows the stack and runs it on its own thread, and what
//! the stack then sees of the card is a [`Port`], whose buffers are the guest's own. Everything in a frame and in front
//! of it is the guest's and is not trusted; a [`FrameHeader`] that a stack gets to see fits its frame.

mod header;
mod link;
mod port;
mod receive;
mod seat;
#[cfg(test)]
mod tests;
mod transmit;

pub use header::{BadHeader, FrameHeader, HEADER_LEN, PartialChecksum, SegmentKind, Segmentation};
pub use link::{DeviceEnd, FrameLink, Lending, StackEnd};
pub use port::{Offloads, Port, Unsent};
pub use seat::{LentStack, Stack, Turn};

/// Longest frame either side accepts: an Ethernet header and the longest IP packet.
pub const MAX_FRAME: usize = 14 + 65_535;

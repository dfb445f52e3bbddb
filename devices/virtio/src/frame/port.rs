//! What a stack sees of the guest's card during a turn.
//!
//! The card fills a port with requests of its two queues, lends it to the stack for a turn, and returns to the guest
//! what the stack used up. So a frame of the guest is copied once, out of its memory into the stack's buffer, and a
//! frame for the guest once, from the stack's buffer into the guest's; and the guest hears of a whole turn's frames at
//! once.

use std::io;

use super::receive::Receive;
use super::transmit::Transmit;
use super::{FrameHeader, SegmentKind};
use crate::{Fault, Rings, Writer};

/// What one side takes unfinished from the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Offloads {
    /// Frames with a partial checksum.
    pub checksum: bool,
    /// TCP over IPv4 segments of up to 64 KiB.
    pub tcp4_segments: bool,
    /// TCP over IPv6 segments of up to 64 KiB.
    pub tcp6_segments: bool,
}

/// Why a frame was not sent.
#[derive(Debug)]
pub enum Unsent {
    /// The guest offers no buffers now: the port is blocked until it does.
    Blocked,
    /// The guest's buffers are too small for any frame of some use.
    Never,
    /// What was to fill it failed.
    Failed(io::Error),
}

/// Buffers of the guest's two queues; without any, a card whose driver is not loaded: frames for it are lost.
#[derive(Debug, Default)]
pub struct Port {
    is_plugged: bool,
    receive: Receive,
    transmit: Transmit,
}

impl Offloads {
    /// Whether a frame asks for nothing that was not agreed on.
    pub(super) fn allow(self, header: &FrameHeader) -> bool {
        let checksum = header.checksum.is_none() || self.checksum;
        let segments = header.segmentation.is_none_or(|segmentation| match segmentation.kind {
            SegmentKind::Tcp4 => self.tcp4_segments,
            SegmentKind::Tcp6 => self.tcp6_segments,
        });
        checksum && segments
    }
}

/// For the card.
impl Port {
    /// The driver is loaded: what it takes and what it may send. `mergeable`: a frame may fill several receive buffers.
    pub fn plug(&mut self, to_guest: Offloads, from_guest: Offloads, mergeable: bool) {
        self.is_plugged = true;
        self.receive.start(to_guest, mergeable);
        self.transmit.start(from_guest);
    }

    /// The driver is gone: forgets every buffer of the guest's.
    pub fn unplug(&mut self) {
        *self = Self::default();
    }

    /// Takes what the guest made available in its receive and transmit queues. The guest is asked to tell of more
    /// receive buffers only while frames wait for them.
    pub fn supply(&mut self, receive: u16, transmit: u16, rings: &mut dyn Rings) -> Result<(), Fault> {
        self.transmit.supply(transmit, rings)?;
        self.receive.supply(receive, rings)
    }

    /// Returns to the guest what was used up.
    pub fn settle(&mut self, receive: u16, transmit: u16, rings: &mut dyn Rings) -> Result<(), Fault> {
        self.receive.settle(receive, rings)?;
        self.transmit.settle(transmit, rings)
    }

    /// Gives every frame of the guest back to it, sent to nobody.
    pub fn discard(&mut self, transmit: u16, rings: &mut dyn Rings) -> Result<(), Fault> {
        self.transmit.supply(transmit, rings)?;
        self.transmit.discard();
        self.transmit.settle(transmit, rings)
    }
}

/// For the stack.
impl Port {
    /// What frames to the guest may leave unfinished.
    pub fn offloads(&self) -> Offloads {
        self.receive.offloads()
    }

    /// Whether the guest's driver is loaded. If not, what is sent is lost and nothing comes.
    pub fn is_plugged(&self) -> bool {
        self.is_plugged
    }

    /// Whether frames wait for the guest to offer buffers. A stack that sends more all the same fills the host's
    /// memory.
    pub fn is_blocked(&self) -> bool {
        self.receive.is_blocked()
    }

    /// Copies the next frame of the guest into `buffer`, which holds [`super::MAX_FRAME`]; gives its header and length.
    pub fn recv(&mut self, buffer: &mut [u8]) -> Option<(FrameHeader, usize)> {
        self.transmit.recv(buffer)
    }

    /// Whether [`Port::recv`] may have a frame.
    pub fn has_frames(&self) -> bool {
        !self.transmit.is_empty()
    }

    /// Copies a frame into the guest's buffers, or keeps it until there are some. One that the guest can never take is
    /// lost, as on a real card.
    pub fn send(&mut self, header: &FrameHeader, frame: &[u8]) {
        if self.is_plugged {
            self.receive.send(header, frame);
        }
    }

    /// Sends a frame that begins with `head` and goes on with what `fill` writes straight into the guest's buffers, at
    /// most `most` bytes; then `finish` makes `head` right for as many as it were. Less may be asked of `fill` than
    /// there is to send, and nothing is sent when it writes nothing.
    pub fn send_filled(
        &mut self,
        head: &mut [u8],
        most: usize,
        fill: impl FnOnce(&mut Writer<'_>) -> io::Result<()>,
        finish: impl FnOnce(&mut [u8], usize) -> FrameHeader,
    ) -> Result<usize, Unsent> {
        self.receive.send_filled(head, most, fill, finish)
    }
}

//! Frames from the guest, out of the transmit queue.

use std::io::{self, Read};

use virtio::frame::{DeviceEnd, FrameHeader, HEADER_LEN, MAX_FRAME, Offloads, SegmentKind};
use virtio::{Fault, RateLimit, Request, Rings};

use super::device::{Progress, TX};

/// An Ethernet header; anything shorter is no frame.
const MIN_FRAME: usize = 14;

/// The sending half.
#[derive(Debug)]
pub(super) struct Transmit {
    frame: Box<[u8]>,
    /// A frame in `frame` that waits for the link: what to finish, header, length.
    unsent: Option<(u16, FrameHeader, usize)>,
    offloads: Offloads,
    complaint: RateLimit,
}

impl Transmit {
    pub(super) fn new() -> Self {
        Self {
            frame: vec![0; MAX_FRAME].into_boxed_slice(),
            unsent: None,
            offloads: Offloads::default(),
            complaint: RateLimit::default(),
        }
    }

    pub(super) fn start(&mut self, offloads: Offloads) {
        self.offloads = offloads;
    }

    pub(super) fn reset(&mut self) {
        self.unsent = None;
    }

    /// Whether a frame waits for the link.
    pub(super) fn is_waiting(&self) -> bool {
        self.unsent.is_some()
    }

    /// Sends frames until the queue is empty or the link is full.
    pub(super) fn run(&mut self, link: &DeviceEnd, rings: &mut dyn Rings) -> Result<Progress, Fault> {
        loop {
            let (head, header, len) = match self.unsent {
                Some(unsent) => unsent,
                None => {
                    let Some(request) = rings.pop(TX)? else { return Ok(Progress::NeedsGuest) };
                    match self.take(&request) {
                        Ok((header, len)) => (request.head(), header, len),
                        Err(what) => {
                            if self.complaint.allow() {
                                tracing::debug!(what, "Guest sent an unusable frame");
                            }
                            rings.finish(TX, request.head(), 0)?;
                            continue;
                        }
                    }
                }
            };
            match link.send(&header, self.frame.get(..len).unwrap_or_default()) {
                Ok(()) => {}
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => {
                        self.unsent = Some((head, header, len));
                        return Ok(Progress::NeedsLink);
                    }
                    io::ErrorKind::Interrupted => {
                        self.unsent = Some((head, header, len));
                        continue;
                    }
                    io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => {
                        self.unsent = None;
                        rings.finish(TX, head, 0)?;
                        return Ok(Progress::LinkGone);
                    }
                    _ => return Err(error.into()),
                },
            }
            self.unsent = None;
            rings.finish(TX, head, 0)?;
        }
    }

    /// Copies a frame out of guest memory, once, and checks its header.
    fn take(&mut self, request: &Request) -> Result<(FrameHeader, usize), &'static str> {
        let mut reader = request.reader();
        let mut header = [0; HEADER_LEN];
        reader.read_exact(&mut header).map_err(|_| "shorter than its header")?;
        let len = reader.available_bytes();
        if len < MIN_FRAME {
            return Err("shorter than an Ethernet header");
        }
        let frame = self.frame.get_mut(..len).ok_or("longer than any IP packet")?;
        reader.read_exact(frame).map_err(|_| "shorter than announced")?;
        let header = FrameHeader::parse(&header, len).map_err(|_| "header does not fit the frame")?;
        if header.checksum.is_some() && !self.offloads.checksum {
            return Err("checksum offload was not negotiated");
        }
        let allowed = header.segmentation.is_none_or(|segmentation| match segmentation.kind {
            SegmentKind::Tcp4 => self.offloads.tcp4_segments,
            SegmentKind::Tcp6 => self.offloads.tcp6_segments,
        });
        if allowed { Ok((header, len)) } else { Err("segmentation offload was not negotiated") }
    }
}

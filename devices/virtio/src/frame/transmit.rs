//! Frames from the guest, out of its transmit queue.

use std::collections::VecDeque;
use std::io::Read;

use super::{FrameHeader, HEADER_LEN, Offloads};
use crate::{Fault, RateLimit, Request, Rings};

/// An Ethernet header; anything shorter is no frame.
const MIN_FRAME: usize = 14;
/// Frames taken from the queue that the stack has not looked at yet: as many as the longest queue holds.
const MAX_WAITING: usize = 1024;

/// The guest's frames, still in its memory.
#[derive(Debug, Default)]
pub(super) struct Transmit {
    waiting: VecDeque<Request>,
    /// Requests to return, by head.
    taken: Vec<(u16, u32)>,
    offloads: Offloads,
    complaint: RateLimit,
}

impl Transmit {
    pub(super) fn start(&mut self, offloads: Offloads) {
        self.offloads = offloads;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(super) fn supply(&mut self, queue: u16, rings: &mut dyn Rings) -> Result<(), Fault> {
        while self.waiting.len() < MAX_WAITING
            && let Some(request) = rings.pop(queue)?
        {
            self.waiting.push_back(request);
        }
        Ok(())
    }

    pub(super) fn settle(&mut self, queue: u16, rings: &mut dyn Rings) -> Result<(), Fault> {
        if !self.taken.is_empty() {
            rings.finish_all(queue, &self.taken)?;
            self.taken.clear();
        }
        Ok(())
    }

    pub(super) fn discard(&mut self) {
        self.taken.extend(self.waiting.drain(..).map(|request| (request.head(), 0)));
    }

    /// The next frame that is one; others go back unsent.
    pub(super) fn recv(&mut self, buffer: &mut [u8]) -> Option<(FrameHeader, usize)> {
        while let Some(request) = self.waiting.pop_front() {
            self.taken.push((request.head(), 0));
            match self.copy(&request, buffer) {
                Ok(frame) => return Some(frame),
                Err(what) if self.complaint.allow() => tracing::debug!(what, "Guest sent an unusable frame"),
                Err(_) => {}
            }
        }
        None
    }

    /// Copies a frame out of guest memory, once, and checks its header.
    fn copy(&self, request: &Request, buffer: &mut [u8]) -> Result<(FrameHeader, usize), &'static str> {
        let mut reader = request.reader();
        let mut header = [0; HEADER_LEN];
        reader.read_exact(&mut header).map_err(|_| "shorter than its header")?;
        let len = reader.available_bytes();
        if len < MIN_FRAME {
            return Err("shorter than an Ethernet header");
        }
        let frame = buffer.get_mut(..len).ok_or("longer than any IP packet")?;
        reader.read_exact(frame).map_err(|_| "shorter than announced")?;
        let header = FrameHeader::parse(&header, len).map_err(|_| "header does not fit the frame")?;
        if self.offloads.allow(&header) { Ok((header, len)) } else { Err("an offload that was not negotiated") }
    }
}

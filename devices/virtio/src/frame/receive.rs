//! Frames for the guest, into its receive buffers.

use std::collections::VecDeque;
use std::io::{self, Write};

use super::{FrameHeader, HEADER_LEN, MAX_FRAME, Offloads, Unsent};
use crate::segment::Segment;
use crate::{Fault, Request, Rings, Writer};

/// Buffers taken from the queue and not used yet: as many as the longest queue holds.
const MAX_POSTED: usize = 1024;
/// A frame that can be cut anywhere is not cut shorter than this for want of buffers.
const MIN_FILL: usize = 4096;
/// Buffers that one frame may fill. A frame that does not fit into as many is lost.
const MAX_MERGED: usize = 256;

/// The guest's receive buffers.
#[derive(Debug, Default)]
pub(super) struct Receive {
    /// Oldest first.
    posted: VecDeque<Request>,
    /// Buffers to return, by head, with the bytes in them.
    filled: Vec<(u16, u32)>,
    /// Frames that found no buffers.
    backlog: VecDeque<(FrameHeader, Box<[u8]>)>,
    /// Bytes that a sender waits for room for.
    wanted: usize,
    /// The buffers of the frame being written.
    segments: Vec<Segment>,
    offloads: Offloads,
    mergeable: bool,
}

enum Room {
    /// The oldest so many buffers are enough.
    Buffers(u16),
    /// More buffers may come.
    NotYet,
    /// The frame does not fit whatever comes.
    Never,
}

impl Receive {
    pub(super) fn start(&mut self, offloads: Offloads, mergeable: bool) {
        self.offloads = offloads;
        self.mergeable = mergeable;
    }

    pub(super) fn offloads(&self) -> Offloads {
        self.offloads
    }

    pub(super) fn is_blocked(&self) -> bool {
        self.wanted > 0 || !self.backlog.is_empty()
    }

    /// Takes new buffers and delivers what waited for them.
    pub(super) fn supply(&mut self, queue: u16, rings: &mut dyn Rings) -> Result<(), Fault> {
        while self.posted.len() < MAX_POSTED {
            let next = if self.is_blocked() { rings.pop(queue)? } else { rings.pop_quietly(queue)? };
            let Some(request) = next else { break };
            // The driver owes room for the header in every buffer (virtio 1.2, 5.1.6.3.1).
            if request.writer().available_bytes() < HEADER_LEN {
                rings.finish(queue, request.head(), 0)?;
                continue;
            }
            self.posted.push_back(request);
            self.flush();
        }
        Ok(())
    }

    /// The buffers of one frame become visible together: the driver counts on finding all of them.
    pub(super) fn settle(&mut self, queue: u16, rings: &mut dyn Rings) -> Result<(), Fault> {
        if !self.filled.is_empty() {
            rings.finish_all(queue, &self.filled)?;
            self.filled.clear();
        }
        Ok(())
    }

    pub(super) fn send(&mut self, header: &FrameHeader, frame: &[u8]) {
        if frame.is_empty() || frame.len() > MAX_FRAME || !self.offloads.allow(header) {
            return;
        }
        if self.is_blocked() || !self.deliver(header, frame) {
            self.backlog.push_back((*header, frame.into()));
        }
    }

    /// Lets `fill` write up to `most` bytes behind `head` straight into the buffers; `finish` then makes `head` right
    /// for as many bytes as were written.
    pub(super) fn send_filled(
        &mut self,
        head: &mut [u8],
        most: usize,
        fill: impl FnOnce(&mut Writer<'_>) -> io::Result<()>,
        finish: impl FnOnce(&mut [u8], usize) -> FrameHeader,
    ) -> Result<usize, Unsent> {
        let before = HEADER_LEN + head.len();
        if self.is_blocked() {
            return Err(Unsent::Blocked);
        }
        let room = self.collect(before.saturating_add(most)).saturating_sub(before);
        if room < most.min(MIN_FILL) {
            let wanted = before + most.min(MIN_FILL);
            if matches!(self.gather(wanted), Room::Never) {
                return Err(Unsent::Never);
            }
            self.wanted = wanted;
            return Err(Unsent::Blocked);
        }
        let mut front = Writer::new(&self.segments);
        let Some(mut payload) = front.split_at(before) else { return Err(Unsent::Blocked) };
        // What lies behind is of no use to this frame.
        payload.split_at(room.min(most));
        fill(&mut payload).map_err(Unsent::Failed)?;
        let count = payload.bytes_written();
        if count == 0 {
            return Ok(0);
        }
        let header = finish(head, count);
        let total = before + count;
        let Room::Buffers(buffers) = self.gather(total) else { return Err(Unsent::Never) };
        front.write_all(&header.to_bytes(buffers)).and_then(|()| front.write_all(head)).map_err(Unsent::Failed)?;
        self.take(total);
        Ok(count)
    }

    /// The oldest buffers hold `total` bytes now.
    fn take(&mut self, total: usize) {
        let mut left = total;
        while left > 0
            && let Some(buffer) = self.posted.pop_front()
        {
            let written = buffer.writer().available_bytes().min(left);
            left -= written;
            self.filled.push((buffer.head(), u32::try_from(written).unwrap_or(u32::MAX)));
        }
        // They point into memory that nothing here keeps mapped any more.
        self.segments.clear();
    }

    /// Lines up the oldest buffers until they hold `needed` bytes or there are no more; gives the room there is.
    fn collect(&mut self, needed: usize) -> usize {
        let most = if self.mergeable { MAX_MERGED } else { 1 };
        let mut room = 0usize;
        self.segments.clear();
        for buffer in self.posted.iter().take(most) {
            if room >= needed {
                break;
            }
            self.segments.extend_from_slice(buffer.writable());
            room = room.saturating_add(buffer.writer().available_bytes());
        }
        room
    }

    /// Delivers what there are buffers for now.
    fn flush(&mut self) {
        while let Some((header, frame)) = self.backlog.pop_front() {
            if !self.deliver(&header, &frame) {
                self.backlog.push_front((header, frame));
                return;
            }
        }
        // Where there will never be enough, the sender has to make do with less, or give up.
        if self.wanted > 0 && !matches!(self.gather(self.wanted), Room::NotYet) {
            self.wanted = 0;
        }
    }

    /// Writes a frame into the oldest buffers; false when it waits for more of them.
    fn deliver(&mut self, header: &FrameHeader, frame: &[u8]) -> bool {
        let total = HEADER_LEN + frame.len();
        let count = match self.gather(total) {
            Room::Buffers(count) => count,
            Room::NotYet => return false,
            Room::Never => return true,
        };
        self.collect(total);
        let mut writer = Writer::new(&self.segments);
        // Cannot fail: room for all of it was found.
        if writer.write_all(&header.to_bytes(count)).and_then(|()| writer.write_all(frame)).is_ok() {
            self.take(total);
        }
        true
    }

    /// How many of the oldest buffers hold `needed` bytes.
    fn gather(&self, needed: usize) -> Room {
        let mut room = 0usize;
        for (count, buffer) in (1..).zip(self.posted.iter().take(MAX_MERGED)) {
            room = room.saturating_add(buffer.writer().available_bytes());
            if room >= needed {
                return Room::Buffers(count);
            }
            if !self.mergeable {
                return Room::Never;
            }
        }
        if self.posted.len() < MAX_MERGED { Room::NotYet } else { Room::Never }
    }
}

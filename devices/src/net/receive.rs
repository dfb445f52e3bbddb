//! Frames for the guest, into receive buffers.

use std::collections::VecDeque;
use std::io::{self, Write};

use virtio::frame::{DeviceEnd, FrameHeader, HEADER_LEN, MAX_FRAME, Offloads, SegmentKind};
use virtio::{Fault, Request, Rings};

use super::device::{Progress, QUEUE_SIZE, RX};

/// The receiving half.
#[derive(Debug)]
pub(super) struct Receive {
    frame: Box<[u8]>,
    /// Header and length of a frame in `frame` that waits for buffers.
    pending: Option<(FrameHeader, usize)>,
    /// Buffers taken from the ring and not used yet, oldest first; never more than the ring holds.
    buffers: VecDeque<Request>,
    offloads: Offloads,
    mergeable: bool,
}

impl Receive {
    pub(super) fn new() -> Self {
        Self {
            frame: vec![0; MAX_FRAME].into_boxed_slice(),
            pending: None,
            buffers: VecDeque::new(),
            offloads: Offloads::default(),
            mergeable: false,
        }
    }

    pub(super) fn start(&mut self, offloads: Offloads, mergeable: bool) {
        self.offloads = offloads;
        self.mergeable = mergeable;
    }

    pub(super) fn reset(&mut self) {
        self.pending = None;
        self.buffers.clear();
    }

    /// Delivers frames until the link is empty or the buffers run out.
    pub(super) fn run(&mut self, link: &DeviceEnd, rings: &mut dyn Rings) -> Result<Progress, Fault> {
        loop {
            let (header, len) = match self.pending {
                Some(pending) => pending,
                None => match link.recv(&mut self.frame) {
                    Ok((header, _)) if !self.takes(&header) => continue,
                    Ok(frame) => frame,
                    Err(error) => match error.kind() {
                        io::ErrorKind::WouldBlock => return Ok(Progress::NeedsLink),
                        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => {
                            return Ok(Progress::LinkGone);
                        }
                        io::ErrorKind::InvalidData | io::ErrorKind::Interrupted => continue,
                        _ => return Err(error.into()),
                    },
                },
            };
            match self.gather(HEADER_LEN + len, rings)? {
                Room::Buffers(count) => self.deliver(&header, len, count, rings)?,
                Room::Never => {}
                Room::NotYet => {
                    self.pending = Some((header, len));
                    return Ok(Progress::NeedsGuest);
                }
            }
            self.pending = None;
        }
    }

    /// A frame that was made before the driver changed its mind about offloads is lost, as on a real card.
    fn takes(&self, header: &FrameHeader) -> bool {
        let checksum = header.checksum.is_none() || self.offloads.checksum;
        let segments = header.segmentation.is_none_or(|segmentation| match segmentation.kind {
            SegmentKind::Tcp4 => self.offloads.tcp4_segments,
            SegmentKind::Tcp6 => self.offloads.tcp6_segments,
        });
        checksum && segments
    }

    /// Takes buffers until `needed` bytes fit into the oldest of them.
    fn gather(&mut self, needed: usize, rings: &mut dyn Rings) -> Result<Room, Fault> {
        let mut room = 0usize;
        let mut count = 0u16;
        loop {
            let next = usize::from(count);
            if next == self.buffers.len() {
                if self.buffers.len() >= usize::from(QUEUE_SIZE) {
                    return Ok(Room::Never);
                }
                let Some(request) = rings.pop(RX)? else { return Ok(Room::NotYet) };
                // The driver owes room for the header in every buffer (virtio 1.2, 5.1.6.3.1).
                if request.writer().available_bytes() < HEADER_LEN {
                    rings.finish(RX, request.head(), 0)?;
                    continue;
                }
                self.buffers.push_back(request);
            }
            let Some(buffer) = self.buffers.get(next) else { return Ok(Room::NotYet) };
            room = room.saturating_add(buffer.writer().available_bytes());
            count += 1;
            if room >= needed {
                return Ok(Room::Buffers(count));
            }
            if !self.mergeable {
                return Ok(Room::Never);
            }
        }
    }

    /// Writes the frame into the `count` oldest buffers and returns them.
    fn deliver(&mut self, header: &FrameHeader, len: usize, count: u16, rings: &mut dyn Rings) -> Result<(), Fault> {
        let header = header.to_bytes(count);
        let mut rest = [&header[..], self.frame.get(..len).unwrap_or_default()];
        for _ in 0..count {
            let Some(buffer) = self.buffers.pop_front() else { break };
            let written = fill(&buffer, &mut rest)?;
            rings.finish(RX, buffer.head(), u32::try_from(written).unwrap_or(u32::MAX))?;
        }
        Ok(())
    }
}

/// Moves as much of `parts` as fits into one buffer; gives the number of bytes that went.
fn fill(buffer: &Request, parts: &mut [&[u8]]) -> io::Result<usize> {
    let mut writer = buffer.writer();
    for part in parts {
        let room = writer.available_bytes().min(part.len());
        let (now, later) = part.split_at(room);
        writer.write_all(now)?;
        *part = later;
    }
    Ok(writer.bytes_written())
}

enum Room {
    /// The oldest so many buffers are enough.
    Buffers(u16),
    /// More buffers may come.
    NotYet,
    /// The frame does not fit whatever comes.
    Never,
}

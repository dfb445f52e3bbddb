//! The 12-byte header in front of a frame (virtio 1.2, 5.1.6), parsed once into a form that cannot lie.

/// Length of the header on the wire.
pub const HEADER_LEN: usize = 12;

const F_NEEDS_CSUM: u8 = 1;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_ECN: u8 = 0x80;
/// No TCP segment is shorter on purpose (RFC 9293 lets a host refuse an MSS below 64); a lower size only burns CPU.
const MIN_SEGMENT: u16 = 48;

/// The checksum at `start + offset` holds only the pseudo-header's sum: the receiver must finish or trust it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartialChecksum {
    /// Where in the frame the checksummed bytes begin.
    pub start: u16,
    /// Where the 16-bit checksum lies, counted from `start`.
    pub offset: u16,
}

/// What kind of large segment a frame holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SegmentKind {
    /// TCP over IPv4.
    Tcp4,
    /// TCP over IPv6.
    Tcp6,
}

/// A frame that stands for several TCP segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segmentation {
    /// Which protocols.
    pub kind: SegmentKind,
    /// Payload bytes in each segment (the MSS).
    pub size: u16,
}

/// What the sender of a frame left for the receiver to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FrameHeader {
    /// A checksum to finish.
    pub checksum: Option<PartialChecksum>,
    /// A large segment to cut.
    pub segmentation: Option<Segmentation>,
    /// Bytes of Ethernet, IP and TCP headers in front of a large segment; a hint that is 0 when there is none.
    pub header_len: u16,
}

/// A header that does not fit its frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadHeader {
    /// The checksum lies outside the frame.
    #[error("Checksum at {start}+{offset} lies outside a frame of {frame_len} bytes")]
    Checksum {
        /// Claimed start.
        start: u16,
        /// Claimed offset.
        offset: u16,
        /// Length of the frame.
        frame_len: usize,
    },
    /// A large segment without a usable segment size.
    #[error("Segment size {0} is not usable")]
    SegmentSize(u16),
    /// A large segment without a checksum to finish.
    #[error("Large segment without a partial checksum")]
    SegmentChecksum,
    /// The headers would be longer than the frame.
    #[error("Headers of {header_len} bytes in a frame of {frame_len}")]
    HeaderLen {
        /// Claimed length.
        header_len: u16,
        /// Length of the frame.
        frame_len: usize,
    },
    /// A segmentation type that was never offered.
    #[error("Segmentation type {0} is unknown")]
    SegmentKind(u8),
}

impl FrameHeader {
    /// Reads a header in front of a frame of `frame_len` bytes and refuses one that does not fit it.
    pub fn parse(bytes: &[u8; HEADER_LEN], frame_len: usize) -> Result<Self, BadHeader> {
        let [flags, gso, h0, h1, s0, s1, c0, c1, o0, o1, _, _] = *bytes;
        let header_len = u16::from_le_bytes([h0, h1]);
        let size = u16::from_le_bytes([s0, s1]);
        let start = u16::from_le_bytes([c0, c1]);
        let offset = u16::from_le_bytes([o0, o1]);

        let checksum = (flags & F_NEEDS_CSUM != 0).then_some(PartialChecksum { start, offset });
        if checksum.is_some() && usize::from(start) + usize::from(offset) + 2 > frame_len {
            return Err(BadHeader::Checksum { start, offset, frame_len });
        }
        let kind = match gso & !GSO_ECN {
            GSO_NONE => None,
            GSO_TCPV4 => Some(SegmentKind::Tcp4),
            GSO_TCPV6 => Some(SegmentKind::Tcp6),
            _ => return Err(BadHeader::SegmentKind(gso)),
        };
        let Some(kind) = kind else {
            return Ok(Self { checksum, segmentation: None, header_len: 0 });
        };
        if size < MIN_SEGMENT {
            return Err(BadHeader::SegmentSize(size));
        }
        if checksum.is_none() {
            return Err(BadHeader::SegmentChecksum);
        }
        if usize::from(header_len) > frame_len {
            return Err(BadHeader::HeaderLen { header_len, frame_len });
        }
        Ok(Self { checksum, segmentation: Some(Segmentation { kind, size }), header_len })
    }

    /// The header as the guest's driver reads it, for a frame that fills `buffers` receive buffers.
    pub fn to_bytes(self, buffers: u16) -> [u8; HEADER_LEN] {
        let (flags, checksum) = match self.checksum {
            Some(checksum) => (F_NEEDS_CSUM, checksum),
            None => (0, PartialChecksum { start: 0, offset: 0 }),
        };
        let (gso, size) = match self.segmentation {
            Some(Segmentation { kind: SegmentKind::Tcp4, size }) => (GSO_TCPV4, size),
            Some(Segmentation { kind: SegmentKind::Tcp6, size }) => (GSO_TCPV6, size),
            None => (GSO_NONE, 0),
        };
        let [h0, h1] = self.header_len.to_le_bytes();
        let [s0, s1] = size.to_le_bytes();
        let [c0, c1] = checksum.start.to_le_bytes();
        let [o0, o1] = checksum.offset.to_le_bytes();
        let [n0, n1] = buffers.to_le_bytes();
        [flags, gso, h0, h1, s0, s1, c0, c1, o0, o1, n0, n1]
    }
}

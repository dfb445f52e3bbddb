//! TCP segments, read and written (RFC 9293, 3.1).

use std::io;
use std::net::SocketAddr;

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{IpAddress, TcpControl, TcpPacket, TcpRepr};
use virtio::Writer;
use virtio::frame::Unsent;

use super::sequence::Seq;
use crate::uplink::{Built, Uplink};
use crate::wire::{Packet, TCP, header_len, write_ip_head};

/// Linux refuses to send smaller segments, too.
pub(super) const MIN_MSS: u16 = 48;
/// Length of a header without options.
const HEADER: usize = 20;
/// Longest IP packet.
const MAX_PACKET: usize = 65_535;

// Control bits.
pub(super) const FIN: u8 = 1;
pub(super) const SYN: u8 = 2;
pub(super) const RST: u8 = 4;
pub(super) const PSH: u8 = 8;
pub(super) const ACK: u8 = 16;

/// Both ends of a connection as the guest names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Tuple {
    pub(super) guest: SocketAddr,
    pub(super) remote: SocketAddr,
}

/// What the header of a segment of the guest says. None of it is to be believed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Segment {
    pub(super) tuple: Tuple,
    pub(super) control: TcpControl,
    pub(super) sequence: Seq,
    pub(super) acknowledgment: Option<Seq>,
    /// As it stands there, not scaled.
    pub(super) window: u16,
    pub(super) scale: Option<u8>,
    pub(super) mss: Option<u16>,
    /// Bytes of payload.
    pub(super) payload: u32,
}

impl Segment {
    /// Reads the header; `None` for what no TCP of good will sends.
    pub(super) fn parse<'a>(packet: &Packet<'a>) -> Option<(Self, &'a [u8])> {
        let tcp = TcpPacket::new_checked(packet.payload).ok()?;
        let (source, destination) = (IpAddress::from(packet.source), IpAddress::from(packet.destination));
        // Refuses port 0 and control bits that exclude one another.
        let repr = TcpRepr::parse(&tcp, &source, &destination, &ChecksumCapabilities::ignored()).ok()?;
        if repr.max_seg_size.is_some_and(|mss| mss < MIN_MSS) {
            return None;
        }
        let tuple = Tuple {
            guest: SocketAddr::new(packet.source, repr.src_port),
            remote: SocketAddr::new(packet.destination, repr.dst_port),
        };
        let segment = Self {
            tuple,
            control: repr.control,
            sequence: Seq(repr.seq_number.0.cast_unsigned()),
            acknowledgment: repr.ack_number.map(|number| Seq(number.0.cast_unsigned())),
            window: repr.window_len,
            scale: repr.window_scale,
            mss: repr.max_seg_size,
            payload: u32::try_from(repr.payload.len()).ok()?,
        };
        Some((segment, repr.payload))
    }

    pub(super) fn is_syn(&self) -> bool {
        self.control == TcpControl::Syn
    }

    pub(super) fn is_fin(&self) -> bool {
        self.control == TcpControl::Fin
    }

    pub(super) fn is_reset(&self) -> bool {
        self.control == TcpControl::Rst
    }

    /// Whether the guest wants a new connection.
    pub(super) fn opens(&self) -> bool {
        self.is_syn() && self.acknowledgment.is_none()
    }

    /// Sequence numbers that the segment takes up.
    pub(super) fn len(&self) -> u32 {
        self.payload + u32::from(self.is_syn() || self.is_fin())
    }

    /// Answers with a reset (RFC 9293, 3.5.2), but not a reset with a reset.
    pub(super) fn refuse(&self, uplink: &mut Uplink) {
        if self.is_reset() {
            return;
        }
        let header = match self.acknowledgment {
            Some(expected) => Header { flags: RST, sequence: expected, ..Header::default() },
            None => {
                let acknowledgment = self.sequence.plus(self.len());
                Header { flags: RST | ACK, acknowledgment, ..Header::default() }
            }
        };
        self.tuple.send(uplink, &header);
    }
}

/// What the header of a segment to the guest says.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Header {
    pub(super) flags: u8,
    pub(super) sequence: Seq,
    pub(super) acknowledgment: Seq,
    pub(super) window: u16,
    pub(super) options: Option<SynOptions>,
}

/// What a SYN offers.
#[derive(Debug, Clone, Copy)]
pub(super) struct SynOptions {
    pub(super) mss: u16,
    /// Not there when the guest has not offered its own (RFC 7323, 2.2).
    pub(super) scale: Option<u8>,
}

impl SynOptions {
    fn to_bytes(self) -> [u8; 8] {
        let [m0, m1] = self.mss.to_be_bytes();
        match self.scale {
            // Maximum segment size; no operation, window scale.
            Some(scale) => [2, 4, m0, m1, 1, 3, 3, scale],
            None => [2, 4, m0, m1, 1, 1, 1, 0],
        }
    }
}

impl Tuple {
    /// Longest segment payload that goes into one IP packet of `longest` bytes.
    pub(super) fn payload_within(&self, longest: usize) -> u16 {
        let headers = header_len(self.remote.ip()) + HEADER;
        u16::try_from(longest.min(MAX_PACKET).saturating_sub(headers)).unwrap_or(u16::MAX)
    }

    /// Sends a segment without payload.
    pub(super) fn send(&self, uplink: &mut Uplink, header: &Header) {
        let options = header.options.map_or(0, |_| 8);
        let len = header_len(self.remote.ip()) + HEADER + options;
        uplink.send_ip(len, None, |packet| self.write(packet, header));
    }

    /// Sends a segment with a payload of at most `room` bytes, which `fill` puts in place; it gives their number and
    /// the header. More than `mss` of them are a large segment.
    pub(super) fn send_with(
        &self,
        uplink: &mut Uplink,
        room: usize,
        mss: u16,
        fill: impl FnOnce(&mut [u8]) -> Option<(usize, Header)>,
    ) {
        let headers = header_len(self.remote.ip()) + HEADER;
        uplink.send_if(headers + room, |packet| {
            let (count, header) = fill(packet.get_mut(headers..)?)?;
            let len = headers + count;
            self.write(packet.get_mut(..len)?, &header);
            Some(Built { len, segment: (count > usize::from(mss)).then_some(mss) })
        });
    }

    /// Likewise with a payload that goes into the guest's memory without being built here.
    pub(super) fn send_filled(
        &self,
        uplink: &mut Uplink,
        room: usize,
        mss: u16,
        fill: impl FnOnce(&mut Writer<'_>) -> io::Result<()>,
        header: impl FnOnce(usize) -> Header,
    ) -> Result<usize, Unsent> {
        let headers = header_len(self.remote.ip()) + HEADER;
        uplink.send_filled(headers, room, fill, |packet, count| {
            self.write_head(packet, headers + count, &header(count));
            (count > usize::from(mss)).then_some(mss)
        })
    }

    /// Writes all headers into a packet whose payload is in place already.
    fn write(&self, packet: &mut [u8], header: &Header) {
        let len = packet.len();
        self.write_head(packet, len, header);
    }

    /// Writes all headers of a packet of `len` bytes.
    fn write_head(&self, packet: &mut [u8], len: usize, header: &Header) {
        let body = write_ip_head(packet, len, self.remote.ip(), self.guest.ip(), TCP);
        let options = header.options.map(SynOptions::to_bytes);
        let words: u8 = if options.is_some() { 7 } else { 5 };
        let mut bytes = [0; HEADER];
        bytes[0..2].copy_from_slice(&self.remote.port().to_be_bytes());
        bytes[2..4].copy_from_slice(&self.guest.port().to_be_bytes());
        bytes[4..8].copy_from_slice(&header.sequence.0.to_be_bytes());
        if header.flags & ACK != 0 {
            bytes[8..12].copy_from_slice(&header.acknowledgment.0.to_be_bytes());
        }
        (bytes[12], bytes[13]) = (words << 4, header.flags);
        bytes[14..16].copy_from_slice(&header.window.to_be_bytes());
        if let Some((space, rest)) = body.split_first_chunk_mut::<HEADER>() {
            *space = bytes;
            if let (Some(options), Some((space, _))) = (options, rest.split_first_chunk_mut::<8>()) {
                *space = options;
            }
        }
    }
}

//! TCP segments as far as the gateway looks into them before smoltcp does.

use std::net::SocketAddr;

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{IpAddress, TcpControl, TcpPacket, TcpRepr, TcpSeqNumber};

use crate::uplink::Uplink;
use crate::wire::{Packet, TCP, write_ip};

/// Linux refuses to send smaller segments, too.
const MIN_MSS: u16 = 48;

/// What decides about a segment's way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Segment {
    pub(super) guest: SocketAddr,
    pub(super) remote: SocketAddr,
    pub(super) control: TcpControl,
    pub(super) sequence: TcpSeqNumber,
    pub(super) acknowledgment: Option<TcpSeqNumber>,
    /// Sequence numbers that the segment takes up.
    pub(super) len: usize,
    pub(super) has_payload: bool,
}

impl Segment {
    /// Reads the header; `None` for what no TCP of good will sends.
    pub(super) fn parse(packet: &Packet<'_>) -> Option<Self> {
        let tcp = TcpPacket::new_checked(packet.payload).ok()?;
        let (source, destination) = (IpAddress::from(packet.source), IpAddress::from(packet.destination));
        // Refuses port 0 and control bits that exclude one another.
        let repr = TcpRepr::parse(&tcp, &source, &destination, &ChecksumCapabilities::ignored()).ok()?;
        if repr.max_seg_size.is_some_and(|mss| mss < MIN_MSS) {
            return None;
        }
        Some(Self {
            guest: SocketAddr::new(packet.source, repr.src_port),
            remote: SocketAddr::new(packet.destination, repr.dst_port),
            control: repr.control,
            sequence: repr.seq_number,
            acknowledgment: repr.ack_number,
            len: repr.segment_len(),
            has_payload: !repr.payload.is_empty(),
        })
    }

    /// Whether the guest wants a new connection.
    pub(super) fn opens(&self) -> bool {
        self.control == TcpControl::Syn && self.acknowledgment.is_none()
    }

    /// Answers with a reset (RFC 9293, 3.5.2), but not a reset with a reset.
    pub(super) fn refuse(&self, uplink: &mut Uplink) {
        if self.control == TcpControl::Rst {
            return;
        }
        let (sequence, acknowledgment) = match self.acknowledgment {
            Some(expected) => (expected, None),
            None => (TcpSeqNumber(0), Some(self.sequence + self.len)),
        };
        let reset = TcpRepr {
            src_port: self.remote.port(),
            dst_port: self.guest.port(),
            control: TcpControl::Rst,
            seq_number: sequence,
            ack_number: acknowledgment,
            window_len: 0,
            window_scale: None,
            max_seg_size: None,
            sack_permitted: false,
            sack_ranges: [None; 3],
            timestamp: None,
            payload: &[],
        };
        let header_len = if self.guest.is_ipv4() { 20 } else { 40 };
        uplink.send_ip(header_len + reset.buffer_len(), None, |packet| {
            let body = write_ip(packet, self.remote.ip(), self.guest.ip(), TCP);
            let (from, to) = (IpAddress::from(self.remote.ip()), IpAddress::from(self.guest.ip()));
            reset.emit(&mut TcpPacket::new_unchecked(body), &from, &to, &ChecksumCapabilities::ignored());
        });
    }
}

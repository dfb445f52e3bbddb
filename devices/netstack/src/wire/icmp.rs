//! ICMP for both versions of IP: echo to the gateway, and errors for what cannot be.

use std::net::IpAddr;

use super::{ICMP, ICMPV6, Packet, checksum, header_len, plain, write_ip};
use crate::config::Addresses;

/// Why the guest cannot have what it asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unreachable {
    /// No route on the host.
    Network,
    /// The remote host does not answer.
    Host,
    /// Nobody listens at the port.
    Port,
    /// The policy says no.
    Prohibited,
    /// Packets on the way may be no longer than this.
    TooBig(u16),
}

impl Unreachable {
    /// Type and code for IPv4 (RFC 1812, 5.2.7.1; RFC 1191, 4).
    fn v4(self) -> (u8, u8) {
        match self {
            Self::Network => (3, 0),
            Self::Host => (3, 1),
            Self::Port => (3, 3),
            Self::Prohibited => (3, 13),
            Self::TooBig(_) => (3, 4),
        }
    }

    /// Type and code for IPv6 (RFC 4443, 3.1 and 3.2).
    fn v6(self) -> (u8, u8) {
        match self {
            Self::Network => (1, 0),
            Self::Host => (1, 3),
            Self::Port => (1, 4),
            Self::Prohibited => (1, 1),
            Self::TooBig(_) => (2, 0),
        }
    }
}

/// Bytes of the offending packet that an error quotes (RFC 792; RFC 4443, 2.4 c).
const QUOTE_V4: usize = 28;
const QUOTE_V6: usize = 1232;

/// The error for the packet that starts with `offender`, which went from the guest to `destination`.
pub(crate) fn unreachable(offender: &[u8], guest: IpAddr, addresses: &Addresses, why: Unreachable) -> Vec<u8> {
    let ((kind, code), protocol, most) =
        if guest.is_ipv4() { (why.v4(), ICMP, QUOTE_V4) } else { (why.v6(), ICMPV6, QUOTE_V6) };
    let quote = offender.get(..most).unwrap_or(offender);
    let mut packet = vec![0; header_len(guest) + 8 + quote.len()];
    let body = write_ip(&mut packet, addresses.gateway_for(guest), guest, protocol);
    if let Some((head, rest)) = body.split_at_mut_checked(8) {
        // Both versions have the MTU at the end of the same four bytes.
        let [mtu0, mtu1] = if let Unreachable::TooBig(mtu) = why { mtu.to_be_bytes() } else { [0, 0] };
        head.copy_from_slice(&[kind, code, 0, 0, 0, 0, mtu0, mtu1]);
        rest.copy_from_slice(quote);
    }
    finish(&mut packet, guest);
    packet
}

/// An echo request of the guest, or a reply for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Echo<'a> {
    is_ipv4: bool,
    pub(crate) identifier: u16,
    sequence: u16,
    pub(crate) data: &'a [u8],
}

const REQUEST_V4: u8 = 8;
const REPLY_V4: u8 = 0;
const REQUEST_V6: u8 = 128;
const REPLY_V6: u8 = 129;

impl<'a> Echo<'a> {
    /// Reads an echo request.
    pub(crate) fn request(packet: &Packet<'a>) -> Option<Self> {
        let is_ipv4 = packet.source.is_ipv4();
        if packet.protocol != if is_ipv4 { ICMP } else { ICMPV6 } {
            return None;
        }
        // ICMPv6 was checked with the packet, since its checksum covers the addresses.
        if is_ipv4 && checksum::internet(packet.payload) != 0 {
            return None;
        }
        Self::parse(packet.payload, is_ipv4, if is_ipv4 { REQUEST_V4 } else { REQUEST_V6 })
    }

    /// Reads a reply from `remote`, which is for `identifier` whatever it says.
    pub(crate) fn reply(message: &'a [u8], remote: IpAddr, identifier: u16) -> Option<Self> {
        let is_ipv4 = remote.is_ipv4();
        let reply = Self::parse(message, is_ipv4, if is_ipv4 { REPLY_V4 } else { REPLY_V6 })?;
        Some(Self { identifier, ..reply })
    }

    fn parse(message: &'a [u8], is_ipv4: bool, wanted: u8) -> Option<Self> {
        let (&[kind, 0, _, _, id0, id1, seq0, seq1], data) = message.split_first_chunk::<8>()? else { return None };
        let (identifier, sequence) = (u16::from_be_bytes([id0, id1]), u16::from_be_bytes([seq0, seq1]));
        (kind == wanted).then_some(Self { is_ipv4, identifier, sequence, data })
    }

    fn write(&self, kind: u8) -> Vec<u8> {
        let ([id0, id1], [seq0, seq1]) = (self.identifier.to_be_bytes(), self.sequence.to_be_bytes());
        [&[kind, 0, 0, 0, id0, id1, seq0, seq1], self.data].concat()
    }

    /// The request as a ping socket takes it: the kernel sets identifier and checksum.
    pub(crate) fn to_message(self) -> Vec<u8> {
        self.write(if self.is_ipv4 { REQUEST_V4 } else { REQUEST_V6 })
    }

    /// The reply with the same content, as a packet for the guest.
    pub(crate) fn to_packet(self, remote: IpAddr, guest: IpAddr) -> Vec<u8> {
        let (protocol, kind) = if self.is_ipv4 { (ICMP, REPLY_V4) } else { (ICMPV6, REPLY_V6) };
        let mut packet = plain(remote, guest, protocol, &self.write(kind));
        finish(&mut packet, guest);
        packet
    }
}

/// The answer to an echo request to the gateway.
pub(crate) fn answer_echo(request: &Packet<'_>) -> Option<Vec<u8>> {
    Some(Echo::request(request)?.to_packet(request.destination, request.source))
}

fn finish(packet: &mut [u8], guest: IpAddr) {
    if guest.is_ipv6() {
        return fill_icmpv6(packet);
    }
    let Some(body) = packet.get_mut(header_len(guest)..) else { return };
    let value = checksum::internet(body);
    if let Some(field) = body.get_mut(2..4) {
        field.copy_from_slice(&value.to_be_bytes());
    }
}

/// Finishes a packet of neighbour discovery, which must not have crossed a router.
pub(crate) fn finish_discovery(packet: &mut [u8]) {
    if let Some(hop_limit) = packet.get_mut(7) {
        *hop_limit = u8::MAX;
    }
    fill_icmpv6(packet);
}

/// Writes the checksum of an ICMPv6 packet whose field is zero.
fn fill_icmpv6(packet: &mut [u8]) {
    let Some((header, body)) = packet.split_at_mut_checked(40) else { return };
    let Some(addresses) = header.get(8..).and_then(|all| <[u8; 32]>::try_from(all).ok()) else { return };
    let value = checksum::icmpv6(&addresses, body);
    if let Some(field) = body.get_mut(2..4) {
        field.copy_from_slice(&value.to_be_bytes());
    }
}

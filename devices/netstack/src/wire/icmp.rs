//! ICMP for both versions of IP: echo to the gateway, and errors for what cannot be.

use std::net::IpAddr;

use super::ip::header_len;
use super::ndp::fill_icmpv6;
use super::{ICMP, ICMPV6, Packet, checksum, write_ip};
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

/// The answer to an echo request to the gateway.
pub(crate) fn answer_echo(request: &Packet<'_>) -> Option<Vec<u8>> {
    let (kind, reply) = match request.protocol {
        ICMP => (8, 0),
        _ => (128, 129),
    };
    let (head, data) = request.payload.split_first_chunk::<8>()?;
    let [asked, 0, _, _, id0, id1, seq0, seq1] = *head else { return None };
    let v4_sum_is_wrong = request.protocol == ICMP && checksum::internet(request.payload) != 0;
    if asked != kind || v4_sum_is_wrong {
        return None;
    }
    let mut packet = vec![0; header_len(request.source) + 8 + data.len()];
    let body = write_ip(&mut packet, request.destination, request.source, request.protocol);
    let (head, rest) = body.split_at_mut_checked(8)?;
    head.copy_from_slice(&[reply, 0, 0, 0, id0, id1, seq0, seq1]);
    rest.copy_from_slice(data);
    finish(&mut packet, request.source);
    Some(packet)
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

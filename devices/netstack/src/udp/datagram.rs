//! Datagrams and errors for the guest.

use std::net::SocketAddr;

use crate::context::Context;
use crate::uplink::Uplink;
use crate::wire::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, UDP, Unreachable, checksum, fragments, unreachable, write_ip};

pub(super) const HEADER: usize = 8;

/// Sends a datagram to the guest, in fragments if the link cannot carry it in one packet.
pub(crate) fn send_datagram(uplink: &mut Uplink, mtu: u16, from: SocketAddr, guest: SocketAddr, message: &[u8]) {
    let len = ip_header_len(guest) + HEADER + message.len();
    if len <= usize::from(mtu) {
        return uplink.send_ip(len, None, |packet| write_packet(packet, from, guest, message));
    }
    let mut packet = vec![0; len];
    write_packet(&mut packet, from, guest, message);
    if let Some(transport) = checksum::transport(&packet) {
        checksum::fill(&mut packet, &transport);
    }
    let ethertype = if guest.is_ipv4() { ETHERTYPE_IPV4 } else { ETHERTYPE_IPV6 };
    for fragment in fragments(&packet, mtu.into()) {
        uplink.send_other(ethertype, &fragment);
    }
}

fn ip_header_len(guest: SocketAddr) -> usize {
    if guest.is_ipv4() { 20 } else { 40 }
}

fn write_packet(packet: &mut [u8], from: SocketAddr, to: SocketAddr, message: &[u8]) {
    let body = write_ip(packet, from.ip(), to.ip(), UDP);
    let len = u16::try_from(body.len()).unwrap_or(0).to_be_bytes();
    if let Some((head, rest)) = body.split_first_chunk_mut::<HEADER>()
        && rest.len() == message.len()
    {
        let ([f0, f1], [t0, t1], [l0, l1]) = (from.port().to_be_bytes(), to.port().to_be_bytes(), len);
        *head = [f0, f1, t0, t1, l0, l1, 0, 0];
        rest.copy_from_slice(message);
    }
}

/// Tells the guest that the packet which begins with `offender` cannot be delivered.
pub(super) fn reject(context: &mut Context, offender: &[u8], guest: SocketAddr, why: Unreachable) {
    let packet = unreachable(offender, guest.ip(), &context.addresses, why);
    context.uplink.send_ip(packet.len(), None, |space| space.copy_from_slice(&packet));
}

/// Like `reject` for a datagram that is gone: its headers are all that an error needs.
pub(super) fn reject_unquoted(context: &mut Context, guest: SocketAddr, remote: SocketAddr, why: Unreachable) {
    let mut offender = vec![0; ip_header_len(guest) + HEADER];
    write_packet(&mut offender, guest, remote, &[]);
    reject(context, &offender, guest, why);
}

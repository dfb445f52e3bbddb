//! Datagrams and errors for the guest.

use std::net::SocketAddr;

use crate::context::Context;
use crate::uplink::Uplink;
use crate::wire::{UDP_HEADER, Unreachable, datagram, header_len, unreachable, write_datagram};

/// Sends a datagram to the guest, in fragments if the link cannot carry it in one packet.
pub(crate) fn send_datagram(uplink: &mut Uplink, mtu: u16, from: SocketAddr, guest: SocketAddr, message: &[u8]) {
    let len = header_len(guest.ip()) + UDP_HEADER + message.len();
    if len <= usize::from(mtu) {
        uplink.send_ip(len, None, |packet| write_datagram(packet, from, guest, message));
    } else {
        uplink.send_packet(&datagram(from, guest, message), mtu);
    }
}

/// Tells the guest that the packet which begins with `offender` cannot be delivered.
pub(super) fn reject(context: &mut Context, offender: &[u8], guest: SocketAddr, why: Unreachable) {
    let packet = unreachable(offender, guest.ip(), &context.addresses, why);
    context.uplink.send_packet(&packet, context.mtu);
}

/// Like `reject` for a datagram that is gone: its headers are all that an error needs.
pub(super) fn reject_unquoted(context: &mut Context, guest: SocketAddr, remote: SocketAddr, why: Unreachable) {
    reject(context, &datagram(guest, remote, &[]), guest, why);
}

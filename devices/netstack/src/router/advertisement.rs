//! Router advertisements (RFC 4861, 4.2): there is a router and a resolver, and the address is to be had by DHCPv6.
//!
//! Addresses that guests make up from the prefix are not offered: packets from others than the guest's one address are
//! dropped.

use std::net::{IpAddr, Ipv6Addr};

use super::{ALL_NODES, is_asker};
use crate::config::Addresses;
use crate::wire::{ICMPV6, Packet, finish_discovery, plain};

const SOLICITATION: u8 = 133;
const ADVERTISEMENT: u8 = 134;
const HOP_LIMIT: u8 = 64;
/// Address and other configuration by DHCPv6.
const MANAGED: u8 = 0xc0;
/// The longest there is (RFC 8319, 4).
const LIFETIME: u16 = u16::MAX;
const FOREVER: [u8; 4] = [0xff; 4];
const SOURCE_LINK_LAYER_ADDRESS: u8 = 1;
const PREFIX: u8 = 3;
const ON_LINK: u8 = 0x80;
const MTU: u8 = 5;
/// RFC 8106, 5.1.
const RESOLVERS: u8 = 25;

/// The answer to a solicitation.
pub(super) fn answer(packet: &Packet<'_>, addresses: &Addresses, mtu: u16) -> Option<Vec<u8>> {
    let IpAddr::V6(source) = packet.source else { return None };
    let (&[kind, 0, ..], _) = packet.payload.split_first_chunk::<8>()? else { return None };
    let asked = packet.protocol == ICMPV6
        && kind == SOLICITATION
        && packet.is_from_link()
        && (is_asker(source, addresses) || source.is_unspecified());
    let receiver = if source.is_unspecified() { ALL_NODES } else { source };
    asked.then(|| to(receiver, addresses, mtu))
}

/// An advertisement for `receiver`.
pub(super) fn to(receiver: Ipv6Addr, addresses: &Addresses, mtu: u16) -> Vec<u8> {
    let [lifetime0, lifetime1] = LIFETIME.to_be_bytes();
    let prefix =
        u128::from(addresses.gateway_v6) & u128::MAX.checked_shl(128 - u32::from(addresses.prefix_v6)).unwrap_or(0);
    let body = [
        &[ADVERTISEMENT, 0, 0, 0, HOP_LIMIT, MANAGED, lifetime0, lifetime1][..],
        // Reachable time and retransmission timer: as the guest likes.
        &[0; 8],
        &[SOURCE_LINK_LAYER_ADDRESS, 1],
        &addresses.gateway_mac,
        &[MTU, 1, 0, 0],
        &u32::from(mtu).to_be_bytes(),
        &[PREFIX, 4, addresses.prefix_v6, ON_LINK],
        &FOREVER,
        &FOREVER,
        &[0; 4],
        &prefix.to_be_bytes(),
        &[RESOLVERS, 3, 0, 0],
        &FOREVER,
        &addresses.gateway_v6.octets(),
    ];
    let mut packet = plain(addresses.gateway_link_local().into(), receiver.into(), ICMPV6, &body.concat());
    finish_discovery(&mut packet);
    packet
}

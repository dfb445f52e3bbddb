//! Neighbour discovery (RFC 4861): the gateway answers for itself and for nobody else.

use std::net::{IpAddr, Ipv6Addr};

use super::{ICMPV6, Packet, checksum, write_ip};
use crate::config::Addresses;

const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
/// Router, solicited, override.
const FLAGS: u8 = 0xe0;
const TARGET_LINK_LAYER_ADDRESS: u8 = 2;
/// Such packets never crossed a router.
const HOP_LIMIT: u8 = 255;

/// Length of an advertisement, IP header included.
const ANSWER: usize = 40 + 32;

/// The answer to a solicitation of the guest for the gateway's address.
pub(crate) fn answer_solicitation(packet: &Packet<'_>, addresses: &Addresses) -> Option<[u8; ANSWER]> {
    let IpAddr::V6(source) = packet.source else { return None };
    let (message, _) = packet.payload.split_first_chunk::<24>()?;
    let [kind, code, _, _, _, _, _, _, target @ ..] = *message;
    let asked = kind == SOLICITATION
        && code == 0
        && packet.bytes.get(7) == Some(&HOP_LIMIT)
        && Ipv6Addr::from(target) == addresses.gateway_v6
        && (source == addresses.guest_v6 || source.is_unicast_link_local());
    if !asked {
        return None;
    }
    let mut answer = [0; ANSWER];
    let body = write_ip(&mut answer, addresses.gateway_v6.into(), source.into(), ICMPV6);
    let (fixed, option) = body.split_at_mut_checked(24)?;
    let (head, target) = fixed.split_at_mut_checked(8)?;
    head.copy_from_slice(&[ADVERTISEMENT, 0, 0, 0, FLAGS, 0, 0, 0]);
    target.copy_from_slice(&addresses.gateway_v6.octets());
    let (prologue, link_layer) = option.split_at_mut_checked(2)?;
    prologue.copy_from_slice(&[TARGET_LINK_LAYER_ADDRESS, 1]);
    link_layer.copy_from_slice(&addresses.gateway_mac);
    answer[7] = HOP_LIMIT;
    fill_icmpv6(&mut answer);
    Some(answer)
}

/// Writes the checksum of an ICMPv6 packet whose field is zero.
pub(super) fn fill_icmpv6(packet: &mut [u8]) {
    let Some((header, body)) = packet.split_at_mut_checked(40) else { return };
    let Some(addresses) = header.get(8..).and_then(|all| <[u8; 32]>::try_from(all).ok()) else { return };
    let value = checksum::icmpv6(&addresses, body);
    if let Some(field) = body.get_mut(2..4) {
        field.copy_from_slice(&value.to_be_bytes());
    }
}

//! Neighbour discovery (RFC 4861): the gateway answers for itself and for nobody else.

use std::net::{IpAddr, Ipv6Addr};

use super::{ALL_NODES, is_asker};
use crate::config::Addresses;
use crate::wire::{ICMPV6, Packet, finish_discovery, plain};

const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const IS_ROUTER: u8 = 0x80;
const IS_SOLICITED: u8 = 0x40;
const OVERRIDES: u8 = 0x20;
const TARGET_LINK_LAYER_ADDRESS: u8 = 2;

/// The answer to a solicitation of the guest for one of the gateway's addresses, also while the guest tries whether it
/// may have that address itself (RFC 4862, 5.4.3).
pub(super) fn answer(packet: &Packet<'_>, addresses: &Addresses) -> Option<Vec<u8>> {
    let IpAddr::V6(source) = packet.source else { return None };
    let (&[kind, 0, _, _, _, _, _, _, target @ ..], _) = packet.payload.split_first_chunk::<24>()? else { return None };
    let target = Ipv6Addr::from(target);
    let asked = packet.protocol == ICMPV6
        && kind == SOLICITATION
        && packet.is_from_link()
        && (target == addresses.gateway_v6 || target == addresses.gateway_link_local())
        && (is_asker(source, addresses) || source.is_unspecified());
    if !asked {
        return None;
    }
    let (to, flags) = match source.is_unspecified() {
        true => (ALL_NODES, IS_ROUTER | OVERRIDES),
        false => (source, IS_ROUTER | IS_SOLICITED | OVERRIDES),
    };
    let body = [
        &[ADVERTISEMENT, 0, 0, 0, flags, 0, 0, 0][..],
        &target.octets(),
        &[TARGET_LINK_LAYER_ADDRESS, 1],
        &addresses.gateway_mac,
    ];
    let mut answer = plain(target.into(), to.into(), ICMPV6, &body.concat());
    finish_discovery(&mut answer);
    Some(answer)
}

//! ARP: the gateway answers for itself and for nobody else.

use std::net::Ipv4Addr;

use crate::config::Addresses;

const REQUEST: u16 = 1;
const REPLY: u16 = 2;
/// Ethernet and IPv4, with addresses of 6 and 4 bytes.
const PROLOGUE: [u8; 6] = [0, 1, 8, 0, 6, 4];

/// The answer to a request of the guest for the gateway's address.
pub(crate) fn answer_arp(payload: &[u8], addresses: &Addresses) -> Option<[u8; 28]> {
    let (request, _) = payload.split_first_chunk::<28>()?;
    let (prologue, rest) = request.split_first_chunk::<6>()?;
    let (&operation, rest) = rest.split_first_chunk::<2>()?;
    let (&sender_mac, rest) = rest.split_first_chunk::<6>()?;
    let (&sender, rest) = rest.split_first_chunk::<4>()?;
    let (_, target) = rest.split_first_chunk::<6>()?;
    let target = <[u8; 4]>::try_from(target).ok()?;

    let asked = *prologue == PROLOGUE
        && u16::from_be_bytes(operation) == REQUEST
        && sender_mac == addresses.guest_mac
        && Ipv4Addr::from(sender) == addresses.guest_v4
        && Ipv4Addr::from(target) == addresses.gateway_v4;
    if !asked {
        return None;
    }
    let mut reply = [0; 28];
    reply[..6].copy_from_slice(&PROLOGUE);
    reply[6..8].copy_from_slice(&REPLY.to_be_bytes());
    reply[8..14].copy_from_slice(&addresses.gateway_mac);
    reply[14..18].copy_from_slice(&addresses.gateway_v4.octets());
    reply[18..24].copy_from_slice(&addresses.guest_mac);
    reply[24..].copy_from_slice(&addresses.guest_v4.octets());
    Some(reply)
}

//! DHCPv6 (RFC 8415): one address, for whoever asks on the guest's card.

use std::net::{IpAddr, Ipv6Addr};

use super::is_asker;
use crate::config::Addresses;
use crate::wire::{Packet, datagram};

const SERVER_PORT: u16 = 547;
const CLIENT_PORT: u16 = 546;
const ALL_SERVERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);
/// Longest identifier of a client (RFC 8415, 11.1), with its type.
const MAX_IDENTIFIER: usize = 130;
/// Options of one message.
const MAX_OPTIONS: usize = 64;

const SOLICIT: u8 = 1;
const ADVERTISE: u8 = 2;
const REQUEST: u8 = 3;
const CONFIRM: u8 = 4;
const RENEW: u8 = 5;
const REBIND: u8 = 6;
const REPLY: u8 = 7;
const RELEASE: u8 = 8;
const DECLINE: u8 = 9;
const INFORMATION: u8 = 11;

const CLIENT: u16 = 1;
const SERVER: u16 = 2;
const ASSOCIATION: u16 = 3;
const ADDRESS: u16 = 5;
const STATUS: u16 = 13;
const RAPID_COMMIT: u16 = 14;
const RESOLVERS: u16 = 23;
const FOREVER: [u8; 4] = [0xff; 4];

struct Message<'a> {
    kind: u8,
    transaction: &'a [u8],
    client: &'a [u8],
    server: Option<&'a [u8]>,
    association: Option<[u8; 4]>,
    is_rapid: bool,
}

/// The answer to a client on the guest's card.
pub(super) fn answer(packet: &Packet<'_>, addresses: &Addresses) -> Option<Vec<u8>> {
    let (IpAddr::V6(source), IpAddr::V6(destination)) = (packet.source, packet.destination) else { return None };
    if !is_asker(source, addresses) || destination != ALL_SERVERS {
        return None;
    }
    let message = Message::parse(packet.payload)?;
    let own = identifier(addresses);
    let is_for_us = message.server.is_none_or(|server| server == own);
    let kind = match message.kind {
        SOLICIT if !message.is_rapid => ADVERTISE,
        SOLICIT | REQUEST | CONFIRM | RENEW | REBIND | RELEASE | DECLINE | INFORMATION => REPLY,
        _ => return None,
    };
    if !is_for_us || (message.client.is_empty() && message.kind != INFORMATION) {
        return None;
    }
    let reply = message.reply(kind, &own, addresses);
    let from = (addresses.gateway_link_local(), SERVER_PORT).into();
    Some(datagram(from, (source, CLIENT_PORT).into(), &reply))
}

/// The gateway's own identifier: made from its card (RFC 8415, 11.4).
fn identifier(addresses: &Addresses) -> Vec<u8> {
    [&[0, 3, 0, 1][..], &addresses.gateway_mac].concat()
}

impl<'a> Message<'a> {
    fn parse(datagram: &'a [u8]) -> Option<Self> {
        let (&[from0, from1, to0, to1, ..], content) = datagram.split_first_chunk::<8>()?;
        let ports = [u16::from_be_bytes([from0, from1]), u16::from_be_bytes([to0, to1])];
        let (&[kind, ..], _) = content.split_first_chunk::<4>()?;
        if ports != [CLIENT_PORT, SERVER_PORT] {
            return None;
        }
        let (transaction, options) = (content.get(1..4)?, content.get(4..)?);
        let mut message = Self { kind, transaction, client: &[], server: None, association: None, is_rapid: false };
        for (option, value) in Options(options).take(MAX_OPTIONS) {
            match option {
                CLIENT if value.len() <= MAX_IDENTIFIER => message.client = value,
                CLIENT => return None,
                SERVER => message.server = Some(value),
                // One address is all there is: further associations stay without.
                ASSOCIATION if message.association.is_none() => message.association = value.first_chunk().copied(),
                RAPID_COMMIT => message.is_rapid = true,
                _ => {}
            }
        }
        Some(message)
    }

    fn reply(&self, kind: u8, own: &[u8], addresses: &Addresses) -> Vec<u8> {
        let mut reply = [&[kind], self.transaction].concat();
        if !self.client.is_empty() {
            put(&mut reply, CLIENT, self.client);
        }
        put(&mut reply, SERVER, own);
        if self.kind == SOLICIT && self.is_rapid {
            put(&mut reply, RAPID_COMMIT, &[]);
        }
        match self.kind {
            // Success: the link is the right one, the address free as ever.
            CONFIRM | RELEASE | DECLINE => put(&mut reply, STATUS, &[0, 0]),
            _ => {
                if let Some(association) = self.association {
                    let mut address = Vec::new();
                    put(&mut address, ADDRESS, &[&addresses.guest_v6.octets()[..], &FOREVER, &FOREVER].concat());
                    // Times of renewal: never.
                    put(&mut reply, ASSOCIATION, &[&association[..], &FOREVER, &FOREVER, &address].concat());
                }
                put(&mut reply, RESOLVERS, &addresses.gateway_v6.octets());
            }
        }
        reply
    }
}

fn put(message: &mut Vec<u8>, option: u16, value: &[u8]) {
    message.extend_from_slice(&option.to_be_bytes());
    message.extend_from_slice(&u16::try_from(value.len()).unwrap_or(0).to_be_bytes());
    message.extend_from_slice(value);
}

struct Options<'a>(&'a [u8]);

impl<'a> Iterator for Options<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (&[kind0, kind1, len0, len1], rest) = self.0.split_first_chunk::<4>()?;
        let (value, rest) = rest.split_at_checked(u16::from_be_bytes([len0, len1]).into())?;
        self.0 = rest;
        Some((u16::from_be_bytes([kind0, kind1]), value))
    }
}

//! DHCP (RFC 2131): one lease, for the guest's card.

use std::net::{IpAddr, Ipv4Addr};

use crate::config::Addresses;
use crate::wire::{Packet, datagram};

const SERVER_PORT: u16 = 67;
const CLIENT_PORT: u16 = 68;
const REQUEST: u8 = 1;
const REPLY: u8 = 2;
/// Ethernet, with addresses of 6 bytes.
const HARDWARE: [u8; 2] = [1, 6];
const COOKIE: [u8; 4] = [0x63, 0x82, 0x53, 0x63];
/// Fixed fields, before the cookie.
const FIXED: usize = 236;
/// Clients may expect messages as long as those of BOOTP (RFC 1542, 2.1).
const SHORTEST: usize = 300;
/// Nobody else wants the address; a day keeps renewals rare.
const LEASE_SECONDS: u32 = 86_400;
/// Options of one message. There are 254 kinds.
const MAX_OPTIONS: usize = 64;

const DISCOVER: u8 = 1;
const OFFER: u8 = 2;
const ASK: u8 = 3;
const ACK: u8 = 5;
const NAK: u8 = 6;
const INFORM: u8 = 8;

const SUBNET_MASK: u8 = 1;
const ROUTER: u8 = 3;
const RESOLVER: u8 = 6;
const MTU: u8 = 26;
const REQUESTED_ADDRESS: u8 = 50;
const LEASE_TIME: u8 = 51;
const MESSAGE_TYPE: u8 = 53;
const SERVER: u8 = 54;
const PAD: u8 = 0;
const END: u8 = 255;

/// What a client said, as far as it matters here.
struct Message<'a> {
    kind: u8,
    transaction: &'a [u8],
    flags: &'a [u8],
    client: Ipv4Addr,
    requested: Option<Ipv4Addr>,
    server: Option<Ipv4Addr>,
}

/// The answer to a client on the guest's card.
pub(super) fn answer(packet: &Packet<'_>, addresses: &Addresses, mtu: u16) -> Option<Vec<u8>> {
    let (IpAddr::V4(source), IpAddr::V4(destination)) = (packet.source, packet.destination) else { return None };
    let comes_from_client = source.is_unspecified() || source == addresses.guest_v4;
    if !comes_from_client || !(destination.is_broadcast() || destination == addresses.gateway_v4) {
        return None;
    }
    let message = Message::parse(packet.payload, addresses)?;
    let (own, gateway) = (addresses.guest_v4, addresses.gateway_v4);
    let for_us = message.server.is_none_or(|server| server == gateway);
    let wanted = message.requested.or((!message.client.is_unspecified()).then_some(message.client));
    let kind = match message.kind {
        DISCOVER => OFFER,
        ASK if for_us && wanted.is_none_or(|wanted| wanted == own) => ACK,
        ASK if for_us => NAK,
        INFORM if message.client == own => ACK,
        // What was declined or released is had by the same card again.
        _ => return None,
    };
    let is_broadcast = message.flags.first().is_some_and(|first| first & 0x80 != 0);
    let receiver = match message.client {
        _ if kind == NAK => Ipv4Addr::BROADCAST,
        client if client == own => own,
        _ if is_broadcast => Ipv4Addr::BROADCAST,
        _ => own,
    };
    let reply = message.reply(kind, addresses, mtu);
    Some(datagram((gateway, SERVER_PORT).into(), (receiver, CLIENT_PORT).into(), &reply))
}

impl<'a> Message<'a> {
    fn parse(datagram: &'a [u8], addresses: &Addresses) -> Option<Self> {
        let (&[from0, from1, to0, to1, ..], content) = datagram.split_first_chunk::<8>()?;
        let ports = [u16::from_be_bytes([from0, from1]), u16::from_be_bytes([to0, to1])];
        let (fixed, rest) = content.split_first_chunk::<FIXED>()?;
        let (cookie, options) = rest.split_first_chunk::<4>()?;
        let is_for_card = fixed[0] == REQUEST && fixed[1..3] == HARDWARE && fixed[28..34] == addresses.guest_mac;
        if ports != [CLIENT_PORT, SERVER_PORT] || *cookie != COOKIE || !is_for_card {
            return None;
        }
        let address = |bytes: &[u8]| <[u8; 4]>::try_from(bytes).ok().map(Ipv4Addr::from);
        let mut message = Self {
            kind: 0,
            transaction: &fixed[4..8],
            flags: &fixed[10..12],
            client: address(&fixed[12..16])?,
            requested: None,
            server: None,
        };
        for (option, value) in Options(options).take(MAX_OPTIONS) {
            match option {
                MESSAGE_TYPE => message.kind = *value.first()?,
                REQUESTED_ADDRESS => message.requested = Some(address(value)?),
                SERVER => message.server = Some(address(value)?),
                _ => {}
            }
        }
        Some(message)
    }

    fn reply(&self, kind: u8, addresses: &Addresses, mtu: u16) -> Vec<u8> {
        let (own, gateway) = (addresses.guest_v4, addresses.gateway_v4);
        let is_told = kind != NAK;
        let is_leased = is_told && self.kind != INFORM;
        let mut reply = Vec::with_capacity(SHORTEST);
        reply.extend_from_slice(&[REPLY, HARDWARE[0], HARDWARE[1], 0]);
        reply.extend_from_slice(self.transaction);
        reply.extend_from_slice(&[0, 0]);
        reply.extend_from_slice(self.flags);
        reply.extend_from_slice(&if is_told { self.client.octets() } else { [0; 4] });
        reply.extend_from_slice(&if is_leased { own.octets() } else { [0; 4] });
        reply.extend_from_slice(&[0; 8]);
        reply.extend_from_slice(&addresses.guest_mac);
        reply.resize(FIXED, 0);
        reply.extend_from_slice(&COOKIE);
        let mut option = |kind: u8, value: &[u8]| {
            reply.extend_from_slice(&[kind, u8::try_from(value.len()).unwrap_or(0)]);
            reply.extend_from_slice(value);
        };
        option(MESSAGE_TYPE, &[kind]);
        option(SERVER, &gateway.octets());
        if is_leased {
            option(LEASE_TIME, &LEASE_SECONDS.to_be_bytes());
        }
        if is_told {
            let mask = u32::MAX.checked_shl(32 - u32::from(addresses.prefix_v4)).unwrap_or(0);
            option(SUBNET_MASK, &mask.to_be_bytes());
            option(ROUTER, &gateway.octets());
            option(RESOLVER, &gateway.octets());
            option(MTU, &mtu.to_be_bytes());
        }
        reply.push(END);
        reply.resize(reply.len().max(SHORTEST), 0);
        reply
    }
}

/// Options up to the end or to the first that does not fit.
struct Options<'a>(&'a [u8]);

impl<'a> Iterator for Options<'a> {
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match *self.0 {
                [PAD, ref rest @ ..] => self.0 = rest,
                [END, ..] | [] | [_] => return None,
                [kind, len, ref rest @ ..] => {
                    let (value, rest) = rest.split_at_checked(len.into())?;
                    self.0 = rest;
                    return Some((kind, value));
                }
            }
        }
    }
}

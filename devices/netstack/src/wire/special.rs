//! Packets with IPv4 options, IPv6 extension headers or fragmentation, made plain: what does no harm is taken off, so
//! that nothing behind this module has to know it; what steers a packet past its destination address is refused.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::ip::{Unusable, write_ip};
use super::{checksum, header_len};

const IPV4: usize = 20;
const IPV6: usize = 40;
/// Extension headers of one packet. Nobody sends more than two or three.
const MAX_HEADERS: usize = 8;

// IPv4 options (RFC 791, 3.1; RFC 2113).
const END: u8 = 0;
const NO_OPERATION: u8 = 1;
const RECORD_ROUTE: u8 = 7;
const TIMESTAMP: u8 = 68;
const ROUTER_ALERT: u8 = 148;
// IPv6 extension headers (RFC 8200, 4).
const HOP_BY_HOP: u8 = 0;
const FRAGMENT: u8 = 44;
const DESTINATION_OPTIONS: u8 = 60;
const PAD_1: u8 = 0;
/// Bits of an IPv6 option's type that say what to do when it is not known; 0 is to skip it.
const UNKNOWN_ACTION: u8 = 0xc0;
const IPV6_ROUTER_ALERT: u8 = 5;

/// What a special packet really is.
#[derive(Debug)]
pub(crate) enum Special<'a> {
    /// A whole packet, now without anything special.
    Whole(Vec<u8>),
    /// A piece of one.
    Piece(Piece<'a>),
}

/// What the pieces of one packet have in common (RFC 791, 3.2; RFC 8200, 4.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct PieceKey {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    /// IPv4 only: in IPv6 the first piece decides.
    protocol: Option<u8>,
    identification: u32,
}

/// A fragment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Piece<'a> {
    pub(crate) key: PieceKey,
    pub(crate) protocol: u8,
    pub(crate) offset: usize,
    pub(crate) more: bool,
    pub(crate) payload: &'a [u8],
}

/// Reads a packet that `parse_ip` found to be special.
pub(crate) fn parse_special(bytes: &[u8]) -> Result<Special<'_>, Unusable> {
    match bytes.first().map(|first| first >> 4) {
        Some(4) => parse_v4(bytes),
        Some(6) => parse_v6(bytes),
        _ => Err(Unusable::Malformed),
    }
}

/// A packet without anything special.
pub(crate) fn plain(source: IpAddr, destination: IpAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0; header_len(source) + payload.len()];
    let body = write_ip(&mut packet, source, destination, protocol);
    if body.len() == payload.len() {
        body.copy_from_slice(payload);
    }
    packet
}

fn parse_v4(bytes: &[u8]) -> Result<Special<'_>, Unusable> {
    let (fixed, _) = bytes.split_first_chunk::<IPV4>().ok_or(Unusable::Malformed)?;
    let [first, _, len0, len1, id0, id1, frag0, frag1, ttl, protocol, _, _, addresses @ ..] = *fixed;
    let header_len = usize::from(first & 0x0f) * 4;
    let bytes = bytes.get(..u16::from_be_bytes([len0, len1]).into()).ok_or(Unusable::Malformed)?;
    let (header, payload) = bytes.split_at_checked(header_len).ok_or(Unusable::Malformed)?;
    let options = header.get(IPV4..).ok_or(Unusable::Malformed)?;
    if checksum::internet(header) != 0 {
        return Err(Unusable::Checksum);
    }
    if ttl == 0 {
        return Err(Unusable::HopLimit);
    }
    check_v4_options(options)?;
    let [s0, s1, s2, s3, d0, d1, d2, d3] = addresses;
    let (source, destination) = (Ipv4Addr::new(s0, s1, s2, s3).into(), Ipv4Addr::new(d0, d1, d2, d3).into());
    let position = u16::from_be_bytes([frag0, frag1]);
    let (offset, more) = (usize::from(position & 0x1fff) * 8, position & 0x2000 != 0);
    if offset == 0 && !more {
        return Ok(Special::Whole(plain(source, destination, protocol, payload)));
    }
    let identification = u16::from_be_bytes([id0, id1]).into();
    let key = PieceKey { source, destination, protocol: Some(protocol), identification };
    Ok(Special::Piece(Piece { key, protocol, offset, more, payload }))
}

fn check_v4_options(mut options: &[u8]) -> Result<(), Unusable> {
    loop {
        options = match *options {
            [] | [END, ..] => return Ok(()),
            [NO_OPERATION, ref rest @ ..] => rest,
            [RECORD_ROUTE | TIMESTAMP | ROUTER_ALERT, len, ..] if len >= 2 => {
                options.get(len.into()..).ok_or(Unusable::Malformed)?
            }
            // Above all: source routes, loose and strict.
            _ => return Err(Unusable::Options),
        };
    }
}

fn parse_v6(bytes: &[u8]) -> Result<Special<'_>, Unusable> {
    let (header, rest) = bytes.split_first_chunk::<IPV6>().ok_or(Unusable::Malformed)?;
    let [_, _, _, _, len0, len1, mut protocol, hop_limit, addresses @ ..] = *header;
    // A jumbogram's length is 0; so is that of a packet without content.
    let mut payload = rest.get(..u16::from_be_bytes([len0, len1]).into()).ok_or(Unusable::Malformed)?;
    if hop_limit == 0 {
        return Err(Unusable::HopLimit);
    }
    let (source, destination) = addresses.split_at(16);
    let address = |half: &[u8]| <[u8; 16]>::try_from(half).map(Ipv6Addr::from).map_err(|_| Unusable::Malformed);
    let (source, destination) = (address(source)?.into(), address(destination)?.into());
    for position in 0..MAX_HEADERS {
        match protocol {
            HOP_BY_HOP if position > 0 => return Err(Unusable::Options),
            HOP_BY_HOP | DESTINATION_OPTIONS => {
                let (&[next, len, ..], _) = payload.split_first_chunk::<8>().ok_or(Unusable::Malformed)?;
                let (options, rest) =
                    payload.split_at_checked((usize::from(len) + 1) * 8).ok_or(Unusable::Malformed)?;
                check_v6_options(options.get(2..).unwrap_or_default())?;
                (protocol, payload) = (next, rest);
            }
            FRAGMENT => {
                let (&[next, _, at0, at1, id @ ..], rest) =
                    payload.split_first_chunk::<8>().ok_or(Unusable::Malformed)?;
                let at = u16::from_be_bytes([at0, at1]);
                let (offset, more) = (usize::from(at & 0xfff8), at & 1 != 0);
                if offset == 0 && !more {
                    // An atomic fragment has nothing to do with others of its number (RFC 6946, 4).
                    (protocol, payload) = (next, rest);
                    continue;
                }
                let key = PieceKey { source, destination, protocol: None, identification: u32::from_be_bytes(id) };
                return Ok(Special::Piece(Piece { key, protocol: next, offset, more, payload: rest }));
            }
            // Routing, authentication, mobility, HIP, shim6: routing headers of whatever type steer a packet on.
            43 | 51 | 135 | 139 | 140 => return Err(Unusable::Options),
            _ => return Ok(Special::Whole(plain(source, destination, protocol, payload))),
        }
    }
    Err(Unusable::Options)
}

fn check_v6_options(mut options: &[u8]) -> Result<(), Unusable> {
    loop {
        options = match *options {
            [] => return Ok(()),
            [PAD_1, ref rest @ ..] => rest,
            [kind, len, ref rest @ ..] if kind & UNKNOWN_ACTION == 0 || kind == IPV6_ROUTER_ALERT => {
                rest.get(len.into()..).ok_or(Unusable::Malformed)?
            }
            // Jumbograms, home addresses, and what says of itself that it must not be skipped.
            _ => return Err(Unusable::Options),
        };
    }
}

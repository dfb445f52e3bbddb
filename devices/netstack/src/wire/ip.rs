//! IPv4 and IPv6 packets.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::checksum;

const IPV4: usize = 20;
const IPV6: usize = 40;
/// Hop limit of packets that the gateway makes.
const HOP_LIMIT: u8 = 64;
/// IPv4: more fragments, and the offset of this one.
const FRAGMENT: u16 = 0x3fff;
const DONT_FRAGMENT: u16 = 0x4000;

/// An IP packet without options, extension headers or fragmentation.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Packet<'a> {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) protocol: u8,
    /// What follows the IP header.
    pub(crate) payload: &'a [u8],
    /// The whole packet, without padding behind it.
    pub(crate) bytes: &'a [u8],
}

impl Packet<'_> {
    /// Whether it never crossed a router (RFC 4861, 7.1); IPv6 only.
    pub(crate) fn is_from_link(&self) -> bool {
        self.bytes.get(7) == Some(&u8::MAX)
    }
}

/// Why a packet goes no further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unusable {
    Malformed,
    Checksum,
    HopLimit,
    Source,
    /// Options, extension headers or fragmentation: for `parse_special`.
    Special,
    Fragment,
    Overlap,
    Options,
}

impl Unusable {
    /// The reason in words that never change.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::Malformed => "malformed IP header",
            Self::Checksum => "wrong checksum",
            Self::Source => "foreign source address",
            Self::HopLimit => "hop limit is used up",
            Self::Special | Self::Options => "IP options or extension headers",
            Self::Fragment => "impossible fragment",
            Self::Overlap => "overlapping fragments",
        }
    }
}

/// Reads a packet; `verified` says that somebody vouches for its transport checksum.
pub(crate) fn parse_ip(bytes: &[u8], verified: bool) -> Result<Packet<'_>, Unusable> {
    let packet = match bytes.first().map(|first| first >> 4) {
        Some(4) => parse_ipv4(bytes),
        Some(6) => parse_ipv6(bytes),
        _ => Err(Unusable::Malformed),
    }?;
    if !verified {
        let transport = checksum::transport(packet.bytes).ok_or(Unusable::Malformed)?;
        if !checksum::is_right(packet.bytes, &transport) {
            return Err(Unusable::Checksum);
        }
    }
    Ok(packet)
}

fn parse_ipv4(bytes: &[u8]) -> Result<Packet<'_>, Unusable> {
    let (header, _) = bytes.split_first_chunk::<IPV4>().ok_or(Unusable::Malformed)?;
    let [first, _, len0, len1, _, _, frag0, frag1, ttl, protocol, _, _, addresses @ ..] = *header;
    let header_len = usize::from(first & 0x0f) * 4;
    let total = usize::from(u16::from_be_bytes([len0, len1]));
    let bytes = bytes.get(..total).ok_or(Unusable::Malformed)?;
    let payload = bytes.get(IPV4..).ok_or(Unusable::Malformed)?;
    if header_len < IPV4 || header_len > total {
        return Err(Unusable::Malformed);
    }
    if header_len != IPV4 {
        return Err(Unusable::Special);
    }
    if checksum::internet(header) != 0 {
        return Err(Unusable::Checksum);
    }
    if u16::from_be_bytes([frag0, frag1]) & FRAGMENT != 0 {
        return Err(Unusable::Special);
    }
    if ttl == 0 {
        return Err(Unusable::HopLimit);
    }
    let [s0, s1, s2, s3, d0, d1, d2, d3] = addresses;
    Ok(Packet {
        source: Ipv4Addr::new(s0, s1, s2, s3).into(),
        destination: Ipv4Addr::new(d0, d1, d2, d3).into(),
        protocol,
        payload,
        bytes,
    })
}

fn parse_ipv6(bytes: &[u8]) -> Result<Packet<'_>, Unusable> {
    let (header, rest) = bytes.split_first_chunk::<IPV6>().ok_or(Unusable::Malformed)?;
    let [_, _, _, _, len0, len1, protocol, hop_limit, addresses @ ..] = *header;
    let len = usize::from(u16::from_be_bytes([len0, len1]));
    let payload = rest.get(..len).ok_or(Unusable::Malformed)?;
    let bytes = bytes.get(..IPV6 + len).ok_or(Unusable::Malformed)?;
    match protocol {
        // Hop-by-hop, routing, fragment, authentication, destination options, mobility, HIP, shim6.
        0 | 43 | 44 | 51 | 60 | 135 | 139 | 140 => return Err(Unusable::Special),
        _ => {}
    }
    if hop_limit == 0 {
        return Err(Unusable::HopLimit);
    }
    let (source, destination) = addresses.split_at(16);
    let address = |half: &[u8]| <[u8; 16]>::try_from(half).map(Ipv6Addr::from).map_err(|_| Unusable::Malformed);
    Ok(Packet { source: address(source)?.into(), destination: address(destination)?.into(), protocol, payload, bytes })
}

/// Writes the IP header of a packet of `packet.len()` bytes; gives the room for what follows. Addresses must be of one
/// family.
pub(crate) fn write_ip(packet: &mut [u8], source: IpAddr, destination: IpAddr, protocol: u8) -> &mut [u8] {
    let len = packet.len();
    write_ip_head(packet, len, source, destination, protocol)
}

/// Likewise for a packet of `len` bytes of which only the beginning is here.
pub(crate) fn write_ip_head(
    packet: &mut [u8],
    len: usize,
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
) -> &mut [u8] {
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let [len0, len1] = u16::try_from(len).unwrap_or(0).to_be_bytes();
            let [frag0, frag1] = DONT_FRAGMENT.to_be_bytes();
            let [s0, s1, s2, s3] = source.octets();
            let [d0, d1, d2, d3] = destination.octets();
            let mut header =
                [0x45, 0, len0, len1, 0, 0, frag0, frag1, HOP_LIMIT, protocol, 0, 0, s0, s1, s2, s3, d0, d1, d2, d3];
            let [sum0, sum1] = checksum::internet(&header).to_be_bytes();
            (header[10], header[11]) = (sum0, sum1);
            place(packet, &header)
        }
        _ => {
            let len = u16::try_from(len.saturating_sub(IPV6)).unwrap_or(0).to_be_bytes();
            let mut header = [0; IPV6];
            header[0] = 0x60;
            header[4..6].copy_from_slice(&len);
            (header[6], header[7]) = (protocol, HOP_LIMIT);
            header[8..24].copy_from_slice(&octets(source));
            header[24..].copy_from_slice(&octets(destination));
            place(packet, &header)
        }
    }
}

fn place<'a>(packet: &'a mut [u8], header: &[u8]) -> &'a mut [u8] {
    match packet.split_at_mut_checked(header.len()) {
        Some((space, rest)) => {
            space.copy_from_slice(header);
            rest
        }
        None => &mut [],
    }
}

fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// Length of the header that [`write_ip`] writes.
pub(crate) fn header_len(address: IpAddr) -> usize {
    if address.is_ipv4() { IPV4 } else { IPV6 }
}

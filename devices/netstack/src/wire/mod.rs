//! Packets, read and written. Everything read here comes from the guest.

mod arp;
pub(crate) mod checksum;
mod fragment;
mod icmp;
mod ip;
mod special;
mod udp;

pub(crate) use arp::answer_arp;
pub(crate) use fragment::fragments;
pub(crate) use icmp::{Echo, Unreachable, answer_echo, finish_discovery, unreachable};
pub(crate) use ip::{Packet, Unusable, header_len, parse_ip, write_ip, write_ip_head};
pub(crate) use special::{Piece, PieceKey, Special, parse_special, plain};
pub(crate) use udp::{UDP_HEADER, datagram, write_datagram};

/// Length of an Ethernet header.
pub(crate) const ETHERNET: usize = 14;
pub(crate) const ETHERTYPE_IPV4: u16 = 0x0800;
pub(crate) const ETHERTYPE_ARP: u16 = 0x0806;
pub(crate) const ETHERTYPE_IPV6: u16 = 0x86dd;

pub(crate) const ICMP: u8 = 1;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const ICMPV6: u8 = 58;

/// An Ethernet frame.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Frame<'a> {
    pub(crate) destination: [u8; 6],
    pub(crate) source: [u8; 6],
    pub(crate) ethertype: u16,
    pub(crate) payload: &'a [u8],
}

/// Reads the Ethernet header.
pub(crate) fn parse_ethernet(frame: &[u8]) -> Option<Frame<'_>> {
    let (&destination, rest) = frame.split_first_chunk::<6>()?;
    let (&source, rest) = rest.split_first_chunk::<6>()?;
    let (&ethertype, payload) = rest.split_first_chunk::<2>()?;
    Some(Frame { destination, source, ethertype: u16::from_be_bytes(ethertype), payload })
}

#[cfg(test)]
mod tests;

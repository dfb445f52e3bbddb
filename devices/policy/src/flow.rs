//! What is being judged.

use std::net::IpAddr;

use crate::Name;

/// Transport protocol of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP, QUIC included.
    Udp,
    /// ICMP and ICMPv6 echo.
    Icmp,
}

/// Who opens a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// The guest.
    Egress,
    /// A client of a published port.
    Ingress,
}

/// Where an egress flow leads, or where an ingress flow comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target<'a> {
    /// The gateway's own address, which stands for the host's loopback.
    Host,
    /// Any other address.
    Address {
        /// The address as the guest wrote it.
        address: IpAddr,
        /// The names for which the gateway's own resolver answered with this address and still vouches; never a name
        /// that the guest merely claims.
        names: &'a [Name],
    },
}

/// A connection or a stream of datagrams that wants to exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow<'a> {
    /// Transport protocol.
    pub protocol: Protocol,
    /// Who opens it.
    pub direction: Direction,
    /// The other end.
    pub target: Target<'a>,
    /// Destination port; 0 for ICMP.
    pub port: u16,
}

impl<'a> Flow<'a> {
    /// A flow from the guest to `address`.
    pub fn egress(protocol: Protocol, address: IpAddr, names: &'a [Name], port: u16) -> Self {
        Self { protocol, direction: Direction::Egress, target: Target::Address { address, names }, port }
    }

    /// A flow from the guest to the host's loopback, by way of the gateway's address.
    pub fn to_host(protocol: Protocol, port: u16) -> Self {
        Self { protocol, direction: Direction::Egress, target: Target::Host, port }
    }
}

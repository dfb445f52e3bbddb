//! The one classifier of addresses.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::embedding::meanings;

/// What kind of network an address belongs to, ordered from harmless to what nothing opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// The public internet.
    Public,
    /// Documentation examples (192.0.2.0/24 and its like).
    Documentation,
    /// Benchmarks between devices (198.18.0.0/15, 2001:2::/48).
    Benchmark,
    /// Carrier-grade NAT and overlay networks (100.64.0.0/10).
    CarrierNat,
    /// Private networks (10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16, fc00::/7).
    Private,
    /// Set aside by the IETF and not usable as a destination.
    Reserved,
    /// Multicast.
    Multicast,
    /// The limited broadcast address.
    Broadcast,
    /// Link-local addresses.
    LinkLocal,
    /// A cloud's metadata service, from which a guest could draw the host's credentials.
    Metadata,
    /// The unspecified address and 0.0.0.0/8, which many systems take for themselves.
    Unspecified,
    /// Loopback.
    Loopback,
}

/// Metadata services; 169.254.0.0/16 is denied as link-local anyway, and named here so that the log says what it was.
const METADATA_V4: [Ipv4Addr; 11] = [
    Ipv4Addr::new(169, 254, 169, 254), // AWS, Google, Azure, Oracle, DigitalOcean, Hetzner, OpenStack, ...
    Ipv4Addr::new(169, 254, 169, 253), // AWS resolver
    Ipv4Addr::new(169, 254, 169, 123), // AWS time
    Ipv4Addr::new(169, 254, 170, 2),   // AWS container credentials
    Ipv4Addr::new(169, 254, 170, 23),  // AWS pod identity
    Ipv4Addr::new(169, 254, 0, 23),    // Tencent
    Ipv4Addr::new(169, 254, 42, 42),   // Scaleway
    Ipv4Addr::new(100, 100, 100, 200), // Alibaba
    Ipv4Addr::new(100, 96, 0, 96),     // Volcengine
    Ipv4Addr::new(168, 63, 129, 16),   // Azure's wire server, in public space
    Ipv4Addr::new(192, 0, 0, 192),     // Oracle
];

impl Class {
    /// The class of `address`: the gravest among the address and everything it embeds.
    pub fn of(address: IpAddr) -> Self {
        meanings(address).map(Self::of_one).max().unwrap_or(Self::Reserved)
    }

    fn of_one(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => Self::of_v4(v4),
            IpAddr::V6(v6) => Self::of_v6(v6),
        }
    }

    fn of_v4(address: Ipv4Addr) -> Self {
        if METADATA_V4.contains(&address) {
            return Self::Metadata;
        }
        match address.octets() {
            [0, ..] => Self::Unspecified,
            [127, ..] => Self::Loopback,
            [10, ..] | [172, 16..=31, ..] | [192, 168, ..] => Self::Private,
            [100, 64..=127, ..] => Self::CarrierNat,
            [169, 254, ..] => Self::LinkLocal,
            [192, 0, 2, _] | [198, 51, 100, _] | [203, 0, 113, _] => Self::Documentation,
            [198, 18 | 19, ..] => Self::Benchmark,
            // Protocol assignments and the retired 6to4 relays.
            [192, 0, 0, _] | [192, 88, 99, _] => Self::Reserved,
            [224..=239, ..] => Self::Multicast,
            [255, 255, 255, 255] => Self::Broadcast,
            [240..=255, ..] => Self::Reserved,
            _ => Self::Public,
        }
    }

    /// The class of the address alone; what it embeds is judged separately.
    fn of_v6(address: Ipv6Addr) -> Self {
        match address.segments() {
            [0, 0, 0, 0, 0, 0, 0, 0] => Self::Unspecified,
            [0, 0, 0, 0, 0, 0, 0, 1] => Self::Loopback,
            // Amazon, Google, Scaleway, OpenStack, Akamai.
            [0xfd00, 0xec2, ..] | [0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254] => Self::Metadata,
            [0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42] | [0xfe80, 0, 0, 0, 0, 0, 0xa9fe, 0xa9fe] => Self::Metadata,
            [0xfd00, 0xa9fe, 0xa9fe, ..] => Self::Metadata,
            // Forms that stand for IPv4: as public as what they embed.
            [0, 0, 0, 0, 0, 0 | 0xffff, ..] | [0, 0, 0, 0, 0xffff, 0, ..] | [0x64, 0xff9b, 0, 0, 0, 0, ..] => {
                Self::Public
            }
            [0x64, 0xff9b, 1, ..] => Self::Private,
            [0xfe80..=0xfebf, ..] => Self::LinkLocal,
            [0xfc00..=0xfdff, ..] => Self::Private,
            [0xff00..=0xffff, ..] => Self::Multicast,
            [0x2001, 0xdb8, ..] | [0x3fff, 0..=0x0fff, ..] => Self::Documentation,
            [0x2001, 2, 0, ..] => Self::Benchmark,
            // Teredo is judged by what it embeds; the rest of 2001::/23 are protocol assignments.
            [0x2001, 0, ..] => Self::Public,
            [0x2001, 1..=0x1ff, ..] => Self::Reserved,
            [0x2000..=0x3fff, ..] => Self::Public,
            // Site-local, discard-only, segment routing and everything nobody handed out yet.
            _ => Self::Reserved,
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Public => "public",
            Self::Documentation => "documentation",
            Self::Benchmark => "benchmark",
            Self::CarrierNat => "carrier-nat",
            Self::Private => "private",
            Self::Reserved => "reserved",
            Self::Multicast => "multicast",
            Self::Broadcast => "broadcast",
            Self::LinkLocal => "link-local",
            Self::Metadata => "metadata",
            Self::Unspecified => "unspecified",
            Self::Loopback => "loopback",
        })
    }
}

#[cfg(test)]
pub(crate) mod tests;

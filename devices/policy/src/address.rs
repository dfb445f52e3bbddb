//! Address ranges, and the host's own addresses.

use std::fmt;
use std::net::IpAddr;

use crate::Class;
use crate::embedding::meanings;

/// A range of addresses by prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cidr {
    network: IpAddr,
    prefix: u8,
}

impl Cidr {
    /// The range of `prefix` bits around `address`, or `None` when the address has fewer bits.
    pub fn new(address: IpAddr, prefix: u8) -> Option<Self> {
        (prefix <= width(address)).then(|| Self { network: mask(address, prefix), prefix })
    }

    /// The range that holds only `address`.
    pub fn single(address: IpAddr) -> Self {
        Self { network: address, prefix: width(address) }
    }

    /// The first address of the range.
    pub fn network(&self) -> IpAddr {
        self.network
    }

    /// Whether `address`, as written, lies in the range.
    pub fn contains(&self, address: IpAddr) -> bool {
        width(address) == width(self.network) && mask(address, self.prefix) == self.network
    }

    /// Whether the range is one address.
    pub fn is_single(&self) -> bool {
        self.prefix == width(self.network)
    }

    /// The class that both ends of the range share: a range that merely spans a special one shares none with it.
    pub(crate) fn class(&self) -> Option<Class> {
        let class = Class::of(self.network);
        (Class::of(last(self.network, self.prefix)) == class).then_some(class)
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_single() { write!(f, "{}", self.network) } else { write!(f, "{}/{}", self.network, self.prefix) }
    }
}

fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn mask(address: IpAddr, prefix: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let bits = u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0);
            IpAddr::V4((u32::from(v4) & bits).into())
        }
        IpAddr::V6(v6) => {
            let bits = u128::MAX.checked_shl(128 - u32::from(prefix.min(128))).unwrap_or(0);
            IpAddr::V6((u128::from(v6) & bits).into())
        }
    }
}

fn last(network: IpAddr, prefix: u8) -> IpAddr {
    match network {
        IpAddr::V4(v4) => IpAddr::V4((u32::from(v4) | u32::MAX.checked_shr(u32::from(prefix)).unwrap_or(0)).into()),
        IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) | u128::MAX.checked_shr(u32::from(prefix)).unwrap_or(0)).into()),
    }
}

/// The addresses at which the host itself answers. They change with its networks; whoever watches those passes a new
/// list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostAddresses {
    ranges: Vec<Cidr>,
}

impl HostAddresses {
    /// The host answers at every address of `ranges`.
    pub fn new(ranges: Vec<Cidr>) -> Self {
        Self { ranges }
    }

    /// Whether `address`, or an address that it embeds, is one of the host's.
    pub fn contains(&self, address: IpAddr) -> bool {
        meanings(address).any(|meaning| self.ranges.iter().any(|range| range.contains(meaning)))
    }
}

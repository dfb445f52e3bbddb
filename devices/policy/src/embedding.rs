//! Which IPv4 addresses an IPv6 address stands for.
//!
//! A translator or a tunnel on the way may turn any of these forms into plain IPv4, so each is judged by what it
//! embeds. Forms: IPv4-compatible and -mapped (RFC 4291), IPv4-translated (RFC 2765), NAT64 with the well-known and the
//! local-use prefix (RFC 6052, RFC 8215), 6to4 (RFC 3056), Teredo (RFC 4380) and ISATAP (RFC 5214).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Every address that `address` may end up as, itself first.
pub(crate) fn meanings(address: IpAddr) -> impl Iterator<Item = IpAddr> {
    let embedded = match address {
        IpAddr::V4(_) => [None; 4],
        IpAddr::V6(v6) => embedded(v6),
    };
    std::iter::once(address).chain(embedded.into_iter().flatten().map(IpAddr::V4))
}

/// The same destination in its plainest form: `::ffff:a.b.c.d` is IPv4 to every socket.
pub(crate) fn canonical(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

fn embedded(address: Ipv6Addr) -> [Option<Ipv4Addr>; 4] {
    let [_, _, b2, b3, b4, b5, b6, b7, _, b9, b10, b11, b12, b13, b14, b15] = address.octets();
    let last = Some(Ipv4Addr::new(b12, b13, b14, b15));
    match address.segments() {
        // The unspecified and the loopback address are themselves, not 0.0.0.0 and 0.0.0.1.
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => [None; 4],
        // Compatible ::a.b.c.d, mapped ::ffff:a.b.c.d, translated ::ffff:0:a.b.c.d.
        [0, 0, 0, 0, 0, 0 | 0xffff, _, _] | [0, 0, 0, 0, 0xffff, 0, _, _] => [last, None, None, None],
        [0x64, 0xff9b, 0, 0, 0, 0, _, _] => [last, None, None, None],
        // Local-use NAT64: the operator chooses a prefix of 48, 56, 64 or 96 bits, and each puts IPv4 elsewhere.
        [0x64, 0xff9b, 1, ..] => [
            Some(Ipv4Addr::new(b6, b7, b9, b10)),
            Some(Ipv4Addr::new(b7, b9, b10, b11)),
            Some(Ipv4Addr::new(b9, b10, b11, b12)),
            last,
        ],
        [0x2002, ..] => [Some(Ipv4Addr::new(b2, b3, b4, b5)), isatap(address), None, None],
        // Teredo: the server in the clear, the client inverted.
        [0x2001, 0, ..] => {
            [Some(Ipv4Addr::new(b4, b5, b6, b7)), Some(Ipv4Addr::new(!b12, !b13, !b14, !b15)), isatap(address), None]
        }
        // A NAT64 prefix of the network's own (RFC 6052, 2.2) cannot be told from any other address.
        _ => [isatap(address), None, None, None],
    }
}

fn isatap(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let [_, _, _, _, u, marker, high, low] = address.segments();
    let [a, b] = high.to_be_bytes();
    let [c, d] = low.to_be_bytes();
    // The universal/local bit says whether the IPv4 address is globally unique (RFC 5214, 6.1).
    (u & !0x0200 == 0 && marker == 0x5efe).then(|| Ipv4Addr::new(a, b, c, d))
}

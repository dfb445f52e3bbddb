//! Names that mean something on the host or its network and nothing on the internet: the gateway answers for them.
//!
//! A resolver of the host may know them from `/etc/hosts`, from the local network or by asking around with multicast,
//! and none of that is the guest's business (RFC 6303, 6761, 6762, 8375).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use policy::Name;

/// Names of this machine and its neighbours.
const LOCAL: [&str; 7] = ["localhost", "localdomain", "local", "home.arpa", "invalid", "_gateway", "_outbound"];

/// Whether `name` is or lies below a name that is only known nearby.
pub(super) fn is_local(name: &Name) -> bool {
    let text = name.as_str();
    LOCAL.iter().any(|local| text.strip_suffix(local).is_some_and(|rest| rest.is_empty() || rest.ends_with('.')))
}

/// Whether `name` is a single label, which networks complete in their own ways.
pub(super) fn is_bare(name: &Name) -> bool {
    !name.as_str().contains('.')
}

/// The address whose name is asked for, where `name` is a whole reverse name (RFC 1035, 3.5; RFC 3596, 2.5).
pub(super) fn reversed(name: &Name) -> Option<IpAddr> {
    if let Some(labels) = name.as_str().strip_suffix(".in-addr.arpa") {
        let octets: Option<Vec<u8>> = labels.rsplit('.').map(|label| label.parse().ok()).collect();
        return <[u8; 4]>::try_from(octets?).ok().map(|octets| Ipv4Addr::from(octets).into());
    }
    let nibbles = name.as_str().strip_suffix(".ip6.arpa")?.rsplit('.');
    let mut bits = 0u128;
    let mut count = 0;
    for nibble in nibbles {
        bits = bits.checked_shl(4)? | u128::from(u8::from_str_radix(nibble, 16).ok().filter(|_| nibble.len() == 1)?);
        count += 1;
    }
    (count == 32).then(|| Ipv6Addr::from(bits).into())
}

/// Whether `name` is any reverse name, whole or not.
pub(super) fn is_reverse(name: &Name) -> bool {
    ["in-addr.arpa", "ip6.arpa"]
        .iter()
        .any(|zone| name.as_str().strip_suffix(zone).is_some_and(|rest| rest.is_empty() || rest.ends_with('.')))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    #[test]
    fn local_names_are_told_from_others() {
        for text in ["localhost", "a.localhost", "printer.local", "nas.home.arpa", "_gateway"] {
            assert!(is_local(&name(text)), "{text}");
        }
        for text in ["notlocalhost", "local.example.com", "mylocal", "arpa"] {
            assert!(!is_local(&name(text)), "{text}");
        }
        assert!(is_bare(&name("wpad")) && !is_bare(&name("wpad.example.com")));
    }

    #[test]
    fn reverse_names_are_read() {
        assert_eq!(reversed(&name("4.3.2.1.in-addr.arpa")), Some("1.2.3.4".parse().unwrap()));
        let v6 = format!("1.{}8.b.d.0.1.0.0.2.ip6.arpa", "0.".repeat(23));
        assert_eq!(reversed(&name(&v6)), Some("2001:db8::1".parse().unwrap()));
        for text in ["3.2.1.in-addr.arpa", "256.3.2.1.in-addr.arpa", "g.ip6.arpa", "1.ip6.arpa", "a.test"] {
            assert_eq!(reversed(&name(text)), None, "{text}");
        }
        assert!(is_reverse(&name("3.2.1.in-addr.arpa")) && is_reverse(&name("ip6.arpa")));
    }
}

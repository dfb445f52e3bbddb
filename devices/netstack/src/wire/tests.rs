use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::*;
use crate::Addresses;

fn addresses() -> impl Strategy<Value = (IpAddr, IpAddr)> {
    prop_oneof![
        any::<(u32, u32)>().prop_map(|(a, b)| (Ipv4Addr::from(a).into(), Ipv4Addr::from(b).into())),
        any::<(u128, u128)>().prop_map(|(a, b)| (Ipv6Addr::from(a).into(), Ipv6Addr::from(b).into())),
    ]
}

fn body() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any::<u8>(), 20..200)
}

proptest! {
    #[test]
    fn what_is_written_reads_back((from, to) in addresses(), protocol in prop_oneof![Just(TCP), Just(UDP)], body in body()) {
        let mut packet = vec![0; ip::header_len(from) + body.len()];
        write_ip(&mut packet, from, to, protocol).copy_from_slice(&body);
        let transport = checksum::transport(&packet).unwrap();
        checksum::fill(&mut packet, &transport);

        let parsed = parse_ip(&packet, false).unwrap();

        prop_assert_eq!((parsed.source, parsed.destination, parsed.protocol), (from, to, protocol));
        prop_assert_eq!(parsed.payload.len(), body.len());
    }

    #[test]
    fn a_changed_byte_is_noticed((from, to) in addresses(), body in body(), at: prop::sample::Index, bits in 1..=255u8) {
        let mut packet = vec![0; ip::header_len(from) + body.len()];
        write_ip(&mut packet, from, to, TCP).copy_from_slice(&body);
        let transport = checksum::transport(&packet).unwrap();
        checksum::fill(&mut packet, &transport);
        let at = ip::header_len(from) + at.index(body.len());
        packet[at] ^= bits;
        prop_assert!(parse_ip(&packet, false).is_err());
    }

    #[test]
    fn a_partial_checksum_is_finished_by_adding_up((from, to) in addresses(), body in body()) {
        let mut whole = vec![0; ip::header_len(from) + body.len()];
        write_ip(&mut whole, from, to, TCP).copy_from_slice(&body);
        let mut partial = whole.clone();
        let transport = checksum::transport(&whole).unwrap();
        checksum::fill(&mut whole, &transport);
        let len = partial.len();
        checksum::write_pseudo_header(&mut partial, len, &transport);
        // As a driver does: the field counts as it is.
        let sum = checksum::internet(&partial[transport.start..]);
        let field = transport.start + transport.field;
        partial[field..field + 2].copy_from_slice(&sum.to_be_bytes());
        prop_assert_eq!(partial, whole);
    }

    #[test]
    fn any_bytes_are_a_packet_or_not(bytes in proptest::collection::vec(any::<u8>(), 0..120), first in any::<u8>()) {
        let addresses = Addresses::default();
        for version in [first, 0x45, 0x60] {
            let bytes = [&[version][..], &bytes].concat();
            if let Ok(packet) = parse_ip(&bytes, true) {
                prop_assert!(packet.payload.len() < packet.bytes.len());
                let _ = answer_echo(&packet);
                let _ = unreachable(packet.bytes, packet.source, &addresses, Unreachable::Host);
            }
            let _ = parse_special(&bytes);
            let _ = parse_ethernet(&bytes);
            let _ = answer_arp(&bytes, &addresses);
        }
    }
}

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::Class;

fn class(text: &str) -> Class {
    Class::of(text.parse().unwrap())
}

#[test]
fn ipv4_ranges_are_told_apart_at_their_edges() {
    for (address, expected) in [
        ("1.0.0.0", Class::Public),
        ("9.255.255.255", Class::Public),
        ("10.0.0.0", Class::Private),
        ("10.255.255.255", Class::Private),
        ("11.0.0.0", Class::Public),
        ("100.63.255.255", Class::Public),
        ("100.64.0.0", Class::CarrierNat),
        ("100.127.255.255", Class::CarrierNat),
        ("100.128.0.0", Class::Public),
        ("0.0.0.0", Class::Unspecified),
        ("0.255.255.255", Class::Unspecified),
        ("127.0.0.1", Class::Loopback),
        ("127.255.255.255", Class::Loopback),
        ("128.0.0.0", Class::Public),
        ("169.254.0.1", Class::LinkLocal),
        ("172.15.255.255", Class::Public),
        ("172.16.0.0", Class::Private),
        ("172.31.255.255", Class::Private),
        ("172.32.0.0", Class::Public),
        ("192.0.0.1", Class::Reserved),
        ("192.0.2.7", Class::Documentation),
        ("198.51.100.7", Class::Documentation),
        ("203.0.113.7", Class::Documentation),
        ("192.168.255.255", Class::Private),
        ("192.169.0.0", Class::Public),
        ("198.17.255.255", Class::Public),
        ("198.18.0.0", Class::Benchmark),
        ("198.19.255.255", Class::Benchmark),
        ("198.20.0.0", Class::Public),
        ("223.255.255.255", Class::Public),
        ("224.0.0.251", Class::Multicast),
        ("240.0.0.1", Class::Reserved),
        ("255.255.255.255", Class::Broadcast),
    ] {
        assert_eq!(class(address), expected, "{address}");
    }
}

#[test]
fn ipv6_ranges_are_told_apart() {
    for (address, expected) in [
        ("::", Class::Unspecified),
        ("::1", Class::Loopback),
        ("fe80::1", Class::LinkLocal),
        ("febf::1", Class::LinkLocal),
        ("fec0::1", Class::Reserved),
        ("fc00::1", Class::Private),
        ("fdff::1", Class::Private),
        ("ff02::fb", Class::Multicast),
        ("2001:db8::1", Class::Documentation),
        ("3fff:fff::1", Class::Documentation),
        ("2001:2::1", Class::Benchmark),
        ("2001:20::1", Class::Reserved),
        ("100::1", Class::Reserved),
        ("4000::1", Class::Reserved),
        ("2606:4700:4700::1111", Class::Public),
        ("2a00:1450:4001:800::200e", Class::Public),
    ] {
        assert_eq!(class(address), expected, "{address}");
    }
}

#[test]
fn metadata_of_every_cloud_is_metadata() {
    for address in [
        "169.254.169.254",
        "169.254.170.2",
        "169.254.170.23",
        "100.100.100.200",
        "168.63.129.16",
        "192.0.0.192",
        "169.254.0.23",
        "169.254.42.42",
        "fd00:ec2::254",
        "fd00:ec2::23",
        "fd20:ce::254",
        "100.96.0.96",
        "fd00:a9fe:a9fe::1",
        "fd00:42::42",
        "fe80::a9fe:a9fe",
        "::ffff:169.254.169.254",
        "::ffff:a9fe:a9fe",
        "64:ff9b::168.63.129.16",
        "2002:6464:64c8::1",
    ] {
        assert_eq!(class(address), Class::Metadata, "{address}");
    }
}

#[test]
fn local_use_nat64_is_never_public() {
    assert_eq!(class("64:ff9b:1::8.8.8.8").max(Class::Private), class("64:ff9b:1::8.8.8.8"));
    assert_eq!(class("64:ff9b:1:7f00:0:100::"), Class::Loopback);
}

/// Every form of `v4` inside an IPv6 address; `noise` fills the bits that a form leaves free.
pub(crate) fn forms(v4: Ipv4Addr, noise: u64) -> Vec<Ipv6Addr> {
    let v4 = u128::from(u32::from(v4));
    let noise = u128::from(noise);
    let (low64, low32) = (noise, noise & 0xffff_ffff);
    let public_prefix = 0x2606_4700_u128 << 96;
    let nat64_local = 0x0064_ff9b_0001_u128 << 80;
    let public = 0x0808_0808_u128;
    [
        v4,
        (0xffff << 32) | v4,
        (0xffff << 48) | v4,
        (0x0064_ff9b_u128 << 96) | v4,
        nat64_local | ((v4 >> 16) << 64) | ((v4 & 0xffff) << 40),
        nat64_local | ((v4 >> 24) << 64) | ((v4 & 0xff_ffff) << 32),
        nat64_local | (v4 << 24),
        nat64_local | v4,
        (0x2002_u128 << 112) | (v4 << 80) | low64,
        (0x2001_u128 << 112) | (v4 << 64) | (low32 << 32) | (!public & 0xffff_ffff),
        (0x2001_u128 << 112) | (public << 64) | (low32 << 32) | (!v4 & 0xffff_ffff),
        public_prefix | (0x5efe << 32) | v4,
        public_prefix | (0x0200_5efe << 32) | v4,
    ]
    .into_iter()
    .map(Ipv6Addr::from)
    .collect()
}

fn forbidden_v4() -> impl Strategy<Value = Ipv4Addr> {
    let range = |first: u32, last: u32| (first..=last).prop_map(Ipv4Addr::from);
    prop_oneof![
        range(0x0000_0002, 0x00ff_ffff),
        range(0x0a00_0000, 0x0aff_ffff),
        range(0x6440_0000, 0x647f_ffff),
        range(0x7f00_0000, 0x7fff_ffff),
        range(0xa9fe_0000, 0xa9fe_ffff),
        range(0xac10_0000, 0xac1f_ffff),
        range(0xc0a8_0000, 0xc0a8_ffff),
        range(0xe000_0000, 0xffff_ffff),
        Just(Ipv4Addr::new(168, 63, 129, 16)),
    ]
}

proptest! {
    #[test]
    fn an_embedded_address_is_never_less_grave_than_itself(v4 in forbidden_v4(), noise: u64) {
        let plain = Class::of(IpAddr::V4(v4));
        prop_assert_ne!(plain, Class::Public);
        for form in forms(v4, noise) {
            let class = Class::of(IpAddr::V6(form));
            prop_assert!(class >= plain, "{} as {} is {}, plain {}", v4, form, class, plain);
        }
    }

    #[test]
    fn a_public_address_in_a_translated_form_stays_public(v4: u32) {
        let v4 = Ipv4Addr::from(v4);
        prop_assume!(Class::of(IpAddr::V4(v4)) == Class::Public);
        for form in [v4.to_ipv6_mapped(), Ipv6Addr::from((0x0064_ff9b_u128 << 96) | u128::from(u32::from(v4)))] {
            prop_assert_eq!(Class::of(IpAddr::V6(form)), Class::Public);
        }
    }

    #[test]
    fn every_address_has_a_class(bits: u128) {
        let _ = Class::of(IpAddr::V6(Ipv6Addr::from(bits)));
    }
}

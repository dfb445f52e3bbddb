use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::*;
use crate::Cidr;

const SPECIAL: [&str; 24] = [
    "169.254.169.254",
    "fd00:ec2::254",
    "169.254.170.2",
    "100.100.100.200",
    "168.63.129.16",
    "192.0.0.192",
    "::ffff:169.254.169.254",
    "127.0.0.1",
    "127.8.8.8",
    "::1",
    "::ffff:127.0.0.1",
    "0.0.0.0",
    "::",
    "255.255.255.255",
    "224.0.0.251",
    "ff02::fb",
    "240.0.0.1",
    "169.254.1.1",
    "fe80::1",
    "fec0::1",
    "64:ff9b::127.0.0.1",
    "2002:7f00:1::1",
    "::ffff:0:127.0.0.1",
    "2606:4700::5efe:127.0.0.1",
];
const PRIVATE: [&str; 6] = ["10.1.2.3", "172.16.0.1", "192.168.1.1", "fc00::1", "fdab::1", "64:ff9b::10.0.0.1"];

fn policy(preset: Preset, rules: &[&str]) -> Policy {
    let mut policy = Policy::new(preset);
    rules.iter().for_each(|rule| policy.push(rule.parse().unwrap()));
    policy
}

fn verdict<'p>(policy: &'p Policy, address: &str, names: &[&str], port: u16) -> Verdict<'p> {
    let names: Vec<Name> = names.iter().map(|name| name.parse().unwrap()).collect();
    let flow = Flow::egress(Protocol::Tcp, address.parse().unwrap(), &names, port);
    policy.evaluate(&flow, &HostAddresses::default())
}

fn allows(policy: &Policy, address: &str, port: u16) -> bool {
    verdict(policy, address, &[], port).allow
}

#[test]
fn public_allows_the_internet_and_nothing_else() {
    let policy = policy(Preset::Public, &[]);
    assert!(allows(&policy, "93.184.216.34", 443));
    assert!(allows(&policy, "2606:4700::1111", 443));
    for address in SPECIAL.iter().chain(&PRIVATE).chain(&["100.64.0.1", "198.18.0.1", "192.0.2.1", "2001:db8::1"]) {
        assert!(!allows(&policy, address, 80), "{address}");
    }
}

#[test]
fn none_and_an_empty_rule_list_deny_everything() {
    let policy = policy(Preset::None, &[]);
    assert!(policy.is_closed());
    assert!(!allows(&policy, "93.184.216.34", 443));
    assert!(!policy.evaluate_name(&"secret.evil.test".parse().unwrap()).allow);
}

#[test]
fn open_and_lan_never_reach_the_host_or_its_credentials() {
    let mut lan = policy(Preset::Public, &[]);
    lan.allow_lan();
    for policy in [lan, policy(Preset::Open, &[])] {
        assert!(allows(&policy, "10.1.2.3", 22));
        assert!(allows(&policy, "fdab::1", 22));
        for address in SPECIAL {
            assert!(!allows(&policy, address, 80), "{address}");
        }
    }
}

#[test]
fn the_hosts_own_addresses_are_denied_in_every_form() {
    let own = HostAddresses::new(vec![Cidr::single("93.184.216.34".parse().unwrap())]);
    let policy = policy(Preset::Open, &["93.184.216.34", "::ffff:93.184.216.34"]);
    for address in ["93.184.216.34", "::ffff:93.184.216.34", "64:ff9b::93.184.216.34", "2002:5db8:d822::1"] {
        let flow = Flow::egress(Protocol::Udp, address.parse().unwrap(), &[], 53);
        let verdict = policy.evaluate(&flow, &own);
        assert_eq!((verdict.allow, verdict.rule), (false, "host's own addresses are denied"));
        assert_eq!(verdict.reason, Reason::OwnAddress);
    }
}

#[test]
fn a_range_opens_special_addresses_only_from_inside() {
    let everything = policy(Preset::None, &["0.0.0.0/0", "::/0"]);
    assert!(allows(&everything, "93.184.216.34", 1));
    assert!(allows(&everything, "2606:4700::1111", 1));
    for address in SPECIAL.iter().chain(&PRIVATE) {
        assert!(!allows(&everything, address, 80), "{address}");
    }
    let inside = policy(Preset::None, &["10.1.0.0/16:22", "100.64.0.0/10", "169.254.169.254:80"]);
    assert!(allows(&inside, "10.1.2.3", 22));
    assert!(!allows(&inside, "10.1.2.3", 23));
    assert!(!allows(&inside, "10.2.2.3", 22));
    assert!(allows(&inside, "100.64.0.9", 1));
    assert!(!allows(&inside, "100.100.100.200", 80));
    assert!(allows(&inside, "169.254.169.254", 80));
}

#[test]
fn loopback_has_no_rule_that_opens_it() {
    let policy = policy(Preset::Open, &["127.0.0.1", "127.0.0.0/8", "::1", "0.0.0.0"]);
    for address in ["127.0.0.1", "::1", "0.0.0.0", "::ffff:127.0.0.1"] {
        assert!(!allows(&policy, address, 80), "{address}");
    }
}

#[test]
fn a_name_opens_only_what_the_resolver_vouches_for() {
    let policy = policy(Preset::None, &["api.example.com:443", "*.pkg.example"]);
    assert!(!allows(&policy, "93.184.216.34", 443));
    let named = verdict(&policy, "93.184.216.34", &["api.example.com"], 443);
    assert_eq!((named.allow, named.rule), (true, "allow api.example.com:443"));
    assert_eq!(named.reason, Reason::NameRule { port: Some(443) });
    assert!(!verdict(&policy, "93.184.216.34", &["api.example.com"], 80).allow);
    assert!(verdict(&policy, "93.184.216.34", &["evil.test", "a.pkg.example"], 80).allow);
    assert!(!verdict(&policy, "93.184.216.34", &["pkg.example"], 80).allow);
    assert!(!verdict(&policy, "10.0.0.5", &["api.example.com"], 443).allow);
    assert!(!verdict(&policy, "127.0.0.1", &["api.example.com"], 443).allow);
    let quic = ["api.example.com".parse().unwrap()];
    let quic = Flow::egress(Protocol::Udp, "93.184.216.34".parse().unwrap(), &quic, 443);
    assert!(!policy.evaluate(&quic, &HostAddresses::default()).allow);
}

#[test]
fn names_are_asked_only_where_a_rule_or_the_preset_lets_them() {
    let rules = policy(Preset::None, &["api.example.com:443", "*.pkg.example", "10.0.0.0/8"]);
    let asked = |policy: &Policy, name: &str| policy.evaluate_name(&name.parse().unwrap()).allow;
    assert!(asked(&rules, "api.example.com"));
    assert!(asked(&rules, "a.pkg.example"));
    assert!(!asked(&rules, "data.evil.test"));
    assert!(!asked(&rules, "api.example.com.evil.test"));
    let public = policy(Preset::Public, &[]);
    assert!(asked(&public, "data.evil.test"));
    assert!(!asked(&public, "metadata.google.internal"));
}

#[test]
fn answers_that_lead_nowhere_are_withheld() {
    let public = policy(Preset::Public, &["192.168.7.0/24:443"]);
    let told = |address: &str| {
        let own = HostAddresses::default();
        public.evaluate_answer(&"a.test".parse().unwrap(), address.parse().unwrap(), &own).allow
    };
    assert!(told("93.184.216.34"));
    assert!(told("192.168.7.1"));
    for address in SPECIAL.iter().chain(&PRIVATE) {
        assert!(!told(address), "{address}");
    }
}

#[test]
fn the_first_matching_rule_decides() {
    let mut policy = Policy::new(Preset::Public);
    policy.push(Rule::parse(Action::Deny, "93.184.216.34:80").unwrap());
    policy.push(Rule::parse(Action::Allow, "93.184.216.34").unwrap());
    policy.push(Rule::parse(Action::Deny, "evil.test").unwrap());
    assert!(!allows(&policy, "93.184.216.34", 80));
    assert!(!allows(&policy, "64:ff9b::93.184.216.34", 80));
    assert!(allows(&policy, "93.184.216.34", 443));
    assert!(!verdict(&policy, "1.1.1.1", &["evil.test"], 443).allow);
    assert!(!policy.evaluate_name(&"evil.test".parse().unwrap()).allow);
}

#[test]
fn host_ports_open_one_by_one() {
    let mut policy = Policy::new(Preset::Public);
    let to =
        |policy: &Policy, port| policy.evaluate(&Flow::to_host(Protocol::Tcp, port), &HostAddresses::default()).allow;
    assert!(!to(&policy, 8080));
    policy.allow_host(Some(8080));
    assert!(to(&policy, 8080));
    assert!(!to(&policy, 8081));
    policy.allow_host(None);
    assert!(to(&policy, 8081));
}

#[test]
fn a_verdict_names_its_reason() {
    let mut policy = policy(Preset::Public, &["93.184.216.34", "*.pkg.example", "198.18.0.0/15"]);
    policy.allow_lan();
    for (address, names, reason) in [
        ("93.184.216.34", &[][..], Reason::AddressRule),
        ("93.184.216.35", &["a.pkg.example"], Reason::NameRule { port: None }),
        ("93.184.216.35", &["pkg.example"], Reason::Preset),
        ("10.0.0.1", &[], Reason::Lan),
        ("100.64.0.1", &[], Reason::Class(Class::CarrierNat)),
        ("127.0.0.1", &[], Reason::Class(Class::Loopback)),
        ("169.254.169.254", &[], Reason::Class(Class::Metadata)),
    ] {
        assert_eq!(verdict(&policy, address, names, 443).reason, reason, "{address}");
    }
}

#[test]
fn a_flow_rests_on_names_only_where_nothing_else_opens_it() {
    let named = policy(Preset::None, &["api.example.com:443", "93.184.216.35", "10.0.0.0/8"]);
    let public = policy(Preset::Public, &["api.example.com:443"]);
    let names = ["api.example.com".parse().unwrap()];
    let rests = |policy: &Policy, address: &str, names: &[Name], port| {
        let flow = Flow::egress(Protocol::Tcp, address.parse().unwrap(), names, port);
        policy.rests_on_names(&flow, &HostAddresses::default())
    };
    assert!(rests(&named, "93.184.216.34", &names, 443));
    assert!(!rests(&named, "93.184.216.34", &names, 80), "not allowed at all");
    assert!(!rests(&named, "93.184.216.34", &[], 443), "not allowed at all");
    assert!(!rests(&named, "93.184.216.35", &names, 443), "the address is open anyway");
    assert!(!rests(&public, "93.184.216.34", &names, 443), "everything public is open anyway");
}

/// The loosest policy that can be written without naming an address that is special.
fn loosest() -> Policy {
    let mut policy = policy(Preset::Open, &["0.0.0.0/0", "::/0", "api.example.com", "*.example.com"]);
    policy.allow_lan();
    policy.allow_host(None);
    policy
}

/// Addresses that no preset, no range around them and no name opens.
fn never_open() -> impl Strategy<Value = Ipv4Addr> {
    let range = |first: u32, last: u32| (first..=last).prop_map(Ipv4Addr::from);
    prop_oneof![
        range(0x0000_0002, 0x00ff_ffff),
        range(0x7f00_0000, 0x7fff_ffff),
        range(0xa9fe_0000, 0xa9fe_ffff),
        range(0xe000_0000, 0xffff_ffff),
        Just(Ipv4Addr::new(168, 63, 129, 16)),
        Just(Ipv4Addr::new(100, 100, 100, 200)),
        Just(Ipv4Addr::new(192, 0, 0, 192)),
    ]
}

proptest! {
    #[test]
    fn no_embedding_gets_around_a_verdict(v4 in never_open(), noise: u64, port in 1u16.., udp: bool) {
        let protocol = if udp { Protocol::Udp } else { Protocol::Tcp };
        let names = ["api.example.com".parse().unwrap(), "a.example.com".parse().unwrap()];
        let policy = loosest();
        let forms = crate::class::tests::forms(v4, noise).into_iter().map(IpAddr::V6);
        for address in forms.chain([IpAddr::V4(v4)]) {
            let flow = Flow::egress(protocol, address, &names, port);
            let verdict = policy.evaluate(&flow, &HostAddresses::default());
            prop_assert!(!verdict.allow, "{} as {} by {}", v4, address, verdict.rule);
            prop_assert!(!policy.evaluate_answer(&names[0], address, &HostAddresses::default()).allow);
        }
    }

    #[test]
    fn a_denied_address_is_denied_in_every_form(v4: u32, noise: u64) {
        let v4 = Ipv4Addr::from(v4);
        let mut policy = Policy::new(Preset::Open);
        policy.push(Rule::parse(Action::Deny, &v4.to_string()).unwrap());
        policy.push("::/0".parse().unwrap());
        for form in crate::class::tests::forms(v4, noise) {
            let flow = Flow::egress(Protocol::Tcp, IpAddr::V6(form), &[], 443);
            prop_assert!(!policy.evaluate(&flow, &HostAddresses::default()).allow, "{} as {}", v4, form);
        }
    }

    #[test]
    fn the_same_question_has_the_same_answer(bits: u128, port: u16) {
        let flow = Flow::egress(Protocol::Tcp, IpAddr::V6(Ipv6Addr::from(bits)), &[], port);
        let policy = loosest();
        let own = HostAddresses::default();
        prop_assert_eq!(policy.evaluate(&flow, &own), policy.evaluate(&flow, &own));
    }
    #[test]
    fn evaluation_is_total_and_none_stays_none(bits: u128, port: u16) {
        let flow = Flow::egress(Protocol::Udp, IpAddr::V6(Ipv6Addr::from(bits)), &[], port);
        prop_assert!(!Policy::new(Preset::None).evaluate(&flow, &HostAddresses::default()).allow);
        let open = Policy::new(Preset::Open).evaluate(&flow, &HostAddresses::default()).allow;
        let public = Policy::new(Preset::Public).evaluate(&flow, &HostAddresses::default()).allow;
        prop_assert!(open || !public);
    }
}

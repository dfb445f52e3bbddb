use std::net::IpAddr;

use policy::{Cidr, HostAddresses, Preset, Rule};

use super::*;
use crate::settings::{Effective, NetworkLayer, Sourced};

fn effective(preset: Preset, rules: &[&str]) -> Effective {
    let layer = NetworkLayer {
        egress: Some(Sourced::by_flag(preset)),
        allow: rules.iter().map(|rule| Sourced::by_flag(rule.parse::<Rule>().unwrap())).collect(),
        ..NetworkLayer::default()
    };
    Effective::of(&[layer])
}

fn answer(effective: &Effective, destination: &str) -> Answer {
    Answer::to(&destination.parse().unwrap(), effective, &HostAddresses::default(), None)
}

#[test]
fn destinations_are_read_as_programs_read_them() {
    for (text, normal) in [
        ("https://api.example.com", "api.example.com:443"),
        ("HTTPS://API.Example.com./v1?q#f", "api.example.com:443"),
        ("http://user:pw@example.com:8080/x@evil.test", "example.com:8080"),
        ("api.example.com", "api.example.com:443"),
        ("db.example.com:5432", "db.example.com:5432"),
        ("ssh://git@github.com/x", "github.com:22"),
        ("udp://1.1.1.1:443", "udp://1.1.1.1:443"),
        ("[2606:4700::1111]:80", "[2606:4700::1111]:80"),
        ("2606:4700::1111", "[2606:4700::1111]:443"),
        ("http://[::ffff:10.0.0.5]/", "[::ffff:10.0.0.5]:80"),
    ] {
        assert_eq!(text.parse::<Question>().unwrap().to_string(), normal, "{text}");
    }
}

#[test]
fn destinations_that_programs_read_in_two_ways_are_refused() {
    for text in [
        "",
        "https://",
        "http://2130706433/",
        "127.1",
        "0x7f.1:80",
        "10.0.0.0/8",
        "a.test/x",
        "https://a.test\\@b.test",
        "https://a%2etest",
        "https://a.test\0.b.test",
        "a b.test",
        "a.test:0",
        "a.test:99999",
        "gopher://a.test",
        "tcp://a.test",
        "[::1",
        "https://münchen.test",
    ] {
        let error = text.parse::<Question>().unwrap_err().to_string();
        assert!(error.contains("for example") && error.contains("https://api.example.com"), "{error}");
    }
}

#[test]
fn a_name_s_verdict_says_that_the_address_decides_too() {
    let listed = effective(Preset::None, &["api.example.com:443"]);
    let allowed = answer(&listed, "https://api.example.com");
    assert!(allowed.allow);
    assert_eq!((allowed.rule.as_str(), allowed.origin.as_deref()), ("allow api.example.com:443", Some("command line")));
    assert!(allowed.because.iter().any(|line| line.starts_with("the address decides too")), "{allowed:?}");
    assert!(!answer(&listed, "http://api.example.com").allow);
    let denied = answer(&listed, "https://evil.test");
    assert!(!denied.allow && denied.change.contains("--allow-egress evil.test:443"), "{denied:?}");
    assert!(!answer(&listed, "udp://api.example.com:443").allow);
}

#[test]
fn a_rule_for_some_public_range_does_not_speak_for_every_name() {
    let mut open = effective(Preset::Public, &[]);
    let rule = Rule::parse(policy::Action::Deny, "93.184.216.0/24").unwrap();
    open.push_rule(Sourced::by_flag(rule));
    assert!(answer(&open, "https://a.test").allow);
}

#[test]
fn resolved_addresses_are_judged_one_by_one() {
    let public = effective(Preset::Public, &[]);
    let question: Question = "https://a.test".parse().unwrap();
    let (private, fine): (IpAddr, IpAddr) = ("10.0.0.5".parse().unwrap(), "93.184.216.34".parse().unwrap());
    let judge = |addresses: &[IpAddr]| Answer::to(&question, &public, &HostAddresses::default(), Some(addresses));
    let mixed = judge(&[private, fine]);
    assert!(mixed.allow);
    assert_eq!(mixed.addresses.iter().map(|judged| judged.allow).collect::<Vec<_>>(), [false, true]);
    let rebound = judge(&[private]);
    assert!(!rebound.allow && rebound.rule.contains("private"), "{rebound:?}");
    assert!(!judge(&[]).allow);
}

#[test]
fn every_denial_says_what_to_do() {
    let public = effective(Preset::Public, &[]);
    for (destination, change) in [
        ("10.0.0.5:22", "--allow-egress 10.0.0.5:22"),
        ("[fd00::1]:22", "--allow-egress [fd00::1]:22"),
        ("100.64.0.1:80", "--allow-egress 100.64.0.1:80"),
        ("169.254.169.254:80", "credentials"),
        ("127.0.0.1:5432", "--allow-host 5432"),
        ("localhost:5432", "--allow-host 5432"),
        ("100.96.0.1:8080", "--allow-host 8080"),
        ("8.8.8.8:53", "ask for the name itself"),
        ("metadata.google.internal:80", "nothing opens it"),
        ("224.0.0.251:5353", "nothing opens it"),
    ] {
        let answer = answer(&public, destination);
        assert!(!answer.allow, "{destination}");
        assert!(answer.change.contains(change), "{destination}: {}", answer.change);
        assert!(!answer.because.is_empty(), "{destination}");
    }
}

#[test]
fn the_host_s_own_addresses_are_denied_and_its_ports_open_one_by_one() {
    let mut public = effective(Preset::Public, &[]);
    let own = HostAddresses::new(vec![Cidr::single("93.184.216.34".parse().unwrap())]);
    let denied = Answer::to(&"93.184.216.34:22".parse().unwrap(), &public, &own, None);
    assert!(!denied.allow && denied.rule.contains("own"), "{denied:?}");
    public.host = vec![Sourced::by_flag(Some(8080))];
    let open = answer(&public, "100.96.0.1:8080");
    assert!(open.allow && open.origin.as_deref() == Some("command line"), "{open:?}");
    assert!(!answer(&public, "100.96.0.1:8081").allow);
}

#[test]
fn without_a_network_nothing_is_allowed() {
    let layer = NetworkLayer { network: Some(Sourced::by_flag(false)), ..NetworkLayer::default() };
    let answer = answer(&Effective::of(&[layer]), "https://a.test");
    assert!(!answer.allow && answer.rule == "no network", "{answer:?}");
}

#[test]
fn tables_name_line_and_value_of_what_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("table.toml");
    let read = |text: &str| {
        std::fs::write(&path, text).unwrap();
        TestTable::read(&path)
    };
    let table = read("deny = [\n\"10.0.0.5:22\"]\nallow = [\"https://a.test\"]\n").unwrap();
    let rows: Vec<_> = table.expectations.iter().map(|row| (row.line, row.allow)).collect();
    assert_eq!(rows, [(2, false), (3, true)]);
    for (text, words) in [
        ("", &["expects nothing"][..]),
        ("allow = []\n", &["expects nothing"]),
        ("permit = [\"a.test\"]\n", &[":1: ", "permit", "allow"]),
        ("allow = [\n\"a.test:0\"]\n", &[":2: allow: ", "a.test:0", "db.example.com:5432"]),
        ("allow = 5\n", &[":1: allow: ", "5"]),
    ] {
        let error = read(text).unwrap_err().to_string();
        for word in words {
            assert!(error.contains(word), "{word:?} is not in {error:?}");
        }
    }
    assert!(TestTable::read(&folder.path().join("missing")).unwrap_err().to_string().contains("missing"));
}

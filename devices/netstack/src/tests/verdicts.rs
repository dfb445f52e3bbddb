//! Who may talk to whom: judged by what the fake internet saw.

use policy::Protocol;

use super::guest::{Received, tcp_packet, udp_packet};
use super::*;

const METADATA: [&str; 9] = [
    "169.254.169.254:80",
    "169.254.170.2:80",
    "100.100.100.200:80",
    "168.63.129.16:80",
    "192.0.0.192:80",
    "[fd00:ec2::254]:80",
    "[::ffff:169.254.169.254]:80",
    "[::ffff:a9fe:a9fe]:80",
    "[64:ff9b::a9fe:a9fe]:80",
];
const PRIVATE: [&str; 10] = [
    "10.0.0.1:22",
    "172.16.0.1:22",
    "192.168.1.1:22",
    "100.64.0.1:22",
    "198.18.0.1:22",
    "192.0.2.1:22",
    "[fc00::1]:22",
    "[fe80::1]:22",
    "[fec0::1]:22",
    "[2002:a00:1::1]:22",
];
const MARTIANS: [&str; 15] = [
    // Nobody else is on the link, and its numbers may mean something to the host's own network.
    "100.96.0.0:80",
    "100.96.0.3:80",
    "[fd76:6d6d::3]:80",
    "[::ffff:100.96.0.3]:80",
    "127.0.0.1:80",
    "127.255.0.1:80",
    "[::1]:80",
    "0.0.0.0:80",
    "255.255.255.255:80",
    "224.0.0.251:5353",
    "[ff02::fb]:5353",
    "[::ffff:127.0.0.1]:80",
    "[64:ff9b::127.0.0.1]:80",
    "[2002:7f00:1::1]:80",
    "[2606:4700::5efe:127.0.0.1]:80",
];

#[test]
fn with_nothing_allowed_everything_is_reset() {
    let Bench { mut guest, internet, handle: _handle } = bench(nothing());
    for server in ["93.184.216.34:443", "[2606:4700::1111]:443"] {
        guest.send_syn(5000, server);
        assert!(guest.expect().is_reset());
    }
    assert_eq!(internet.dialed(), []);
}

#[test]
fn metadata_and_private_addresses_are_refused_at_once() {
    let mut lan = public();
    lan.allow_lan();
    for (policy, denied) in [(public(), METADATA.iter().chain(&PRIVATE)), (lan, METADATA.iter().chain(&[]))] {
        let Bench { mut guest, internet, handle: _handle } = bench(policy);
        for server in denied {
            guest.send_syn(5000, server);
            assert!(guest.expect().is_reset(), "{server}");
            guest.send_udp(5000, server, b"x");
            assert!(guest.expect().is_prohibited(), "{server}");
        }
        assert_eq!(internet.dialed(), []);
    }
}

#[test]
fn martians_are_dropped_without_a_word() {
    let mut policy = Policy::new(Preset::Open);
    policy.allow_lan();
    let Bench { mut guest, internet, handle: _handle } = bench(policy);
    for server in MARTIANS {
        guest.send_syn(5000, server);
        guest.send_udp(5000, server, b"x");
    }
    // The link's own broadcast, to the broadcast MAC.
    let to = "100.96.0.3:67".parse().unwrap();
    let mut frame =
        guest::ethernet(&crate::Addresses::default(), &udp_packet("100.96.0.2:68".parse().unwrap(), to, b"x"));
    frame[..6].fill(0xff);
    guest.send_frame(&frame);
    guest.expect_silence();
    assert_eq!(internet.dialed(), []);
}

#[test]
fn the_lan_opens_only_when_asked() {
    let mut policy = public();
    policy.allow_lan();
    let Bench { mut guest, internet, handle: _handle } = bench(policy);
    let _server = internet.tcp("192.168.1.1:22");
    assert!(guest.connect("192.168.1.1:22").is_some());
}

#[test]
fn the_hosts_own_addresses_are_refused() {
    let policy = Policy::new(Preset::Open);
    let Bench { mut guest, internet, handle: _handle } = bench(policy);
    // Whatever address the host has towards the documentation network, if it has a way there at all.
    let probe = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    let own = probe.connect("192.0.2.1:9").and_then(|()| probe.local_addr());
    let own = own.map_or("127.0.0.1".to_owned(), |address| address.ip().to_string());
    guest.send_syn(5000, &format!("{own}:22"));
    if own != "127.0.0.1" {
        assert!(guest.expect().is_reset());
    }
    assert_eq!(internet.dialed(), []);
}

#[test]
fn the_gateway_stands_for_granted_host_ports_only() {
    let Bench { mut guest, internet, handle: _handle } = bench(public());
    for port in [22, 80, 5432] {
        guest.send_syn(5000, &format!("100.96.0.1:{port}"));
        assert!(guest.expect().is_reset());
    }
    assert_eq!(internet.dialed(), []);

    let mut policy = public();
    policy.allow_host(Some(8080));
    let Bench { mut guest, internet, handle: _handle } = bench(policy);
    // The service listens on ::1 only.
    let _server = internet.tcp("[::1]:8080");
    assert!(guest.connect("100.96.0.1:8080").is_some());
    assert!(guest.connect("100.96.0.1:8081").is_none());
    assert!(internet.dialed().iter().all(|(_, address)| address.port() == 8080));
}

#[test]
fn a_name_rule_opens_nothing_that_was_not_resolved() {
    let Bench { mut guest, internet, handle: _handle } = bench(names());
    internet.name("api.example.com", &[PUBLIC]);
    let _server = internet.tcp("93.184.216.34:443");

    assert!(guest.connect("93.184.216.34:443").is_none());
    assert_eq!(internet.dialed(), []);

    dns::resolve(&mut guest, "api.example.com", 1);
    assert!(guest.connect("93.184.216.34:443").is_some());
    assert!(guest.connect("93.184.216.34:80").is_none());
    assert!(guest.connect("93.184.216.35:443").is_none());
    assert_eq!(internet.dialed(), [(Protocol::Tcp, "93.184.216.34:443".parse().unwrap())]);
}

#[test]
fn a_name_rule_opens_no_datagrams_for_quic_hides_its_name() {
    let Bench { mut guest, internet, handle: _handle } = bench(names());
    internet.name("api.example.com", &[PUBLIC]);
    dns::resolve(&mut guest, "api.example.com", 1);
    for port in [443, 8443] {
        guest.send_udp(5000, &format!("93.184.216.34:{port}"), b"\xc0quic");
        assert!(guest.expect().is_prohibited());
    }
    assert_eq!(internet.dialed(), []);
}

#[test]
fn a_policy_that_gets_narrower_cuts_what_is_open() {
    let Bench { mut guest, internet, handle } = bench(public());
    let listener = internet.tcp("93.184.216.34:443");
    let _udp = internet.udp("93.184.216.34:9");
    let connection = guest.connect("93.184.216.34:443").unwrap();
    let (mut peer, _) = listener.accept().unwrap();
    guest.send_udp(5000, "93.184.216.34:9", b"x");

    handle.set_policy(nothing()).unwrap();

    assert_eq!(guest.read_to_end(connection), None);
    assert_eq!(std::io::Read::read(&mut peer, &mut [0; 1]).unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    assert!(guest.connect("93.184.216.34:443").is_none());
    guest.send_udp(5000, "93.184.216.34:9", b"x");
    assert!(guest.expect().is_prohibited());
    let report = handle.report().unwrap();
    assert_eq!((report.tcp_flows, report.policy), (0, nothing().summary()));
}

#[test]
fn a_pending_connection_is_cut_by_a_narrower_policy() {
    let Bench { mut guest, internet, handle } = bench(public());
    let listener = internet.tcp("93.184.216.34:443");
    rustix::net::listen(&listener, 0).unwrap();
    let _first = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    guest.send_syn(5000, "93.184.216.34:443");
    guest.expect_silence();

    handle.set_policy(nothing()).unwrap();

    assert!(guest.expect().is_reset());
    assert_eq!(handle.report().unwrap().tcp_flows, 0);
}

#[test]
fn every_verdict_is_told_with_its_rule() {
    let Bench { mut guest, internet, handle: _handle } = bench(public());
    guest.send_ip(&tcp_packet(
        "100.96.0.2:5000".parse().unwrap(),
        "169.254.169.254:80".parse().unwrap(),
        guest::SYN,
        &[],
    ));
    assert!(matches!(guest.expect(), Received::Tcp { reset: true, .. }));
    let events = internet.events();
    assert!(
        matches!(events.as_slice(), [event] if event.contains("169.254.169.254:80")
            && event.contains("allow: false") && event.contains("metadata addresses are denied")),
        "{events:?}"
    );
}

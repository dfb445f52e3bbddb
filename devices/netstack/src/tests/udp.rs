//! How datagrams behave.

use super::guest::Received;
use super::*;

const SERVER: &str = "93.184.216.34:9999";
const SERVER_V6: &str = "[2606:4700::1111]:9999";

#[test]
fn datagrams_go_both_ways_over_both_families() {
    for (server, offloads) in [(SERVER, Offloads::default()), (SERVER_V6, ALL_OFFLOADS)] {
        let Bench { mut guest, internet, handle: _handle } = Setup { offloads, ..Setup::new(public()) }.start();
        let socket = internet.udp(server);
        guest.send_udp(5000, server, b"ping");
        let mut buffer = [0; 16];
        let (count, from) = socket.recv_from(&mut buffer).unwrap();
        socket.send_to(b"pong", from).unwrap();
        socket.send_to(b"", from).unwrap();

        assert_eq!(&buffer[..count], b"ping");
        let expected = |data: &[u8]| Received::Udp { from: server.parse().unwrap(), to: 5000, data: data.to_vec() };
        assert_eq!(guest.expect(), expected(b"pong"));
        assert_eq!(guest.expect(), expected(b""));
    }
}

#[test]
fn only_the_remote_that_was_asked_can_answer() {
    let Bench { mut guest, internet, handle: _handle } = bench(public());
    let socket = internet.udp(SERVER);
    guest.send_udp(5000, SERVER, b"ping");
    let (_, mapping) = socket.recv_from(&mut [0; 16]).unwrap();
    let stranger = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    stranger.send_to(b"hello", mapping).unwrap();
    guest.expect_silence();
}

#[test]
fn a_port_nobody_listens_at_is_unreachable() {
    for server in [SERVER, SERVER_V6] {
        let Bench { mut guest, internet: _internet, handle: _handle } = bench(public());
        guest.send_udp(5000, server, b"ping");
        let answer = guest.expect();
        let (kind, code) = if server == SERVER { (3, 3) } else { (1, 4) };
        assert!(
            matches!(&answer, Received::Icmp { kind: k, code: c, body, .. }
            if (*k, *c) == (kind, code) && !body.is_empty()),
            "{answer:?}"
        );
    }
}

#[test]
fn a_denied_datagram_is_answered_not_swallowed() {
    let Bench { mut guest, internet, handle: _handle } = bench(nothing());
    for server in [SERVER, SERVER_V6] {
        guest.send_udp(5000, server, b"quic");
        assert!(guest.expect().is_prohibited());
        guest.send_udp(5000, server, b"quic");
        assert!(guest.expect().is_prohibited());
    }
    assert_eq!(internet.dialed(), []);
    let verdicts = internet.events().iter().filter(|event| event.starts_with("Verdict")).count();
    assert_eq!(verdicts, 2, "one per flow, not one per datagram");
}

#[test]
fn an_idle_mapping_is_forgotten() {
    let limits = Limits { udp_idle: Duration::from_millis(50), ..Limits::default() };
    let Bench { mut guest, internet, handle } = Setup { limits, ..Setup::new(public()) }.start();
    let _socket = internet.udp(SERVER);
    guest.send_udp(5000, SERVER, b"ping");
    guest.expect_silence();
    assert_eq!(handle.report().unwrap().udp_mappings, 0);
    assert!(internet.events().iter().any(|event| event.contains("outcome: Idle")));
}

#[test]
fn large_datagrams_pass_whole() {
    let Bench { mut guest, internet, handle: _handle } = bench(public());
    let socket = internet.udp(SERVER);
    let data = vec![0x42; 60_000];
    guest.send_udp(5000, SERVER, &data);
    let mut buffer = vec![0; 65_536];
    let (count, from) = socket.recv_from(&mut buffer).unwrap();
    socket.send_to(&buffer[..count], from).unwrap();
    assert!(guest.expect().data() == data);
}

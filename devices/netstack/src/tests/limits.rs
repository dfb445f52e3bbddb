//! What one guest can use up.

use super::*;

#[test]
fn connections_over_the_limit_are_refused_and_told() {
    let limits = Limits { tcp_flows: 3, ..Limits::default() };
    let Bench { mut guest, internet, handle } = Setup { limits, ..Setup::new(public()) }.start();
    let _server = internet.tcp("93.184.216.34:443");
    for _ in 0..3 {
        assert!(guest.connect("93.184.216.34:443").is_some());
    }
    assert!(guest.connect("93.184.216.34:443").is_none());
    assert_eq!(handle.report().unwrap().tcp_flows, 3);
    assert_eq!(internet.dialed().len(), 3);
    assert!(internet.events().iter().any(|event| event.contains("TCP connections")));
}

#[test]
fn mappings_over_the_limit_are_dropped_and_told() {
    let limits = Limits { udp_mappings: 3, ..Limits::default() };
    let Bench { mut guest, internet, handle } = Setup { limits, ..Setup::new(public()) }.start();
    let _server = internet.udp("93.184.216.34:9");
    for port in 0..10 {
        guest.send_udp(5000 + port, "93.184.216.34:9", b"x");
    }
    guest.expect_silence();
    assert_eq!(handle.report().unwrap().udp_mappings, 3);
    assert!(internet.events().iter().any(|event| event.contains("UDP mappings")));
}

#[test]
fn a_flood_of_syns_to_denied_places_costs_nothing() {
    let Bench { mut guest, internet, handle } = bench(public());
    for port in 1..=20_000u16 {
        guest.send_syn(port, "10.0.0.1:443");
        while guest.receive_frame(Duration::ZERO).is_some() {}
    }
    guest.idle();
    assert_eq!(handle.report().unwrap().tcp_flows, 0);
    assert_eq!(internet.dialed(), []);
    // And nobody's log is filled.
    assert!(internet.events().len() < 10_000);
}

#[test]
fn hundreds_of_connections_work_side_by_side() {
    let Bench { mut guest, internet, handle } = bench(public());
    let server = internet.tcp("93.184.216.34:443");
    // Over a short queue the kernel falls back to SYN cookies, and forgets connections that never send anything.
    rustix::net::listen(&server, 1024).unwrap();
    let connections: Vec<_> = (0..300).map(|_| guest.start_connect("93.184.216.34:443")).collect();
    let mut peers = Vec::new();
    for &connection in &connections {
        assert!(guest.wait_connected(connection).is_some());
        peers.push(server.accept().unwrap().0);
    }
    assert_eq!(handle.report().unwrap().tcp_flows, 300);
    for peer in &mut peers {
        std::io::Write::write_all(peer, b"x").unwrap();
    }
    for connection in connections {
        assert_eq!(guest.read(connection, 1), b"x");
    }
}

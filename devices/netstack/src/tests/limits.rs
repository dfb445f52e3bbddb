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
fn over_the_limit_the_mapping_that_was_idle_longest_makes_room() {
    let limits = Limits { udp_mappings: 3, ..Limits::default() };
    let Bench { mut guest, internet, handle } = Setup { limits, ..Setup::new(public()) }.start();
    let server = internet.udp("93.184.216.34:9");
    let mut hear = |port| {
        guest.send_udp(port, "93.184.216.34:9", b"x");
        server.recv_from(&mut [0; 8]).unwrap().1
    };
    let mappings = [5000, 5001, 5002].map(&mut hear);
    assert_eq!(hear(5000), mappings[0]);
    let newest = hear(5003);

    // The second of them is gone, the first was used since.
    for (mapping, to) in [(mappings[1], None), (mappings[0], Some(5000)), (newest, Some(5003))] {
        let _refused = server.send_to(b"y", mapping);
        let heard = guest.receive(Duration::from_millis(200));
        assert_eq!(heard.map(|heard| heard.to()), to);
    }
    assert_eq!(handle.report().unwrap().udp_mappings, 3);
    let events = internet.events();
    assert!(events.iter().any(|event| event.contains("UDP mappings")), "{events:?}");
    assert!(events.iter().any(|event| event.contains("outcome: Evicted")), "{events:?}");
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

#[test]
fn a_fault_of_the_gateway_costs_one_flow_and_no_more() {
    let Bench { mut guest, internet, handle } = bench(public());
    let socket = internet.udp("93.184.216.34:9");
    internet.trap("93.184.216.34:666");
    for round in 1..=100 {
        guest.send_udp(5000 + round, "93.184.216.34:666", b"x");
    }
    guest.send_udp(5000, "93.184.216.34:9", b"still here");
    let mut buffer = [0; 16];
    let count = socket.recv(&mut buffer).unwrap();
    assert_eq!(&buffer[..count], b"still here");
    guest.expect_silence();
    assert_eq!(handle.report().unwrap().udp_mappings, 1);
}

#[test]
fn thousands_of_datagram_flows_stay_within_the_limit() {
    let limits = Limits { udp_mappings: 100, ..Limits::default() };
    let Bench { mut guest, internet, handle } = Setup { limits, ..Setup::new(public()) }.start();
    let server = internet.udp("93.184.216.34:9");
    let mut newest = server.local_addr().unwrap();
    for port in 1..=5000 {
        guest.send_udp(port, "93.184.216.34:9", b"x");
        newest = server.recv_from(&mut [0; 8]).unwrap().1;
    }
    assert_eq!(handle.report().unwrap().udp_mappings, 100);
    server.send_to(b"y", newest).unwrap();
    assert_eq!(guest.expect().to(), 5000);
}

#[test]
fn a_hundred_thousand_frames_of_any_kind_leave_nothing_behind() {
    let Bench { mut guest, internet, handle } = bench(public());
    let addresses = crate::Addresses::default();
    let (own, gateway) = (addresses.guest_v4.into(), addresses.gateway_v4.into());
    for round in 0..20_000u16 {
        let to = std::net::SocketAddr::from(([10, 0, 0, 1], 443));
        let from = std::net::SocketAddr::new(own, round.max(1));
        guest.send_ip(&guest::udp_packet(from, to, b"x"));
        guest.send_ip(&guest::tcp_packet(from, to, guest::SYN, &[]));
        guest.send_ip(&guest::packet(own, to.ip(), 47, &[0; 40]));
        guest.send_ip(&guest::packet(own, gateway, crate::wire::ICMP, &[8, 0, 0xf7, 0xff, 0, 0, 0, 0]));
        guest.send_frame(&[0xff; 60]);
        while guest.receive_frame(Duration::ZERO).is_some() {}
    }
    guest.idle();
    let report = handle.report().unwrap();
    assert_eq!((report.tcp_flows, report.udp_mappings), (0, 0));
    assert_eq!(internet.dialed(), []);
    assert!(report.dropped.len() < 10, "{:?}", report.dropped);
    let _server = internet.tcp("93.184.216.34:443");
    assert!(guest.connect("93.184.216.34:443").is_some());
}

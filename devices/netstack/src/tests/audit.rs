//! What the audit is told of flows, from their verdict to their end.

use std::collections::HashSet;
use std::io::Write;
use std::net::{TcpStream, UdpSocket};

use policy::Protocol;

use super::dns::resolve;
use super::*;
use crate::{Outcome, Publish, Subject, Transport};

const SERVER: &str = "93.184.216.34:80";

#[test]
fn every_flow_and_question_has_a_number_of_its_own() {
    let Bench { mut guest, internet, handle: _handle } = bench(public());
    let _server = internet.tcp(SERVER);
    internet.name("api.example.com", &[PUBLIC]);
    resolve(&mut guest, "api.example.com", 1);
    for _ in 0..3 {
        assert!(guest.connect(SERVER).is_some());
        guest.send_syn(9, "10.0.0.1:80");
        guest.send_udp(9, "10.0.0.1:9", b"x");
    }
    guest.idle();
    let events = internet.events();
    let numbers: Vec<&str> = events.iter().filter_map(|event| number(event)).collect();
    // Three connections, three refused ones, one refused datagram flow, one question.
    assert_eq!(numbers.len(), 8, "{events:?}");
    assert_eq!(numbers.iter().collect::<HashSet<_>>().len(), 8, "{events:?}");
}

fn number(event: &str) -> Option<&str> {
    let (_, rest) = event.split_once("number: ")?;
    rest.split([',', ' ']).next()
}

#[test]
fn the_end_of_a_flow_repeats_its_number_name_and_rule() {
    let Bench { mut guest, internet, handle: _handle } = bench(rules(&["api.example.com:80", "www.example.com:80"]));
    let server = internet.tcp(SERVER);
    internet.name("api.example.com", &[PUBLIC]);
    internet.name("www.example.com", &[PUBLIC]);
    resolve(&mut guest, "api.example.com", 1);
    resolve(&mut guest, "www.example.com", 1);
    let connection = guest.connect(SERVER).unwrap();
    let (mut peer, _) = server.accept().unwrap();
    guest.write(connection, b"GET / HTTP/1.1\r\nHost: api.example.com\r\n\r\n");
    peer.write_all(b"gone").unwrap();
    assert_eq!(guest.read(connection, 4), b"gone");
    guest.reset(connection);
    guest.idle();

    let verdicts = internet.verdicts();
    let [(asked, true)] = verdicts.as_slice() else { panic!("{verdicts:?}") };
    let closed = internet.closed();
    let [(ended, Outcome::GuestReset)] = closed.as_slice() else { panic!("{closed:?}") };
    let allow = |name: &str| format!("allow {name}:80");
    assert_eq!((asked.number, &asked.rule), (ended.number, &ended.rule));
    assert!([allow("api.example.com"), allow("www.example.com")].contains(&ended.rule), "{ended:?}");
    assert_eq!(asked.names.len(), 2);
    assert!(ended.names.iter().any(|name| name.as_str() == "api.example.com"), "{ended:?}");
}

#[test]
fn connections_to_published_ports_name_their_port_and_client() {
    let Bench { mut guest, internet, handle } = bench(nothing());
    let publish = |transport| Publish { bind: "127.0.0.1:0".parse().unwrap(), guest_port: 3000, transport };
    let at = handle.publish(publish(Transport::Tcp)).unwrap();
    let listening = guest.listen(3000);
    let client = TcpStream::connect(at).unwrap();
    guest.wait_connected(listening).unwrap();
    let own = client.local_addr().unwrap();
    drop(client);
    guest.idle();
    guest.reset(listening);
    guest.idle();

    let port = Publish { bind: at, ..publish(Transport::Tcp) };
    let expected = Subject {
        number: 1,
        protocol: Protocol::Tcp,
        remote: own,
        port: Some(port),
        names: Vec::new(),
        rule: "published port".to_owned(),
    };
    assert_eq!(internet.verdicts(), [(expected.clone(), true)]);
    assert_eq!(internet.closed().iter().map(|(flow, _)| flow).collect::<Vec<_>>(), [&expected]);

    let at = handle.publish(publish(Transport::Udp)).unwrap();
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.send_to(b"x", at).unwrap();
    guest.expect();
    let (heard, _) = internet.verdicts().pop().unwrap();
    assert_eq!((heard.remote, heard.port.unwrap().bind), (client.local_addr().unwrap(), at));
    handle.unpublish(at, Transport::Udp).unwrap();
    handle.report().unwrap();
    assert_eq!(internet.closed().pop().unwrap(), (heard, Outcome::Finished));
}

#[test]
fn a_flood_of_refusals_hides_no_connection() {
    let Bench { mut guest, internet, handle: _handle } = bench(public());
    let _server = internet.tcp(SERVER);
    for port in 1..=2000 {
        guest.send_syn(port, "10.0.0.1:443");
        while guest.receive_frame(Duration::ZERO).is_some() {}
    }
    assert!(guest.connect(SERVER).is_some());
    let allowed = internet.verdicts().into_iter().filter(|(_, allow)| *allow).count();
    assert_eq!(allowed, 1);
}

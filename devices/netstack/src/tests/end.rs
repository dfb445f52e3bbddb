//! The end of a gateway: whoever was connected hears of it, the audit hears of everything, and nothing moves
//! afterwards.

use std::collections::HashSet;
use std::io::{ErrorKind, Read};
use std::net::{TcpStream, UdpSocket};

use super::*;
use crate::{Outcome, Publish, Transport};

const SERVER: &str = "93.184.216.34:443";
const DATAGRAMS: &str = "93.184.216.34:9999";
/// How long something that must not come is waited for.
const MOMENT: Duration = Duration::from_millis(200);

#[test]
fn every_open_flow_has_its_end_in_the_audit() {
    // More than the audit is told in a second of what a guest causes.
    const COUNT: usize = 300;
    let Bench { mut guest, internet, handle } = bench(public());
    let server = internet.tcp(SERVER);
    rustix::net::listen(&server, 1024).unwrap();
    let datagrams = internet.udp(DATAGRAMS);
    let connections: Vec<_> = (0..COUNT).map(|_| guest.start_connect(SERVER)).collect();
    for connection in connections {
        assert!(guest.wait_connected(connection).is_some());
    }
    guest.send_udp(5000, DATAGRAMS, b"x");
    datagrams.recv_from(&mut [0; 8]).unwrap();

    drop(handle);
    let closed = internet.closed();
    assert!(closed.iter().all(|(_, outcome)| *outcome == Outcome::Stopped), "{closed:?}");
    let numbers: HashSet<u64> = closed.iter().map(|(flow, _)| flow.number).collect();
    assert_eq!((closed.len(), numbers.len()), (COUNT + 1, COUNT + 1));
}

#[test]
fn everybody_hears_of_it_and_then_there_is_silence() {
    let publish = [Transport::Tcp, Transport::Udp].map(|transport| Publish {
        bind: "127.0.0.1:0".parse().unwrap(),
        guest_port: 3000,
        transport,
    });
    let Bench { mut guest, internet, handle } =
        Setup::new(public()).start_with(|config| config.publish = publish.to_vec());
    let ports = handle.report().unwrap().published;
    let (server, datagrams) = (internet.tcp(SERVER), internet.udp(DATAGRAMS));
    let connection = guest.connect(SERVER).unwrap();
    let (mut peer, _) = server.accept().unwrap();
    guest.send_udp(5000, DATAGRAMS, b"x");
    let (_, mapping) = datagrams.recv_from(&mut [0; 8]).unwrap();

    drop(handle);
    assert_eq!(peer.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!(guest.read_to_end(connection), None);
    let (events, dialed) = (internet.events(), internet.dialed());

    guest.send_udp(5000, DATAGRAMS, b"late");
    guest.send_udp(5001, "100.96.0.1:53", b"late");
    guest.send_syn(6000, SERVER);
    let late = UdpSocket::bind("127.0.0.1:0").unwrap();
    for port in ports {
        assert!(port.port.transport == Transport::Udp || TcpStream::connect(port.port.bind).is_err());
        late.send_to(b"late", port.port.bind).unwrap();
    }
    let _refused = datagrams.send_to(b"late", mapping);
    guest.expect_silence();
    server.set_nonblocking(true).unwrap();
    datagrams.set_read_timeout(Some(MOMENT)).unwrap();
    assert_eq!(server.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
    // The host's own word that the mapping is gone comes first, perhaps.
    let heard = (0..2).find_map(|_| datagrams.recv_from(&mut [0; 8]).ok());
    assert_eq!(heard, None);
    assert_eq!((internet.events(), internet.dialed()), (events, dialed));
}

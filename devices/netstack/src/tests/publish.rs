//! Ports of the guest on the host.

use std::io::{Read, Write};
use std::net::TcpStream;

use smoltcp::socket::tcp::State;

use super::*;
use crate::Publish;

fn published(bind: &str) -> Bench {
    let publish = Publish { bind: bind.parse().unwrap(), guest_port: 3000 };
    Setup::new(nothing()).start_with(|config| config.publish = vec![publish])
}

#[test]
fn a_client_of_the_host_reaches_the_guest() {
    for bind in ["127.0.0.1:0", "[::1]:0"] {
        let Bench { mut guest, internet: _internet, handle } = published(bind);
        let at = handle.report().unwrap().published[0].bind;
        let listening = guest.listen(3000);
        let mut client = TcpStream::connect(at).unwrap();
        let connection = guest.wait_connected(listening).unwrap();
        assert_eq!(guest.peer(connection).ip(), crate::Addresses::default().gateway_for(at.ip()));

        client.write_all(b"GET").unwrap();
        assert_eq!(guest.read(connection, 3), b"GET");
        guest.write(connection, b"200 OK");
        guest.finish(connection);
        guest.idle();
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).unwrap();
        assert_eq!(answer, b"200 OK");
    }
}

#[test]
fn a_guest_that_does_not_listen_refuses() {
    let Bench { mut guest, internet: _internet, handle } = published("127.0.0.1:0");
    let at = handle.report().unwrap().published[0].bind;
    let mut client = TcpStream::connect(at).unwrap();
    guest.idle();
    assert_eq!(client.read(&mut [0; 1]).unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!(handle.report().unwrap().tcp_flows, 0);
}

#[test]
fn a_half_closed_client_still_hears_the_guest() {
    let Bench { mut guest, internet: _internet, handle } = published("127.0.0.1:0");
    let at = handle.report().unwrap().published[0].bind;
    let listening = guest.listen(3000);
    let mut client = TcpStream::connect(at).unwrap();
    let connection = guest.wait_connected(listening).unwrap();
    client.write_all(b"question").unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(guest.read_to_end(connection).unwrap(), b"question");
    guest.write(connection, b"answer");
    guest.finish(connection);
    guest.wait_state(connection, State::Closed);
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, b"answer");
}

#[test]
fn a_taken_port_is_an_error_that_names_it() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let bind = taken.local_addr().unwrap();
    let FrameLink { stack, .. } = FrameLink::new().unwrap();
    let mut config = NetConfig::new(nothing());
    config.publish = vec![Publish { bind, guest_port: 3000 }];
    let error = Netstack::start(stack, config).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
    assert!(error.to_string().contains(&bind.to_string()), "{error}");
}

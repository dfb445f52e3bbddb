//! Flows of a guest by way of a fake proxy.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use policy::Protocol;

use super::Proxy;
use crate::tests::guest::Received;
use crate::tests::{Bench, PUBLIC, Setup, dns, public};

const SERVER: &str = "93.184.216.34:443";
const PROXY: &str = "10.9.9.9:3128";

fn behind_proxy(no_proxy: &str) -> (Bench, TcpListener) {
    let bench = Setup::new(public()).start_with(|config| {
        let proxy = Proxy::from_environment(|name| match name {
            "HTTPS_PROXY" => Some(format!("http://me:pw@{PROXY}")),
            "NO_PROXY" => Some(no_proxy.to_owned()),
            _ => None,
        });
        config.proxy = proxy.unwrap();
    });
    let listener = bench.internet.tcp(PROXY);
    (bench, listener)
}

fn head(peer: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        peer.read_exact(&mut byte).unwrap();
        bytes.extend(byte);
    }
    String::from_utf8(bytes).unwrap()
}

#[test]
fn a_flow_is_opened_at_the_proxy_by_the_name_that_was_resolved() {
    let (Bench { mut guest, internet, handle: _handle }, proxy) = behind_proxy("");
    internet.name("api.example.com", &[PUBLIC]);
    dns::resolve(&mut guest, "api.example.com", 1);
    let connection = guest.start_connect(SERVER);
    guest.idle();
    let (mut peer, _) = proxy.accept().unwrap();
    let request = head(&mut peer);
    assert!(request.starts_with("CONNECT api.example.com:443 HTTP/1.1\r\nHost: api.example.com:443\r\n"), "{request}");
    assert!(request.contains("Proxy-Authorization: Basic bWU6cHc=\r\n"));
    // The guest is answered only when the proxy has been, and what comes with the answer is for the guest.
    peer.write_all(b"HTTP/1.1 200 Connection est").unwrap();
    guest.idle();
    assert!(!guest.is_connected(connection));
    peer.write_all(b"ablished\r\nVia: x\r\n\r\nhello").unwrap();
    guest.wait_connected(connection).unwrap();
    assert_eq!(guest.read(connection, 5), b"hello");
    guest.write(connection, b"world");
    guest.idle();
    let mut bytes = [0; 5];
    peer.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"world");
    assert_eq!(internet.dialed(), [(Protocol::Tcp, PROXY.parse().unwrap())]);
}

#[test]
fn a_proxy_that_fails_is_never_gone_around() {
    let (Bench { mut guest, internet, handle: _handle }, proxy) = behind_proxy("");
    let _server = internet.tcp(SERVER);
    for answer in ["HTTP/1.1 403 Forbidden\r\n\r\n", "HTTP/1.1 407 Who?\r\n\r\n", "SSH-2.0-x\r\n\r\n", ""] {
        let connection = guest.start_connect(SERVER);
        guest.idle();
        let (mut peer, _) = proxy.accept().unwrap();
        assert!(head(&mut peer).starts_with("CONNECT 93.184.216.34:443 "));
        peer.write_all(answer.as_bytes()).unwrap();
        drop(peer);
        assert!(guest.wait_connected(connection).is_none(), "{answer:?}");
    }
    drop(proxy);
    assert!(guest.connect(SERVER).is_none());
    assert!(internet.dialed().iter().all(|(_, address)| *address == PROXY.parse().unwrap()));
}

#[test]
fn exceptions_and_the_host_itself_go_around_the_proxy() {
    let (Bench { mut guest, internet, handle }, _proxy) = behind_proxy("93.184.216.0/24");
    let _server = internet.tcp(SERVER);
    let ways = handle.report().unwrap().ways;
    assert_eq!(ways, ["out by proxy 10.9.9.9:3128, over TCP only", "around the proxy: 93.184.216.0/24"]);
    assert!(guest.connect(SERVER).is_some());
    assert_eq!(internet.dialed(), [(Protocol::Tcp, SERVER.parse().unwrap())]);
}

#[test]
fn datagrams_do_not_go_around_the_proxy() {
    let (Bench { mut guest, internet, handle: _handle }, _proxy) = behind_proxy("");
    guest.send_udp(5000, SERVER, b"quic");
    assert!(matches!(guest.expect(), Received::Icmp { kind: 3, .. }));
    assert_eq!(internet.dialed(), []);
}

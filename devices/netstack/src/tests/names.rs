//! What a flow that rests on a name may say: judged by which bytes the fake upstream saw.

use std::io::Read;
use std::net::{TcpListener, TcpStream};

use super::*;
use crate::StreamChecks;
use crate::inspect::sample::{client_hello, extension, hello, records, sni};

const API: &str = "93.184.216.34:443";

fn request(host: &str) -> Vec<u8> {
    format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").into_bytes()
}

/// A gateway under `policy` whose guest has resolved api.example.com and git.pkg.example to one address.
fn resolved(policy: Policy) -> Bench {
    resolved_with(policy, |_| {})
}

fn resolved_with(policy: Policy, change: impl FnOnce(&mut NetConfig)) -> Bench {
    let mut bench = Setup::new(policy).start_with(change);
    for name in ["api.example.com", "git.pkg.example"] {
        bench.internet.name(name, &[PUBLIC]);
        dns::resolve(&mut bench.guest, name, 1);
    }
    bench
}

/// What the upstream of a connection sees of `stream`; none when the connection was broken off instead.
fn seen(bench: &mut Bench, listener: &TcpListener, stream: &[u8]) -> Option<Vec<u8>> {
    let at = listener_port(listener);
    let connection = bench.guest.connect(&format!("{PUBLIC}:{at}")).expect("the address is pinned");
    let (mut peer, _) = listener.accept().unwrap();
    bench.guest.write(connection, stream);
    bench.guest.finish(connection);
    bench.guest.idle();
    let mut bytes = Vec::new();
    match peer.read_to_end(&mut bytes) {
        Ok(_) => Some(bytes),
        Err(error) => {
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
            assert_eq!(bytes, b"", "denied after bytes had gone");
            None
        }
    }
}

thread_local! {
    static PORTS: std::cell::RefCell<std::collections::HashMap<u16, u16>> = std::cell::RefCell::default();
}

/// A server at `port` of the public address.
fn serve(bench: &Bench, port: u16) -> TcpListener {
    let listener = bench.internet.tcp(&format!("{PUBLIC}:{port}"));
    let real = listener.local_addr().unwrap().port();
    PORTS.with_borrow_mut(|ports| ports.insert(real, port));
    listener
}

fn listener_port(listener: &TcpListener) -> u16 {
    let real = listener.local_addr().unwrap().port();
    PORTS.with_borrow(|ports| ports[&real])
}

#[test]
fn tls_for_the_pinned_name_goes_through_and_for_others_does_not() {
    let mut bench = resolved(names());
    let listener = serve(&bench, 443);
    let good = [&client_hello("api.example.com")[..], b"and whatever follows"].concat();
    assert_eq!(seen(&mut bench, &listener, &good), Some(good));
    let encrypted = records(&hello(&[sni("api.example.com"), extension(0xfe0d, &[0; 40])]), 999);
    for (what, stream) in [
        ("another name", client_hello("evil.test")),
        ("a name that is allowed but not pinned here", client_hello("other.pkg.example")),
        ("no name", records(&hello(&[]), 999)),
        ("an encrypted hello", encrypted),
        ("fake TLS", b"\x16\x03\x01\x00\x05raw bytes".to_vec()),
        ("SSH", b"SSH-2.0-OpenSSH_9.2\r\n".to_vec()),
        ("half a hello", client_hello("api.example.com")[..40].to_vec()),
    ] {
        assert_eq!(seen(&mut bench, &listener, &stream), None, "{what}");
    }
    let events = bench.internet.events();
    assert!(events.iter().any(|event| event.starts_with("Stream") && event.contains("evil.test")), "{events:?}");
    assert!(events.iter().any(|event| event.contains("outcome: Denied")));
}

#[test]
fn a_hello_in_any_number_of_pieces_is_read() {
    let mut bench = resolved(names());
    let listener = serve(&bench, 443);
    let message = hello(&[sni("api.example.com"), extension(51, &[7; 1216])]);
    let long = hello(&[sni("api.example.com"), extension(21, &vec![0; 65_000])]);
    for stream in [records(&message, 16_384), records(&message, 500), records(&message, 1), records(&long, 16_384)] {
        assert_eq!(seen(&mut bench, &listener, &stream), Some(stream));
    }
    // One byte to a segment.
    let stream = client_hello("api.example.com");
    let connection = bench.guest.connect(API).unwrap();
    let (mut peer, _) = listener.accept().unwrap();
    for byte in &stream {
        bench.guest.write(connection, &[*byte]);
        bench.guest.flush();
    }
    let mut bytes = vec![0; stream.len()];
    peer.read_exact(&mut bytes).unwrap();
    assert_eq!(bytes, stream);
}

#[test]
fn a_hello_that_never_ends_is_given_up() {
    let patience = Duration::from_millis(100);
    let checks = StreamChecks { patience, ..StreamChecks::default() };
    let mut bench = resolved_with(names(), |config| config.checks = checks);
    let listener = serve(&bench, 443);
    let slow = bench.guest.connect(API).unwrap();
    let (mut peer, _) = listener.accept().unwrap();
    bench.guest.write(slow, &client_hello("api.example.com")[..40]);
    assert_eq!(bench.guest.read_to_end(slow), None);
    assert_eq!(peer.read(&mut [0; 1]).unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    // Silence is not slowness: a whole hello that comes late is as good as any.
    let late = bench.guest.connect(API).unwrap();
    let (mut peer, _) = listener.accept().unwrap();
    bench.guest.idle();
    bench.guest.idle();
    bench.guest.write(late, &client_hello("api.example.com"));
    bench.guest.idle();
    assert!(peer.read(&mut [0; 1]).unwrap() == 1);
}

#[test]
fn unnamed_tls_passes_where_it_was_switched_on() {
    let checks = StreamChecks { allow_unnamed_tls: true, ..StreamChecks::default() };
    let mut bench = resolved_with(names(), |config| config.checks = checks);
    let listener = serve(&bench, 443);
    let stream = records(&hello(&[]), 999);
    assert_eq!(seen(&mut bench, &listener, &stream), Some(stream));
}

#[test]
fn every_request_of_plain_http_must_be_for_the_pinned_name() {
    let mut bench = resolved(rules(&["api.example.com:80"]));
    let listener = serve(&bench, 80);
    let good = [request("api.example.com"), request("API.example.com:80")].concat();
    assert_eq!(seen(&mut bench, &listener, &good), Some(good));
    for (what, stream) in [
        ("another host", request("evil.test")),
        ("CONNECT", b"CONNECT evil.test:443 HTTP/1.1\r\nHost: api.example.com\r\n\r\n".to_vec()),
        ("another host in the target", b"GET http://evil.test/ HTTP/1.1\r\nHost: api.example.com\r\n\r\n".to_vec()),
        ("WebSocket", b"GET / HTTP/1.1\r\nHost: api.example.com\r\nUpgrade: websocket\r\n\r\n".to_vec()),
        ("no host", b"GET / HTTP/1.0\r\n\r\n".to_vec()),
        ("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec()),
    ] {
        assert_eq!(seen(&mut bench, &listener, &stream), None, "{what}");
    }
    // The first request is gone when the second is judged, but nothing of the second goes.
    let connection = bench.guest.connect("93.184.216.34:80").unwrap();
    let (mut peer, _) = listener.accept().unwrap();
    bench.guest.write(connection, &request("api.example.com"));
    bench.guest.idle();
    bench.guest.write(connection, &request("evil.test"));
    assert_eq!(bench.guest.read_to_end(connection), None);
    let mut bytes = Vec::new();
    let _ = peer.read_to_end(&mut bytes);
    assert!(!bytes.windows(4).any(|window| window == b"evil"), "{bytes:?}");
}

#[test]
fn other_protocols_need_a_rule_that_names_their_port() {
    let ssh = b"SSH-2.0-OpenSSH_9.2\r\n".to_vec();
    let mut bench = resolved(rules(&["api.example.com:22"]));
    let listener = serve(&bench, 22);
    assert_eq!(seen(&mut bench, &listener, &ssh), Some(ssh.clone()));
    let mut bench = resolved(rules(&["api.example.com"]));
    let listener = serve(&bench, 22);
    assert_eq!(seen(&mut bench, &listener, &ssh), None);
}

#[test]
fn a_server_that_speaks_first_is_heard_at_once() {
    for rule in ["api.example.com:22", "93.184.216.34"] {
        let mut bench = resolved(rules(&["api.example.com:22", rule]));
        let listener = serve(&bench, 22);
        let connection = bench.guest.connect("93.184.216.34:22").unwrap();
        let (mut peer, _) = listener.accept().unwrap();
        std::io::Write::write_all(&mut peer, b"SSH-2.0-x\r\n").unwrap();
        assert_eq!(bench.guest.read(connection, 11), b"SSH-2.0-x\r\n");
    }
}

#[test]
fn flows_that_rest_on_no_name_are_not_looked_into() {
    for policy in [public(), rules(&["api.example.com", "93.184.216.34"])] {
        let mut bench = resolved(policy);
        let listener = serve(&bench, 443);
        for stream in [client_hello("evil.test"), b"anything".to_vec()] {
            assert_eq!(seen(&mut bench, &listener, &stream), Some(stream));
        }
    }
}

#[test]
fn a_connection_outlives_the_pin_but_not_the_rule() {
    let mut bench = resolved(names());
    let listener = serve(&bench, 443);
    let connection = bench.guest.connect(API).unwrap();
    let (mut peer, _): (TcpStream, _) = listener.accept().unwrap();
    let stream = client_hello("api.example.com");
    bench.guest.write(connection, &stream);
    bench.guest.idle();
    peer.read_exact(&mut vec![0; stream.len()]).unwrap();

    bench.handle.set_policy(rules(&["api.example.com:443"])).unwrap();
    bench.guest.write(connection, b"x");
    bench.guest.idle();
    peer.read_exact(&mut [0; 1]).unwrap();

    // The other name of the address does not carry a connection that said this one.
    bench.handle.set_policy(rules(&["*.pkg.example:443"])).unwrap();
    assert_eq!(bench.guest.read_to_end(connection), None);
}

#[test]
fn a_pin_ends_after_its_grace_and_a_connection_does_not() {
    let moment = Duration::from_millis(50);
    let limits = Limits { pin_least: moment, pin_grace: moment, ..Limits::default() };
    let Bench { mut guest, internet, handle: _handle } = Setup { limits, ..Setup::new(names()) }.start();
    let listener = internet.tcp(API);
    internet.set_ttl(0);
    internet.name("api.example.com", &[PUBLIC]);
    dns::resolve(&mut guest, "api.example.com", 1);
    let connection = guest.connect(API).expect("within the grace");
    let (mut peer, _) = listener.accept().unwrap();

    guest.idle();
    assert!(guest.connect(API).is_none(), "the pin has expired");
    let stream = client_hello("api.example.com");
    guest.write(connection, &stream);
    guest.idle();
    peer.read_exact(&mut vec![0; stream.len()]).unwrap();

    dns::resolve(&mut guest, "api.example.com", 1);
    assert!(guest.connect(API).is_some(), "a new answer is a new pin");
}

#[test]
fn other_resolvers_are_out_of_reach_of_name_rules() {
    let Bench { mut guest, internet, handle: _handle } = bench(names());
    for server in ["1.1.1.1:443", "8.8.8.8:443", "1.1.1.1:853", "[2606:4700::1111]:443"] {
        assert!(guest.connect(server).is_none(), "{server}");
    }
    assert_eq!(dns::resolve(&mut guest, "dns.google", 1).rcode, 5);
    assert_eq!(internet.dialed(), []);
    assert_eq!(internet.asked(), Vec::<String>::new());
}

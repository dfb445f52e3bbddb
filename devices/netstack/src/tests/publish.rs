//! Ports of the guest on the host.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};

use smoltcp::socket::tcp::State;

use super::guest::Received;
use super::*;
use crate::{Publish, Transport};

fn published(bind: &str) -> Bench {
    let publish = Publish { bind: bind.parse().unwrap(), guest_port: 3000, transport: Transport::Tcp };
    Setup::new(nothing()).start_with(|config| config.publish = vec![publish])
}

#[test]
fn a_client_of_the_host_reaches_the_guest() {
    for bind in ["127.0.0.1:0", "[::1]:0"] {
        let Bench { mut guest, internet: _internet, handle } = published(bind);
        let at = handle.report().unwrap().published[0].port.bind;
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
    let at = handle.report().unwrap().published[0].port.bind;
    let mut client = TcpStream::connect(at).unwrap();
    guest.idle();
    assert_eq!(client.read(&mut [0; 1]).unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!(handle.report().unwrap().tcp_flows, 0);
}

#[test]
fn a_client_that_the_guest_refuses_is_relayed() {
    for bind in ["127.0.0.1:0", "[::1]:0"] {
        let Bench { mut guest, internet: _internet, handle } = published(bind);
        let at = handle.report().unwrap().published[0].port.bind;
        handle.set_relays(vec![(3000, 40_000)]).unwrap();
        let relay = guest.listen(40_000);
        let mut client = TcpStream::connect(at).unwrap();
        client.write_all(b"GET").unwrap();
        let connection = guest.wait_connected(relay).unwrap();
        assert!(guest.peer(connection).is_ipv4());
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
fn a_relay_that_refuses_too_is_the_end() {
    let Bench { mut guest, internet: _internet, handle } = published("127.0.0.1:0");
    let at = handle.report().unwrap().published[0].port.bind;
    handle.set_relays(vec![(3000, 40_000), (40_000, 3000)]).unwrap();
    let mut client = TcpStream::connect(at).unwrap();
    guest.idle();
    assert_eq!(client.read(&mut [0; 1]).unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!(handle.report().unwrap().tcp_flows, 0);
}

#[test]
fn a_half_closed_client_still_hears_the_guest() {
    let Bench { mut guest, internet: _internet, handle } = published("127.0.0.1:0");
    let at = handle.report().unwrap().published[0].port.bind;
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
fn a_taken_port_is_an_error_that_names_it_and_its_holder() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let socket = std::net::UdpSocket::bind("[::1]:0").unwrap();
    let taken = [(listener.local_addr().unwrap(), Transport::Tcp), (socket.local_addr().unwrap(), Transport::Udp)];
    let Bench { guest: _guest, internet: _internet, handle } = bench(nothing());
    for (bind, transport) in taken {
        let publish = Publish { bind, guest_port: 3000, transport };
        let FrameLink { stack, .. } = FrameLink::new().unwrap();
        let mut config = NetConfig::new(nothing());
        config.publish = vec![publish];
        for error in [Netstack::start(stack, config).unwrap_err(), handle.publish(publish).unwrap_err()] {
            assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
            let text = error.to_string();
            let holder = format!("process {}", std::process::id());
            assert!(text.contains(&bind.to_string()) && text.contains(&holder), "{text}");
        }
    }
    assert_eq!(handle.report().unwrap().published, []);
}

#[test]
fn ports_come_and_go_while_the_guest_runs() {
    let Bench { mut guest, internet: _internet, handle } = bench(nothing());
    let publish = |bind: &str| Publish { bind: bind.parse().unwrap(), guest_port: 3000, transport: Transport::Tcp };
    let at = handle.publish(publish("127.0.0.1:0")).unwrap();
    let listening = guest.listen(3000);
    let mut client = TcpStream::connect(at).unwrap();
    let connection = guest.wait_connected(listening).unwrap();
    let published = handle.report().unwrap().published;
    assert_eq!((published[0].port.bind, published[0].connections), (at, 1));

    assert!(handle.unpublish(at, Transport::Tcp).unwrap());

    assert!(!handle.unpublish(at, Transport::Tcp).unwrap());
    assert_eq!(TcpStream::connect(at).unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
    // Whoever was connected stays so.
    client.write_all(b"still here").unwrap();
    assert_eq!(guest.read(connection, 10), b"still here");
    // And the address is free for the next one at once.
    assert_eq!(handle.publish(publish(&at.to_string())).unwrap(), at);
}

#[test]
fn a_published_port_is_open_at_its_own_address_only() {
    let Bench { guest: _guest, internet: _internet, handle } = bench(nothing());
    for bind in ["127.0.0.1:0", "[::1]:0", "[::]:0"] {
        let bind = bind.parse().unwrap();
        let at = handle.publish(Publish { bind, guest_port: 3000, transport: Transport::Tcp }).unwrap();
        let others =
            ["127.0.0.2", "127.0.0.1", "::1"].map(|address| SocketAddr::new(address.parse().unwrap(), at.port()));
        for other in others {
            let expected = other.ip() == at.ip() || (at.ip().is_unspecified() && other.is_ipv6());
            assert_eq!(TcpStream::connect(other).is_ok(), expected, "{other} for {at}");
        }
    }
}

#[test]
fn port_zero_of_the_guest_is_refused() {
    let Bench { guest: _guest, internet: _internet, handle } = bench(nothing());
    let publish = Publish { bind: "127.0.0.1:0".parse().unwrap(), guest_port: 0, transport: Transport::Tcp };
    assert_eq!(handle.publish(publish).unwrap_err().kind(), std::io::ErrorKind::InvalidInput);
}

#[test]
fn hundreds_of_ports_come_and_go_and_leave_nothing() {
    let Bench { guest: _guest, internet: _internet, handle } = bench(nothing());
    let descriptors = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let before = descriptors();
    for guest_port in 1..=300 {
        for transport in [Transport::Tcp, Transport::Udp] {
            let publish = Publish { bind: "127.0.0.1:0".parse().unwrap(), guest_port, transport };
            let at = handle.publish(publish).unwrap();
            assert!(handle.unpublish(at, transport).unwrap());
        }
    }
    assert_eq!(handle.report().unwrap().published, []);
    // Other tests of this process open some meanwhile, but not six hundred.
    assert!(descriptors() < before + 300);
}

/// A published UDP port, and where it is.
fn published_udp(bind: &str, limits: Limits) -> (Bench, SocketAddr) {
    let bench = Setup { limits, ..Setup::new(nothing()) }.start();
    let publish = Publish { bind: bind.parse().unwrap(), guest_port: 3000, transport: Transport::Udp };
    let at = bench.handle.publish(publish).unwrap();
    (bench, at)
}

fn client_of(at: SocketAddr) -> UdpSocket {
    let client = UdpSocket::bind(SocketAddr::new(at.ip(), 0)).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.connect(at).unwrap();
    client
}

#[test]
fn clients_of_a_udp_port_reach_the_guest_and_are_told_apart() {
    for bind in ["127.0.0.1:0", "[::1]:0"] {
        let (Bench { mut guest, internet: _internet, handle }, at) = published_udp(bind, Limits::default());
        let clients = [client_of(at), client_of(at)];
        let mut seen = Vec::new();
        for (client, data) in clients.iter().zip([&b"one"[..], b""]) {
            client.send(data).unwrap();
            let Received::Udp { from, to: 3000, data: heard } = guest.expect() else { panic!("no datagram") };
            assert_eq!((heard.as_slice(), from.ip()), (data, crate::Addresses::default().gateway_for(at.ip())));
            seen.push(from);
        }
        assert_ne!(seen[0], seen[1]);

        for (client, from) in clients.iter().zip(&seen) {
            guest.send_udp(3000, &from.to_string(), from.to_string().as_bytes());
            let mut answer = [0; 64];
            let count = client.recv(&mut answer).unwrap();
            assert_eq!(&answer[..count], from.to_string().as_bytes());
        }
        assert_eq!(handle.report().unwrap().published[0].connections, 2);
    }
}

#[test]
fn the_guest_reaches_only_clients_it_heard_from() {
    let (Bench { mut guest, internet, handle: _handle }, at) = published_udp("127.0.0.1:0", Limits::default());
    let client = client_of(at);
    client.send(b"x").unwrap();
    let Received::Udp { from, .. } = guest.expect() else { panic!("no datagram") };
    // From another port, and to another: both are the host's, which this guest may not reach.
    guest.send_udp(3001, &from.to_string(), b"x");
    assert!(guest.expect().is_prohibited());
    guest.send_udp(3000, &SocketAddr::new(from.ip(), from.port() + 1).to_string(), b"x");
    assert!(guest.expect().is_prohibited());
    assert_eq!(internet.dialed(), []);
}

#[test]
fn clients_cannot_use_up_what_the_guest_needs_for_itself() {
    let publish = Publish { bind: "127.0.0.1:0".parse().unwrap(), guest_port: 3000, transport: Transport::Tcp };
    let limits = Limits { tcp_flows: 4, ..Limits::default() };
    let setup = Setup { limits, ..Setup::new(public()) };
    let Bench { mut guest, internet, handle } = setup.start_with(|config| config.publish = vec![publish]);
    let _server = internet.tcp("93.184.216.34:443");
    let at = handle.report().unwrap().published[0].port.bind;
    let listening = [(); 3].map(|()| guest.listen(3000));
    let mut clients: Vec<_> = (0..4).map(|_| TcpStream::connect(at).unwrap()).collect();
    for connection in listening {
        assert!(guest.wait_connected(connection).is_some());
    }
    // Whoever comes too late is told at once, by an end or a reset.
    assert!(clients[3].read(&mut [0; 1]).map_or(true, |count| count == 0));
    assert_eq!(handle.report().unwrap().tcp_flows, 3);
    assert!(guest.connect("93.184.216.34:443").is_some());
}

#[test]
fn clients_over_the_limit_replace_the_one_that_was_idle_longest() {
    let limits = Limits { udp_clients: 2, ..Limits::default() };
    let (Bench { mut guest, internet: _internet, handle }, at) = published_udp("127.0.0.1:0", limits);
    let clients: Vec<UdpSocket> = (0..3).map(|_| client_of(at)).collect();
    for client in &clients {
        client.send(b"x").unwrap();
        assert_eq!(guest.expect().to(), 3000);
    }
    assert_eq!(handle.report().unwrap().udp_mappings, 2);
}

#[test]
fn an_unpublished_udp_port_forgets_its_clients() {
    let (Bench { mut guest, internet: _internet, handle }, at) = published_udp("127.0.0.1:0", Limits::default());
    client_of(at).send(b"x").unwrap();
    guest.expect();
    assert!(handle.unpublish(at, Transport::Udp).unwrap());
    assert_eq!(handle.report().unwrap().udp_mappings, 0);
    UdpSocket::bind(at).unwrap();
}

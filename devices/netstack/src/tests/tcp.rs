//! How connections behave.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use smoltcp::socket::tcp::State;

use super::*;

const SERVER: &str = "93.184.216.34:443";
const SERVER_V6: &str = "[2606:4700::1111]:443";

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|index| u8::try_from(index % 251).unwrap()).collect()
}

#[test]
fn bytes_go_both_ways_over_both_families() {
    for server in [SERVER, SERVER_V6] {
        let Bench { mut guest, internet, handle: _handle } = bench(public());
        let listener = internet.tcp(server);
        let connection = guest.connect(server).expect("allowed");
        let (mut peer, _) = listener.accept().unwrap();

        guest.write(connection, b"hello");
        guest.idle();
        let mut request = [0; 5];
        peer.read_exact(&mut request).unwrap();
        peer.write_all(b"world!").unwrap();

        assert_eq!((&request, guest.read(connection, 6).as_slice()), (b"hello", &b"world!"[..]));
    }
}

#[test]
fn a_refused_connection_is_refused_at_once() {
    let Bench { mut guest, internet, handle: _handle } = bench(public());
    let start = Instant::now();
    assert!(guest.connect(SERVER).is_none());
    assert!(start.elapsed() < Duration::from_secs(1));
    assert_eq!(internet.dialed().len(), 1);
}

#[test]
fn the_guest_is_connected_only_when_the_host_is() {
    let Bench { mut guest, internet, handle: _handle } = bench(public());
    // A listener whose queue is full: the host's connection hangs.
    let listener = internet.tcp(SERVER);
    rustix::net::listen(&listener, 0).unwrap();
    let address = listener.local_addr().unwrap();
    let _first = TcpStream::connect(address).unwrap();

    guest.send_syn(5000, SERVER);
    guest.expect_silence();

    drop(listener.accept().unwrap());
    let answer = guest.expect();
    assert!(matches!(answer, guest::Received::Tcp { syn: true, ack: true, reset: false, .. }), "{answer:?}");
}

#[test]
fn each_side_can_finish_alone() {
    let Bench { mut guest, internet, handle: _handle } = bench(public());
    let listener = internet.tcp(SERVER);
    let connection = guest.connect(SERVER).unwrap();
    let (mut peer, _) = listener.accept().unwrap();

    guest.write(connection, b"all of it");
    guest.finish(connection);
    guest.idle();
    let mut request = Vec::new();
    peer.read_to_end(&mut request).unwrap();
    peer.write_all(b"the answer").unwrap();
    peer.shutdown(Shutdown::Write).unwrap();

    assert_eq!(request, b"all of it");
    assert_eq!(guest.read_to_end(connection).unwrap(), b"the answer");
}

#[test]
fn the_remote_can_finish_first() {
    let Bench { mut guest, internet, handle: _handle } = bench(public());
    let listener = internet.tcp(SERVER);
    let connection = guest.connect(SERVER).unwrap();
    let (mut peer, _) = listener.accept().unwrap();

    peer.write_all(b"banner").unwrap();
    peer.shutdown(Shutdown::Write).unwrap();
    assert_eq!(guest.read_to_end(connection).unwrap(), b"banner");
    guest.write(connection, b"late words");
    guest.finish(connection);
    guest.idle();

    let mut words = Vec::new();
    peer.read_to_end(&mut words).unwrap();
    assert_eq!(words, b"late words");
}

#[test]
fn a_reset_of_the_remote_reaches_the_guest() {
    let Bench { mut guest, internet, handle: _handle } = bench(public());
    let listener = internet.tcp(SERVER);
    let connection = guest.connect(SERVER).unwrap();
    let (peer, _) = listener.accept().unwrap();

    rustix::net::sockopt::set_socket_linger(&peer, Some(Duration::ZERO)).unwrap();
    drop(peer);

    assert_eq!(guest.read_to_end(connection), None);
}

#[test]
fn a_reset_of_the_guest_reaches_the_remote() {
    let Bench { mut guest, internet, handle: _handle } = bench(public());
    let listener = internet.tcp(SERVER);
    let connection = guest.connect(SERVER).unwrap();
    let (mut peer, _) = listener.accept().unwrap();

    guest.reset(connection);
    guest.idle();

    let error = peer.read(&mut [0; 1]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[test]
fn bulk_arrives_whole_with_and_without_offloads_and_at_any_mtu() {
    const LEN: usize = 6 << 20;
    for (offloads, guest_mtu) in
        [(Offloads::default(), 65_520), (ALL_OFFLOADS, 65_520), (Offloads::default(), 1500), (ALL_OFFLOADS, 1500)]
    {
        let setup = Setup { offloads, guest_mtu, ..Setup::new(public()) };
        let Bench { mut guest, internet, handle: _handle } = setup.start();
        let listener = internet.tcp(SERVER);
        let connection = guest.connect(SERVER).unwrap();
        let (mut peer, _) = listener.accept().unwrap();
        let mut out = peer.try_clone().unwrap();

        let sender = std::thread::spawn(move || out.write_all(&pattern(LEN)).unwrap());
        let down = guest.read(connection, LEN);
        sender.join().unwrap();
        let receiver = std::thread::spawn(move || {
            let mut data = Vec::new();
            peer.read_to_end(&mut data).unwrap();
            data
        });
        guest.write(connection, &pattern(LEN));
        guest.finish(connection);
        guest.idle();
        let up = receiver.join().unwrap();

        assert!(down == pattern(LEN) && up == pattern(LEN), "bytes were changed on the way");
        assert_eq!(guest.large_segments() > 0, offloads == ALL_OFFLOADS && guest_mtu == 1500);
    }
}

#[test]
fn a_remote_that_does_not_read_stops_the_guest() {
    let Bench { mut guest, internet, handle: _handle } = bench(public());
    let listener = internet.tcp(SERVER);
    let connection = guest.connect(SERVER).unwrap();
    let (peer, _) = listener.accept().unwrap();

    let taken = guest.write_until_stuck(connection);

    // The socket buffers of guest and host, and the gateway's own.
    assert!(taken < 16 << 20, "{taken} bytes were taken");
    drop(peer);
}

#[test]
fn a_guest_that_does_not_read_stops_the_remote_and_gets_all_later() {
    const LEN: usize = 32 << 20;
    let Bench { mut guest, internet, handle } = bench(public());
    let listener = internet.tcp(SERVER);
    let connection = guest.connect(SERVER).unwrap();
    let (mut peer, _) = listener.accept().unwrap();

    let sender = std::thread::spawn(move || peer.write_all(&pattern(LEN)).unwrap());
    guest.idle();
    assert!(!sender.is_finished());
    assert_eq!(handle.report().unwrap().tcp_flows, 1);
    assert!(guest.read(connection, LEN) == pattern(LEN));
    sender.join().unwrap();
}

#[test]
fn nothing_is_left_of_a_finished_connection() {
    let Bench { mut guest, internet, handle } = bench(public());
    let listener = internet.tcp(SERVER);
    for _ in 0..50 {
        let connection = guest.connect(SERVER).unwrap();
        let (peer, _) = listener.accept().unwrap();
        drop(peer);
        guest.wait_state(connection, State::CloseWait);
        guest.finish(connection);
        guest.wait_state(connection, State::Closed);
    }
    guest.idle();
    assert_eq!(handle.report().unwrap().tcp_flows, 0);
    let closed = internet.events().iter().filter(|event| event.contains("outcome: Finished")).count();
    assert_eq!(closed, 50);
}

#[test]
fn a_segment_of_no_connection_is_reset() {
    let Bench { mut guest, internet, handle: _handle } = bench(public());
    let packet = guest::tcp_packet("100.96.0.2:5000".parse().unwrap(), SERVER.parse().unwrap(), guest::ACK, b"stale");
    guest.send_ip(&packet);
    assert!(guest.expect().is_reset());
    assert_eq!(internet.dialed(), []);
}

#[test]
fn odd_openings_dial_nobody() {
    let Bench { mut guest, internet, handle: _handle } = bench(public());
    let (from, to) = ("100.96.0.2:5000".parse().unwrap(), SERVER.parse().unwrap());
    guest.send_ip(&guest::tcp_packet(from, to, guest::SYN, b"early data"));
    guest.send_ip(&guest::tcp_packet(from, to, guest::SYN | guest::FIN, &[]));
    guest.send_ip(&guest::tcp_packet(from, to, guest::RST, &[]));
    guest.send_ip(&guest::tcp_packet(from, to, 0, &[]));
    let zero_port = "93.184.216.34:0".parse().unwrap();
    guest.send_ip(&guest::tcp_packet(from, zero_port, guest::SYN, &[]));
    guest.idle();
    assert_eq!(internet.dialed(), []);
}

#[test]
fn dropping_the_handle_ends_everything_quickly() {
    let Bench { mut guest, internet, handle } = bench(public());
    let listener = internet.tcp(SERVER);
    guest.connect(SERVER).unwrap();
    let (mut peer, _) = listener.accept().unwrap();

    let start = Instant::now();
    drop(handle);

    assert!(start.elapsed() < Duration::from_millis(500));
    assert_eq!(peer.read(&mut [0; 1]).unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    while guest.receive(Duration::from_millis(10)).is_some() {}
    assert!(guest.is_gone());
}

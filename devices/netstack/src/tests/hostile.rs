//! Guests and remotes that do not play by the book: others must not notice.

use std::collections::HashSet;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;

use super::guest::Received;
use super::*;
use crate::Dialer;

const SERVER: &str = "93.184.216.34:443";
const SILENT: &str = "93.184.216.34:444";

/// A server whose queue of connections is full: who dials it waits.
fn silent(internet: &Internet) -> (TcpListener, TcpStream) {
    let listener = internet.tcp(SILENT);
    rustix::net::listen(&listener, 0).unwrap();
    let first = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (listener, first)
}

#[test]
fn a_repeated_opening_dials_once_and_is_answered_once_the_remote_is_there() {
    let Bench { mut guest, internet, handle } = bench(public());
    let (listener, _first) = silent(&internet);
    for _ in 0..5 {
        guest.send_syn(5000, SILENT);
    }
    guest.expect_silence();
    assert_eq!(handle.report().unwrap().tcp_flows, 1);
    assert_eq!(internet.dialed().len(), 1);

    drop(listener.accept().unwrap());
    assert!(matches!(guest.expect(), Received::Tcp { syn: true, ack: true, reset: false, to: 5000, .. }));
}

#[test]
fn a_guest_that_gives_up_frees_the_attempt() {
    let Bench { mut guest, internet, handle } = bench(public());
    let (_listener, _first) = silent(&internet);
    guest.send_syn(5000, SILENT);
    guest.expect_silence();
    let (from, to) = ("100.96.0.2:5000".parse().unwrap(), SILENT.parse().unwrap());
    guest.send_ip(&guest::tcp_packet(from, to, guest::RST, &[]));
    guest.expect_silence();
    assert_eq!(handle.report().unwrap().tcp_flows, 0);
}

#[test]
fn a_flood_to_a_silent_remote_stops_at_its_cap_and_others_go_on() {
    const CAP: usize = 16;
    let limits = Limits { tcp_connecting: CAP, ..Limits::default() };
    let Bench { mut guest, internet, handle } = Setup { limits, ..Setup::new(public()) }.start();
    let server = internet.tcp(SERVER);
    let connection = guest.connect(SERVER).unwrap();
    let (mut peer, _) = server.accept().unwrap();
    let (_listener, _first) = silent(&internet);

    let refused = (0..200u16)
        .filter(|index| {
            guest.send_syn(5000 + index, SILENT);
            guest.receive(Duration::from_millis(2)).is_some_and(|answer| answer.is_reset())
        })
        .count();
    let late = std::iter::from_fn(|| guest.receive(Duration::from_millis(100))).filter(Received::is_reset).count();

    assert_eq!(refused + late, 200 - CAP);
    assert_eq!(handle.report().unwrap().tcp_flows, 1 + CAP);
    peer.write_all(b"still here").unwrap();
    assert_eq!(guest.read(connection, 10), b"still here");
}

#[test]
fn five_thousand_connections_are_open_at_once_and_one_more_works() {
    const COUNT: u16 = 5000;
    raise_descriptor_limit();
    let Bench { mut guest, internet, handle } = bench(public());
    let server = internet.tcp(SERVER);
    rustix::net::listen(&server, 4096).unwrap();
    let keeper = std::thread::spawn({
        let server = server.try_clone().unwrap();
        move || (0..COUNT).map(|_| server.accept().unwrap().0).collect::<Vec<_>>()
    });

    let mut answered = HashSet::new();
    let mut hear = |guest: &mut Guest, within| {
        while let Some(answer) = guest.receive(within) {
            assert!(matches!(answer, Received::Tcp { syn: true, ack: true, .. }), "{answer:?}");
            answered.insert(answer.to());
        }
        answered.len()
    };
    for port in 0..COUNT {
        guest.send_syn(10_000 + port, SERVER);
        hear(&mut guest, Duration::ZERO);
    }
    while hear(&mut guest, Duration::from_millis(50)) < usize::from(COUNT) {}
    let kept = keeper.join().unwrap();
    assert_eq!(handle.report().unwrap().tcp_flows, usize::from(COUNT));

    let connection = guest.connect(SERVER).unwrap();
    let (mut peer, _) = server.accept().unwrap();
    peer.write_all(b"one more").unwrap();
    assert_eq!(guest.read(connection, 8), b"one more");
    drop(kept);
}

#[derive(Debug)]
struct Exhausted;

impl Dialer for Exhausted {
    fn tcp(&mut self, _: SocketAddr) -> io::Result<OwnedFd> {
        Err(rustix::io::Errno::MFILE.into())
    }

    fn udp(&mut self, _: SocketAddr) -> io::Result<OwnedFd> {
        Err(rustix::io::Errno::MFILE.into())
    }
}

#[test]
fn a_host_without_descriptors_refuses_at_once() {
    let Bench { mut guest, handle, internet } =
        Setup::new(public()).start_with(|config| config.dialer = Box::new(Exhausted));
    guest.send_syn(5000, SERVER);
    assert!(guest.expect().is_reset());
    assert_eq!(handle.report().unwrap().tcp_flows, 0);
    assert!(internet.events().iter().any(|event| event.contains("file descriptors")));
}

#[test]
fn both_sides_finish_at_the_same_time() {
    let Bench { mut guest, internet, handle } = bench(public());
    let server = internet.tcp(SERVER);
    let connection = guest.connect(SERVER).unwrap();
    let (mut peer, _) = server.accept().unwrap();

    guest.write(connection, b"bye");
    peer.write_all(b"goodbye").unwrap();
    peer.shutdown(Shutdown::Write).unwrap();
    guest.finish(connection);

    assert_eq!(guest.read(connection, 7), b"goodbye");
    let mut words = Vec::new();
    guest.idle();
    peer.read_to_end(&mut words).unwrap();
    guest.idle();
    assert_eq!(words, b"bye");
    assert_eq!(handle.report().unwrap().tcp_flows, 0);
}

#[test]
fn a_reset_with_unread_data_reaches_the_remote() {
    let Bench { mut guest, internet, handle } = bench(public());
    let server = internet.tcp(SERVER);
    let connection = guest.connect(SERVER).unwrap();
    let (mut peer, _) = server.accept().unwrap();

    peer.write_all(&[7; 100_000]).unwrap();
    guest.idle();
    guest.reset(connection);
    guest.idle();

    assert_eq!(peer.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!(handle.report().unwrap().tcp_flows, 0);
}

#[test]
fn segments_outside_the_window_do_nothing() {
    let Bench { mut guest, internet, handle: _handle } = bench(public());
    let server = internet.tcp(SERVER);
    let connection = guest.connect(SERVER).unwrap();
    let (mut peer, _) = server.accept().unwrap();
    let from = guest.local(connection);

    for flags in [guest::RST, guest::SYN, guest::FIN | guest::ACK, guest::ACK] {
        guest.send_ip(&guest::tcp_packet(from, SERVER.parse().unwrap(), flags, b""));
        guest.send_ip(&guest::tcp_packet(from, SERVER.parse().unwrap(), flags | guest::ACK, b"forged"));
    }
    guest.idle();

    guest.write(connection, b"genuine");
    guest.finish(connection);
    guest.idle();
    let mut words = Vec::new();
    peer.read_to_end(&mut words).unwrap();
    assert_eq!(words, b"genuine");
}

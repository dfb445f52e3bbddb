//! Guests that do one thing very often: what it costs is bounded, and a flow beside it goes on.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Instant;

use super::dns::resolve;
use super::*;

const STEADY: &str = "151.101.1.69:80";

/// A connection beside the flood.
struct Steady {
    connection: guest::Connection,
    peer: TcpStream,
    _server: TcpListener,
}

impl Steady {
    fn open(guest: &mut Guest, internet: &Internet) -> Self {
        let server = internet.tcp(STEADY);
        let connection = guest.connect(STEADY).unwrap();
        let (peer, _) = server.accept().unwrap();
        Self { connection, peer, _server: server }
    }

    /// A word there and back.
    fn works(&mut self, guest: &mut Guest) {
        guest.write(self.connection, b"ping");
        guest.flush();
        let mut word = [0; 4];
        self.peer.read_exact(&mut word).unwrap();
        self.peer.write_all(b"pong").unwrap();
        assert_eq!((&word, guest.read(self.connection, 4).as_slice()), (b"ping", &b"pong"[..]));
    }
}

#[test]
fn a_hundred_thousand_syns_open_as_many_sockets_as_may_wait_and_no_more() {
    const SILENT: [&str; 2] = ["93.184.216.34:444", "93.184.216.34:445"];
    raise_descriptor_limit();
    let Bench { mut guest, internet, handle } = bench(public());
    let mut steady = Steady::open(&mut guest, &internet);
    // Servers whose queues are full: who dials them waits.
    let silent = SILENT.map(|place| {
        let listener = internet.tcp(place);
        rustix::net::listen(&listener, 0).unwrap();
        let first = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (listener, first)
    });

    for place in SILENT {
        for port in 1..=50_000u16 {
            guest.send_syn(port, place);
            while guest.receive_frame(Duration::ZERO).is_some() {}
            if port % 10_000 == 0 {
                steady.works(&mut guest);
            }
        }
    }

    // What a second had too much of is told by the first event of a later one, which is over when it is answered.
    thread::sleep(Duration::from_millis(1100));
    while guest.receive_frame(Duration::ZERO).is_some() {}
    guest.send_syn(50_001, SILENT[0]);
    assert!(guest.receive_frame(Duration::from_secs(10)).is_some(), "one more is refused");
    let most = Limits::default().tcp_connecting;
    assert_eq!(handle.report().unwrap().tcp_flows, 1 + most);
    assert_eq!(internet.dialed().len(), 1 + most);
    let events = internet.events();
    assert!(events.iter().any(|event| event.starts_with("Limit") && event.contains("TCP connections")));
    assert!(events.iter().any(|event| event.starts_with("Suppressed")));
    assert!(events.len() < 10_000, "{} events", events.len());
    drop(silent);
}

#[test]
fn a_thousand_flows_that_trickle_their_first_words_are_cut_and_cost_nobody_else() {
    const FLOWS: usize = 1000;
    let patience = Duration::from_secs(2);
    raise_descriptor_limit();
    let policy = rules(&["api.example.com:80", "151.101.1.69:80"]);
    let Bench { mut guest, internet, handle } =
        Setup::new(policy).start_with(|config| config.checks.patience = patience);
    internet.name("api.example.com", &[PUBLIC]);
    resolve(&mut guest, "api.example.com", 1);
    let mut steady = Steady::open(&mut guest, &internet);
    let server = internet.tcp("93.184.216.34:80");
    rustix::net::listen(&server, 4096).unwrap();

    let flows: Vec<_> = (0..FLOWS).map(|_| guest.start_connect("93.184.216.34:80")).collect();
    let mut peers: Vec<TcpStream> = flows
        .iter()
        .map(|flow| {
            guest.wait_connected(*flow).unwrap();
            server.accept().unwrap().0
        })
        .collect();
    assert_eq!(handle.report().unwrap().tcp_flows, 1 + FLOWS);
    // A byte each, again and again: none is silent, none gets to its host.
    let begun = Instant::now();
    for byte in b"GET /slow HTTP/1.1\r\nX: ".iter().cycle() {
        for flow in &flows {
            guest.offer(*flow, &[*byte]);
        }
        steady.works(&mut guest);
        if begun.elapsed() > 2 * patience || handle.report().unwrap().tcp_flows == 1 {
            break;
        }
    }

    steady.works(&mut guest);
    assert_eq!(handle.report().unwrap().tcp_flows, 1);
    for peer in &mut peers {
        assert_eq!(peer.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::ConnectionReset, "a byte got out");
    }
    let is_told = |event: &String| event.starts_with("Stream") && event.contains("took too long");
    assert!(internet.events().iter().any(is_told));
    // What they held back is free again.
    let connection = guest.connect("93.184.216.34:80").unwrap();
    let (mut peer, _) = server.accept().unwrap();
    guest.write(connection, b"GET / HTTP/1.1\r\nHost: api.example.com\r\n\r\n");
    guest.flush();
    peer.read_exact(&mut [0; 41]).unwrap();
}

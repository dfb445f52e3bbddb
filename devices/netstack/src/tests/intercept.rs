//! Flows that the launcher takes over.

use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::mpsc::{Receiver, Sender, channel};

use policy::Protocol;

use super::*;
use crate::inspect::sample::client_hello;
use crate::{ClientHello, FlowFacts, Handover, Interceptor, OnConnect, OnHello};

const SERVER: &str = "93.184.216.34:443";

/// Takes what it is told to take.
#[derive(Debug)]
struct Taker {
    connect: OnConnect,
    hello: OnHello,
    taken: Sender<Handover>,
}

impl Interceptor for Taker {
    fn on_connect(&mut self, flow: &FlowFacts) -> OnConnect {
        if flow.remote.port() == 443 { self.connect } else { OnConnect::Pass }
    }

    fn on_tls_client_hello(&mut self, _flow: &FlowFacts, _hello: &ClientHello) -> OnHello {
        self.hello
    }

    fn take(&mut self, handover: Handover) {
        self.taken.send(handover).unwrap();
    }
}

fn with_taker(policy: Policy, connect: OnConnect, hello: OnHello) -> (Bench, Receiver<Handover>) {
    let (taken, receiver) = channel();
    let setup = Setup::new(policy);
    let mut bench = setup.start_with(|config| config.interceptor = Some(Box::new(Taker { connect, hello, taken })));
    bench.internet.name("api.example.com", &[PUBLIC]);
    dns::resolve(&mut bench.guest, "api.example.com", 1);
    (bench, receiver)
}

#[test]
fn a_flow_is_taken_over_before_anybody_is_connected_to() {
    let (Bench { mut guest, internet, handle: _handle }, taken) = with_taker(public(), OnConnect::Take, OnHello::Pass);
    let connection = guest.connect(SERVER).unwrap();
    let Handover { facts, mut stream, hello, upstream } = taken.recv_timeout(PATIENCE).unwrap();
    assert_eq!((facts.remote, facts.rests_on_names), (SERVER.parse().unwrap(), false));
    assert_eq!(facts.names, ["api.example.com".parse().unwrap()]);
    assert!(hello.is_none() && upstream.is_none());

    guest.write(connection, b"question");
    guest.finish(connection);
    guest.idle();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    stream.write_all(b"answer").unwrap();
    drop(stream);
    assert_eq!(
        (bytes.as_slice(), guest.read_to_end(connection).unwrap().as_slice()),
        (&b"question"[..], &b"answer"[..])
    );
    assert_eq!(internet.dialed(), []);
}

#[test]
fn the_checks_stay_in_front_of_a_flow_that_was_taken() {
    let (Bench { mut guest, internet, handle: _handle }, taken) = with_taker(names(), OnConnect::Take, OnHello::Pass);
    let evil = guest.connect(SERVER).unwrap();
    let mut stream = taken.recv_timeout(PATIENCE).unwrap().stream;
    guest.write(evil, &client_hello("evil.test"));
    assert_eq!(guest.read_to_end(evil), None);
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    assert_eq!(bytes, b"");

    let good = guest.connect(SERVER).unwrap();
    let mut stream = taken.recv_timeout(PATIENCE).unwrap().stream;
    let hello = client_hello("api.example.com");
    guest.write(good, &hello);
    guest.idle();
    let mut bytes = vec![0; hello.len()];
    stream.read_exact(&mut bytes).unwrap();
    assert_eq!(bytes, hello);
    assert_eq!(internet.dialed(), []);
}

#[test]
fn what_the_policy_denies_is_nobodys_to_take() {
    let (Bench { mut guest, internet: _internet, handle: _handle }, taken) =
        with_taker(rules(&["api.example.com:80"]), OnConnect::Take, OnHello::Pass);
    assert!(guest.connect(SERVER).is_none());
    assert!(taken.try_recv().is_err());
}

#[test]
fn a_watched_flow_is_taken_over_at_its_hello_with_its_connection() {
    for policy in [public(), names()] {
        let (Bench { mut guest, internet, handle: _handle }, taken) =
            with_taker(policy, OnConnect::Watch, OnHello::Take);
        let listener = internet.tcp(SERVER);
        let connection = guest.connect(SERVER).unwrap();
        let (mut peer, _) = listener.accept().unwrap();
        let first = client_hello("api.example.com");
        guest.write(connection, &first[..20]);
        guest.idle();
        assert!(taken.try_recv().is_err(), "half a hello is none");
        guest.write(connection, &first[20..]);
        guest.idle();
        let Handover { facts, mut stream, hello, upstream } = taken.recv_timeout(PATIENCE).unwrap();
        assert_eq!(hello.unwrap().server_name, Some("api.example.com".parse().unwrap()));
        assert_eq!(facts.names, ["api.example.com".parse().unwrap()]);
        assert!(!is_watched(upstream.as_ref().unwrap()), "whose it is now");

        let mut bytes = vec![0; first.len()];
        stream.read_exact(&mut bytes).unwrap();
        stream.write_all(b"mine").unwrap();
        rustix::io::write(upstream.as_ref().unwrap(), b"relayed").unwrap();
        assert_eq!(bytes, first);
        assert_eq!(guest.read(connection, 4), b"mine");
        drop::<Option<OwnedFd>>(upstream);
        let mut bytes = Vec::new();
        peer.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, b"relayed", "and nothing of the guest's before");
    }
}

/// Whether anybody in this process is told of what happens on `fd` (proc(5), fdinfo).
fn is_watched(fd: &OwnedFd) -> bool {
    let fd = fd.as_raw_fd().to_string();
    let watches = |line: &str| line.split_whitespace().take(2).eq(["tfd:", &fd]);
    let all = std::fs::read_dir("/proc/self/fdinfo").unwrap().flatten();
    all.filter_map(|entry| std::fs::read_to_string(entry.path()).ok()).any(|text| text.lines().any(watches))
}

/// Fails when it is asked.
#[derive(Debug)]
struct Faulty;

impl Interceptor for Faulty {
    fn on_connect(&mut self, _flow: &FlowFacts) -> OnConnect {
        OnConnect::Watch
    }

    fn on_tls_client_hello(&mut self, _flow: &FlowFacts, _hello: &ClientHello) -> OnHello {
        panic!("a fault of the launcher, on purpose");
    }

    fn take(&mut self, _handover: Handover) {}
}

#[test]
fn a_fault_of_whoever_is_asked_costs_one_flow_and_no_other() {
    let Bench { mut guest, internet, handle: _handle } =
        Setup::new(public()).start_with(|config| config.interceptor = Some(Box::new(Faulty)));
    let listener = internet.tcp(SERVER);
    let [faulty, other] = [(); 2].map(|()| guest.connect(SERVER).unwrap());
    let mut peers = [(); 2].map(|()| listener.accept().unwrap().0);
    guest.offer(faulty, &client_hello("api.example.com"));
    guest.offer(other, b"anything else");
    guest.flush();
    guest.idle();
    for peer in &mut peers {
        // One of them is gone.
        let _ = peer.write_all(b"still here");
    }
    assert_eq!(guest.read(other, 10), b"still here");
    assert_eq!(guest.read_to_end(faulty), None);
}

#[test]
fn a_watched_flow_that_nobody_wants_goes_on() {
    let (Bench { mut guest, internet, handle: _handle }, taken) = with_taker(public(), OnConnect::Watch, OnHello::Pass);
    let listener = internet.tcp(SERVER);
    for stream in [client_hello("evil.test"), b"anything else".to_vec()] {
        let connection = guest.connect(SERVER).unwrap();
        let (mut peer, _) = listener.accept().unwrap();
        guest.write(connection, &stream);
        guest.finish(connection);
        guest.idle();
        let mut bytes = Vec::new();
        peer.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, stream);
    }
    assert!(taken.try_recv().is_err());
    assert_eq!(internet.dialed().len(), 2);
    assert!(internet.dialed().iter().all(|(protocol, _)| *protocol == Protocol::Tcp));
}

#[test]
fn quic_is_refused_while_connections_are_intercepted() {
    let (Bench { mut guest, internet, handle: _handle }, _taken) =
        with_taker(public(), OnConnect::Watch, OnHello::Pass);
    let _server = internet.udp("93.184.216.34:8443");
    for _ in 0..5 {
        guest.send_udp(5000, SERVER, b"\xc0quic");
        assert!(guest.expect().is_prohibited());
    }
    assert_eq!(internet.dialed(), []);
    let verdicts = internet.events().iter().filter(|event| event.starts_with("Verdict")).count();
    assert_eq!(verdicts, 1, "one per flow, not one per datagram");
    guest.send_udp(5000, "93.184.216.34:8443", b"x");
    guest.expect_silence();
    assert_eq!(internet.dialed().len(), 1);
}

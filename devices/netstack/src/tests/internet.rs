//! A fake internet on loopback: it knows which addresses exist, and remembers who was talked to.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use policy::Protocol;

use crate::{AuditSink, Dialer, Event, HostDialer, Outcome, Subject};

#[derive(Debug, Default)]
struct State {
    places: HashMap<(Protocol, SocketAddr), SocketAddr>,
    /// What a socket for a place is instead, for behaviour that loopback does not have.
    sockets: HashMap<(Protocol, SocketAddr), OwnedFd>,
    /// Whoever dials this hits a fault.
    trap: Option<SocketAddr>,
    dialed: Vec<(Protocol, SocketAddr)>,
    zone: HashMap<String, Vec<IpAddr>>,
    aliases: HashMap<String, String>,
    /// Lifetime of answers; none means five minutes.
    ttl: Option<u32>,
    asked: Vec<String>,
    events: Vec<String>,
    verdicts: Vec<(Subject, bool)>,
    closed: Vec<(Subject, Outcome)>,
}

pub(crate) struct Internet {
    state: Arc<Mutex<State>>,
    resolver: SocketAddr,
    /// A datagram from here ends the resolver.
    end: UdpSocket,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
pub(crate) struct TestDialer(Arc<Mutex<State>>, SocketAddr);

#[derive(Debug)]
pub(crate) struct Auditor(Arc<Mutex<State>>);

impl Internet {
    pub(crate) fn new() -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let (udp, tcp) = one_port();
        let resolver = udp.local_addr().unwrap();
        let end = UdpSocket::bind("127.0.0.1:0").unwrap();
        let stop = end.local_addr().unwrap();
        let shared = [Arc::clone(&state), Arc::clone(&state)];
        let [over_udp, over_tcp] = shared;
        let threads = vec![
            std::thread::spawn(move || serve_udp(&udp, stop, &over_udp)),
            std::thread::spawn(move || serve_tcp(&tcp, &over_tcp)),
        ];
        Self { state, resolver, end, threads }
    }

    pub(crate) fn dialer(&self) -> TestDialer {
        TestDialer(Arc::clone(&self.state), self.resolver)
    }

    pub(crate) fn auditor(&self) -> Auditor {
        Auditor(Arc::clone(&self.state))
    }

    pub(crate) fn resolver(&self) -> SocketAddr {
        self.resolver
    }

    /// A TCP server at `address`, which the test accepts from.
    pub(crate) fn tcp(&self, address: &str) -> TcpListener {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let place = (Protocol::Tcp, address.parse().unwrap());
        self.state.lock().unwrap().places.insert(place, listener.local_addr().unwrap());
        listener
    }

    /// A UDP server at `address`.
    pub(crate) fn udp(&self, address: &str) -> UdpSocket {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(super::PATIENCE)).unwrap();
        let place = (Protocol::Udp, address.parse().unwrap());
        self.state.lock().unwrap().places.insert(place, socket.local_addr().unwrap());
        socket
    }

    /// A host that can be pinged: requests come out here as they are, and replies go in.
    pub(crate) fn echo(&self, address: &str) -> UnixDatagram {
        self.socket(Protocol::Icmp, SocketAddr::new(address.parse().unwrap(), 0))
    }

    /// The other end of whatever is dialed at a place.
    pub(crate) fn socket(&self, protocol: Protocol, place: SocketAddr) -> UnixDatagram {
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        theirs.set_nonblocking(true).unwrap();
        ours.set_read_timeout(Some(super::PATIENCE)).unwrap();
        self.state.lock().unwrap().sockets.insert((protocol, place), theirs.into());
        ours
    }

    /// Lets the socket of a place take only short messages.
    pub(crate) fn shrink(&self, protocol: Protocol, place: SocketAddr) {
        let state = self.state.lock().unwrap();
        rustix::net::sockopt::set_socket_send_buffer_size(&state.sockets[&(protocol, place)], 4096).unwrap();
    }

    /// Makes the gateway panic when it dials `address`.
    pub(crate) fn trap(&self, address: &str) {
        self.state.lock().unwrap().trap = Some(address.parse().unwrap());
    }

    pub(crate) fn name(&self, name: &str, addresses: &[&str]) {
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        self.state.lock().unwrap().zone.insert(name.to_owned(), addresses);
    }

    /// From now on answers have this lifetime.
    pub(crate) fn set_ttl(&self, seconds: u32) {
        self.state.lock().unwrap().ttl = Some(seconds);
    }

    /// A name that stands for another, which has an address.
    pub(crate) fn alias(&self, name: &str, target: &str, address: &str) {
        self.name(name, &[address]);
        self.state.lock().unwrap().aliases.insert(name.to_owned(), target.to_owned());
    }

    /// Whom the gateway talked to, resolvers aside.
    pub(crate) fn dialed(&self) -> Vec<(Protocol, SocketAddr)> {
        self.state.lock().unwrap().dialed.clone()
    }

    /// Which names the resolver was asked for.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.state.lock().unwrap().asked.clone()
    }

    /// The flows that were judged, and how.
    pub(crate) fn verdicts(&self) -> Vec<(Subject, bool)> {
        self.state.lock().unwrap().verdicts.clone()
    }

    /// The flows that ended, and how.
    pub(crate) fn closed(&self) -> Vec<(Subject, Outcome)> {
        self.state.lock().unwrap().closed.clone()
    }

    /// What the audit was told.
    pub(crate) fn events(&self) -> Vec<String> {
        self.state.lock().unwrap().events.clone()
    }
}

impl Drop for Internet {
    fn drop(&mut self) {
        self.end.send_to(b"end", self.resolver).unwrap();
        drop(std::net::TcpStream::connect(self.resolver));
        self.threads.drain(..).for_each(|thread| thread.join().unwrap());
    }
}

impl Dialer for TestDialer {
    fn tcp(&mut self, remote: SocketAddr) -> io::Result<OwnedFd> {
        if remote == self.1 {
            return HostDialer.tcp(remote);
        }
        let mut state = self.0.lock().unwrap();
        state.dialed.push((Protocol::Tcp, remote));
        let place = state.places.get(&(Protocol::Tcp, remote)).copied();
        drop(state);
        // Port 1 of loopback: nobody listens there.
        HostDialer.tcp(place.unwrap_or(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 1)))
    }

    fn udp(&mut self, remote: SocketAddr) -> io::Result<OwnedFd> {
        if remote == self.1 {
            return HostDialer.udp(remote);
        }
        let mut state = self.0.lock().unwrap();
        state.dialed.push((Protocol::Udp, remote));
        if state.trap == Some(remote) {
            drop(state);
            panic!("a fault of the gateway, on purpose");
        }
        if let Some(socket) = state.sockets.get(&(Protocol::Udp, remote)) {
            return socket.try_clone();
        }
        let place = state.places.get(&(Protocol::Udp, remote)).copied();
        drop(state);
        HostDialer.udp(place.unwrap_or(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 1)))
    }

    fn echo(&mut self, remote: IpAddr) -> io::Result<OwnedFd> {
        self.echo_socket(remote)
    }
}

impl TestDialer {
    fn echo_socket(&self, remote: IpAddr) -> io::Result<OwnedFd> {
        let mut state = self.0.lock().unwrap();
        let place = (Protocol::Icmp, SocketAddr::new(remote, 0));
        state.dialed.push(place);
        state.sockets.get(&place).ok_or(io::ErrorKind::PermissionDenied)?.try_clone()
    }
}

impl AuditSink for Auditor {
    fn record(&mut self, event: &Event<'_>) {
        let mut state = self.0.lock().unwrap();
        state.events.push(format!("{event:?}"));
        match event {
            Event::Verdict { flow, allow } => state.verdicts.push(((*flow).clone(), *allow)),
            Event::Closed { flow, outcome, .. } => state.closed.push(((*flow).clone(), *outcome)),
            _ => {}
        }
    }
}

/// A port that is free for both protocols.
fn one_port() -> (UdpSocket, TcpListener) {
    let candidates = std::iter::repeat_with(|| {
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let tcp = TcpListener::bind(udp.local_addr().unwrap()).ok()?;
        Some((udp, tcp))
    });
    candidates.flatten().next().unwrap()
}

fn serve_udp(socket: &UdpSocket, stop: SocketAddr, state: &Mutex<State>) {
    let mut buffer = [0; 4096];
    loop {
        let (count, from) = socket.recv_from(&mut buffer).unwrap();
        if from == stop {
            return;
        }
        let mut answer = answer(&buffer[..count], state);
        // No more than the gateway said it takes.
        if answer.len() > 1232 {
            answer.truncate(count);
            answer[2] |= 2;
            answer[6..10].fill(0);
        }
        socket.send_to(&answer, from).unwrap();
    }
}

/// Serves one question per connection; one that brings none ends the server.
fn serve_tcp(listener: &TcpListener, state: &Mutex<State>) {
    use std::io::{Read, Write};
    loop {
        let (mut client, _) = listener.accept().unwrap();
        let mut len = [0; 2];
        if client.read_exact(&mut len).is_err() {
            return;
        }
        let mut query = vec![0; u16::from_be_bytes(len).into()];
        client.read_exact(&mut query).unwrap();
        let answer = answer(&query, state);
        client.write_all(&u16::try_from(answer.len()).unwrap().to_be_bytes()).unwrap();
        client.write_all(&answer).unwrap();
    }
}

/// Answers from the zone. Names that begin with `servfail` fail, unknown ones do not exist.
fn answer(query: &[u8], state: &Mutex<State>) -> Vec<u8> {
    let mut at = 12;
    let mut labels = Vec::new();
    while query[at] != 0 {
        let len = usize::from(query[at]);
        labels.push(String::from_utf8(query[at + 1..=at + len].to_vec()).unwrap().to_lowercase());
        at += 1 + len;
    }
    let kind = u16::from_be_bytes([query[at + 1], query[at + 2]]);
    let question = &query[12..at + 5];
    let name = labels.join(".");
    let mut state = state.lock().unwrap();
    state.asked.push(name.clone());
    let known = state.zone.get(&name).cloned();
    let rcode = match &known {
        _ if name.starts_with("servfail") => 2,
        Some(_) => 0,
        None => 3,
    };
    let mut records = Vec::new();
    let mut count = 0u16;
    let mut owner = vec![0xc0, 12];
    if let Some(alias) = state.aliases.get(&name) {
        let mut target = Vec::new();
        for label in alias.split('.') {
            target.push(u8::try_from(label.len()).unwrap());
            target.extend_from_slice(label.as_bytes());
        }
        target.push(0);
        count += 1;
        records.extend_from_slice(&[0xc0, 12, 0, 5, 0, 1, 0, 0, 1, 0x2c, 0, u8::try_from(target.len()).unwrap()]);
        records.extend_from_slice(&target);
        owner = target;
    }
    for address in known.unwrap_or_default() {
        let data = match (address, kind) {
            (IpAddr::V4(v4), 1) => v4.octets().to_vec(),
            (IpAddr::V6(v6), 28) => v6.octets().to_vec(),
            _ => continue,
        };
        count += 1;
        records.extend_from_slice(&owner);
        records.extend_from_slice(&kind.to_be_bytes());
        records.extend_from_slice(&[0, 1]);
        records.extend_from_slice(&state.ttl.unwrap_or(300).to_be_bytes());
        records.extend_from_slice(&[0, u8::try_from(data.len()).unwrap()]);
        records.extend(data);
    }
    let mut answer = vec![query[0], query[1], 0x81, 0x80 | rcode, 0, 1];
    answer.extend_from_slice(&count.to_be_bytes());
    answer.extend_from_slice(&[0, u8::from(rcode == 3), 0, 0]);
    answer.extend_from_slice(question);
    answer.extend(records);
    if rcode == 3 {
        // The authority of the root, which lets its absence be remembered for a minute.
        answer.extend_from_slice(&[0, 0, 6, 0, 1, 0, 0, 0, 60, 0, 22, 0, 0]);
        answer.extend_from_slice(&[0; 16]);
        answer.extend_from_slice(&[0, 0, 0, 60]);
    }
    answer
}

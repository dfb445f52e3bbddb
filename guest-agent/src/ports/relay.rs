//! Connections from the link, passed on to services that listen on loopback.
//!
//! Each relayed port has a listener on the guest's own address at a port of the kernel's choice. Only the gateway may
//! connect: whatever else the guest routes must not reach loopback through here.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use agent_protocol::control::Relay;
use rustix::net::sockopt::set_socket_linger;

use crate::{accept, log};

/// Connections of all relayed ports at a time.
const MAX_CONNECTIONS: usize = 512;
/// What is read before it is written.
const CHUNK: usize = 32 << 10;
/// A thread's stack holds one chunk.
const STACK: usize = CHUNK + (48 << 10);

/// Ports that relays listen on, for those who must not take them for the guest's.
#[derive(Debug, Clone, Default)]
pub struct OwnPorts(Arc<Mutex<BTreeSet<u16>>>);

impl OwnPorts {
    pub(super) fn get(&self) -> BTreeSet<u16> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, ports: BTreeSet<u16>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = ports;
    }
}

/// All relayed ports.
#[derive(Debug)]
pub struct Relays {
    /// Where to listen.
    address: Ipv4Addr,
    /// Who may connect.
    gateway: IpAddr,
    open: BTreeMap<u16, TcpListener>,
    own: OwnPorts,
    connections: Arc<AtomicUsize>,
}

impl Relays {
    /// Relays from `address`, for `gateway` alone; none yet.
    pub fn new(address: Ipv4Addr, gateway: Ipv4Addr) -> Self {
        Self {
            address,
            gateway: gateway.into(),
            open: BTreeMap::new(),
            own: OwnPorts::default(),
            connections: Arc::default(),
        }
    }

    /// The ports the relays themselves listen on, now and later.
    pub fn own(&self) -> OwnPorts {
        self.own.clone()
    }

    /// Relays these ports and no others; gives those that are. Connections that exist go on.
    pub fn set(&mut self, ports: &[u16]) -> Vec<Relay> {
        self.open.retain(|port, listener| {
            let stays = ports.contains(port);
            if !stays && let Err(error) = rustix::net::shutdown(&*listener, rustix::net::Shutdown::Both) {
                log::warn(&format!("port {port} stays relayed: {error}"));
            }
            stays
        });
        for port in ports {
            if self.open.contains_key(port) {
                continue;
            }
            match self.listen(*port) {
                Ok(listener) => drop(self.open.insert(*port, listener)),
                Err(error) => log::warn(&format!("port {port} cannot be relayed: {error}")),
            }
        }
        let at = |listener: &TcpListener| listener.local_addr().ok().map(|address| address.port());
        let relays: Vec<Relay> =
            self.open.iter().filter_map(|(port, listener)| Some(Relay { port: *port, at: at(listener)? })).collect();
        self.own.set(relays.iter().map(|relay| relay.at).collect());
        relays
    }

    fn listen(&self, port: u16) -> io::Result<TcpListener> {
        let listener = TcpListener::bind((self.address, 0))?;
        let (ours, gateway, connections) = (listener.try_clone()?, self.gateway, self.connections.clone());
        thread::Builder::new()
            .name("relay".into())
            .stack_size(STACK)
            .spawn(move || serve(&ours, port, gateway, &connections))?;
        Ok(listener)
    }
}

impl Drop for Relays {
    fn drop(&mut self) {
        self.set(&[]);
    }
}

/// Takes connections until the listener is shut down.
fn serve(listener: &TcpListener, port: u16, gateway: IpAddr, connections: &Arc<AtomicUsize>) {
    while let Some((client, peer)) = accept::next("a connection to a relayed port", || listener.accept()) {
        let place = Place::take(connections);
        let (Some(place), true) = (place, peer.ip().to_canonical() == gateway) else {
            reset(&client);
            continue;
        };
        let thread = thread::Builder::new().name("relayed".into()).stack_size(STACK);
        if let Err(error) = thread.spawn(move || pass_on(&client, port, &place)) {
            log::warn(&format!("a connection to port {port} is not relayed: {error}"));
        }
    }
}

/// One of [`MAX_CONNECTIONS`], given back when dropped.
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(taken: &Arc<AtomicUsize>) -> Option<Self> {
        let place = Self(taken.clone());
        (taken.fetch_add(1, Ordering::Relaxed) < MAX_CONNECTIONS).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn pass_on(client: &TcpStream, port: u16, _place: &Place) {
    let addresses = [SocketAddr::from((Ipv4Addr::LOCALHOST, port)), (Ipv6Addr::LOCALHOST, port).into()];
    let Ok(service) = TcpStream::connect(addresses.as_slice()) else { return reset(client) };
    for stream in [client, &service] {
        // Whoever writes has an idea of its own of when to send.
        let _ = stream.set_nodelay(true);
    }
    let is_whole = thread::scope(|scope| {
        let thread = thread::Builder::new().name("relayed".into()).stack_size(STACK);
        let back = thread.spawn_scoped(scope, || pump(&service, client));
        let there = back.is_ok() && pump(client, &service);
        if !there {
            // The other direction ends with this one.
            let _ = client.shutdown(Shutdown::Both);
            let _ = service.shutdown(Shutdown::Both);
        }
        there && back.is_ok_and(|back| back.join().unwrap_or(false))
    });
    if !is_whole {
        reset(client);
        reset(&service);
    }
}

/// Copies one direction until its end, and passes the end on. False if it broke.
fn pump(mut from: &TcpStream, mut to: &TcpStream) -> bool {
    let mut chunk = [0; CHUNK];
    loop {
        let moved = match from.read(&mut chunk) {
            Ok(0) => return to.shutdown(Shutdown::Write).is_ok(),
            Ok(count) => to.write_all(chunk.get(..count).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(error) => Err(error),
        };
        if moved.is_err() {
            let _ = from.shutdown(Shutdown::Both);
            let _ = to.shutdown(Shutdown::Both);
            return false;
        }
    }
}

/// Makes the end of a connection a reset, so that the other side learns that something broke.
fn reset(stream: &TcpStream) {
    // It ends all the same, only less clearly.
    let _ = set_socket_linger(stream, Some(Duration::ZERO));
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

    fn service(address: &str) -> (TcpListener, u16) {
        let service = TcpListener::bind(address).unwrap();
        let port = service.local_addr().unwrap().port();
        (service, port)
    }

    #[test]
    fn services_of_either_loopback_are_reached_and_half_closes_pass() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let (service, port) = service(address);
            let mut relays = Relays::new(HERE, Ipv4Addr::LOCALHOST);
            let relay = relays.set(&[port])[0];
            let mut client = TcpStream::connect((HERE, relay.at)).unwrap();
            let (mut served, _) = service.accept().unwrap();
            client.write_all(b"question").unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            let mut question = String::new();
            served.read_to_string(&mut question).unwrap();
            served.write_all(b"answer").unwrap();
            drop(served);
            let mut answer = String::new();
            client.read_to_string(&mut answer).unwrap();
            assert_eq!((question.as_str(), answer.as_str()), ("question", "answer"));
        }
    }

    #[test]
    fn a_port_without_a_service_is_a_reset() {
        let (service, port) = service("127.0.0.1:0");
        drop(service);
        let mut relays = Relays::new(HERE, Ipv4Addr::LOCALHOST);
        let relay = relays.set(&[port])[0];
        let mut client = TcpStream::connect((HERE, relay.at)).unwrap();
        assert_eq!(client.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }

    #[test]
    fn nobody_but_the_gateway_gets_through() {
        let (service, port) = service("127.0.0.1:0");
        service.set_nonblocking(true).unwrap();
        let mut relays = Relays::new(HERE, Ipv4Addr::new(100, 96, 0, 1));
        let relay = relays.set(&[port])[0];
        let mut client = TcpStream::connect((HERE, relay.at)).unwrap();
        assert_eq!(client.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        assert_eq!(service.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn the_set_is_what_was_asked_for_last() {
        let (_first, one) = service("127.0.0.1:0");
        let (_second, two) = service("127.0.0.1:0");
        let mut relays = Relays::new(HERE, Ipv4Addr::LOCALHOST);
        let before = relays.set(&[one]);
        let after = relays.set(&[one, two]);
        assert!(after.contains(&before[0]));
        assert_eq!(relays.own().get(), after.iter().map(|relay| relay.at).collect());
        assert_eq!(relays.set(&[]), []);
        assert!(TcpStream::connect((HERE, before[0].at)).is_err());
    }
}

//! Echo to the world: the guest's requests leave through the host's unprivileged ping sockets, if the policy allows the
//! address. No reply is ever made up: where the host has no such sockets, pings go unanswered.
//!
//! The kernel gives each socket an identifier of its own and lets only replies to it through; the guest gets its own
//! identifier back. What the replies carry is the remote host's and is not trusted.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use policy::Protocol;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketAddrAny, recvfrom, send};

use crate::audit::{Outcome, Subject};
use crate::context::{Context, Decision};
use crate::idle::{Idle, Turns, turn};
use crate::poller::{Owner, Ready};
use crate::slab::{Key, Slab};
use crate::wire::{Echo, Packet, Unreachable, unreachable};

/// How long a host that is not pinged any more keeps its socket.
const IDLE: Duration = Duration::from_secs(30);
/// Replies of one host before others get their turn.
const MAX_TURNS: usize = 32;
/// Longest message.
const MAX_MESSAGE: usize = 65_535;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Tuple {
    guest: IpAddr,
    remote: IpAddr,
    identifier: u16,
}

struct Flow {
    tuple: Tuple,
    socket: OwnedFd,
    subject: Box<Subject>,
    idle: Idle,
    started: Instant,
    from_guest: u64,
    to_guest: u64,
}

pub(crate) struct EchoTable {
    flows: Slab<Flow>,
    by_tuple: HashMap<Tuple, Key>,
    turns: Turns,
    message: Box<[u8]>,
}

impl EchoTable {
    pub(crate) fn new() -> Self {
        let message = vec![0; MAX_MESSAGE].into_boxed_slice();
        Self { flows: Slab::new(), by_tuple: HashMap::new(), turns: Turns::default(), message }
    }

    pub(crate) fn contains(&self, key: Key) -> bool {
        self.flows.contains(key)
    }

    pub(crate) fn has_work(&self) -> bool {
        !self.turns.is_empty()
    }

    /// Takes an ICMP packet from the guest that is not for the gateway.
    pub(crate) fn on_packet(&mut self, context: &mut Context, packet: &Packet<'_>) {
        let Some(request) = Echo::request(packet) else {
            return context.drops.harmless("ICMP other than echo requests");
        };
        let tuple = Tuple { guest: packet.source, remote: packet.destination, identifier: request.identifier };
        let key = match self.by_tuple.get(&tuple) {
            Some(&key) => key,
            None => match self.open(context, tuple, packet) {
                Some(key) => key,
                None => return,
            },
        };
        let Some(flow) = self.flows.get_mut(key) else { return };
        flow.idle.used = context.now;
        flow.from_guest += u64::try_from(request.data.len()).unwrap_or(0);
        let why = match send(&flow.socket, &request.to_message(), SendFlags::NOSIGNAL) {
            Err(Errno::NETUNREACH) => Unreachable::Network,
            Err(Errno::HOSTUNREACH) => Unreachable::Host,
            Err(Errno::PERM | Errno::ACCESS) => Unreachable::Prohibited,
            // Lost on the way, as far as the guest can tell.
            Ok(_) | Err(_) => return,
        };
        reject(context, packet.bytes, packet.source, why);
    }

    fn open(&mut self, context: &mut Context, tuple: Tuple, packet: &Packet<'_>) -> Option<Key> {
        let (to, subject) = match context.decide(Protocol::Icmp, SocketAddr::new(tuple.remote, 0)) {
            Decision::Dial { to, subject, .. } => (to.ip(), subject),
            Decision::Deny => {
                reject(context, packet.bytes, tuple.guest, Unreachable::Prohibited);
                return None;
            }
            Decision::Resolver | Decision::Ignore => return None,
        };
        let socket = match context.dialer.echo(to) {
            Ok(socket) => socket,
            Err(error) => {
                tracing::debug!(%error, "The host cannot ping");
                context.drops.harmless("echo that the host has no socket for");
                context.closed(&subject, Outcome::Unreachable, context.now, 0, 0);
                return None;
            }
        };
        if self.flows.len() >= context.limits.echo_flows.max(1) {
            let flows = &mut self.flows;
            let idlest = flows.keys().into_iter().min_by_key(|&key| flows.get_mut(key).map(|flow| flow.idle.used))?;
            context.limit_of(flows.get_mut(idlest)?.subject.number, "hosts being pinged");
            self.remove(context, idlest, Outcome::Evicted);
        }
        let (started, idle) = (context.now, Idle::since(context.now));
        let flow = Flow { tuple, socket, subject, idle, started, from_guest: 0, to_guest: 0 };
        let key = self.flows.insert(flow);
        self.by_tuple.insert(tuple, key);
        let flow = self.flows.get_mut(key)?;
        flow.idle.watch(context, Owner::Echo(key), IDLE);
        if let Err(error) = context.poller.add(&flow.socket, Owner::Echo(key)) {
            tracing::warn!(%error, "Ping socket cannot be watched");
            self.remove(context, key, Outcome::Failed);
            return None;
        }
        Some(key)
    }

    pub(crate) fn on_ready(&mut self, key: Key, ready: Ready) {
        if ready.readable {
            self.mark(key);
        }
    }

    fn mark(&mut self, key: Key) {
        self.turns.add(key, self.flows.get_mut(key).map(|flow| &mut flow.idle));
    }

    /// Brings replies to the guest, as long as it takes frames.
    pub(crate) fn pump(&mut self, context: &mut Context) {
        for key in self.turns.take() {
            match turn(|| self.receive(context, key)) {
                Some(true) => {}
                Some(false) => self.mark(key),
                None => {
                    context.fault("An echo flow");
                    self.remove(context, key, Outcome::Failed);
                }
            }
        }
    }

    /// Reads what a socket has; true when that was all.
    fn receive(&mut self, context: &mut Context, key: Key) -> bool {
        let Some(flow) = self.flows.get_mut(key) else { return true };
        flow.idle.begin_turn();
        let Tuple { guest, remote, identifier } = flow.tuple;
        for _ in 0..MAX_TURNS {
            if context.uplink.is_blocked() {
                return false;
            }
            let count = match recvfrom(&flow.socket, &mut *self.message, RecvFlags::empty()) {
                // The kernel lets replies of whatever host through, as long as the identifier fits.
                Ok((_, count, ref from)) if is_from(from.as_ref(), remote) => count,
                Ok(_) | Err(Errno::INTR | Errno::CONNREFUSED | Errno::HOSTUNREACH | Errno::NETUNREACH) => continue,
                Err(_) => return true,
            };
            let message = self.message.get(..count).unwrap_or_default();
            let Some(reply) = Echo::reply(message, remote, identifier) else { continue };
            flow.idle.used = context.now;
            flow.to_guest += u64::try_from(reply.data.len()).unwrap_or(0);
            context.uplink.send_packet(&reply.to_packet(remote, guest), context.mtu);
        }
        false
    }

    pub(crate) fn on_timer(&mut self, context: &mut Context, key: Key, at: Instant) {
        let Some(flow) = self.flows.get_mut(key) else { return };
        if flow.idle.is_over(context, Owner::Echo(key), at, IDLE) {
            self.remove(context, key, Outcome::Idle);
        }
    }

    /// Cuts the flows that the policy of now does not allow.
    pub(crate) fn revoke(&mut self, context: &mut Context) {
        for key in self.flows.keys() {
            let Some(flow) = self.flows.get_mut(key) else { continue };
            if !context.still_allowed(Protocol::Icmp, SocketAddr::new(flow.tuple.remote, 0)) {
                self.remove(context, key, Outcome::Revoked);
            }
        }
    }

    pub(crate) fn clear(&mut self, context: &mut Context) {
        for key in self.flows.keys() {
            self.remove(context, key, Outcome::Stopped);
        }
    }

    fn remove(&mut self, context: &mut Context, key: Key, outcome: Outcome) {
        let Some(flow) = self.flows.remove(key) else { return };
        self.by_tuple.remove(&flow.tuple);
        context.closed(&flow.subject, outcome, flow.started, flow.from_guest, flow.to_guest);
    }
}

/// Whether a message came from the host that was pinged; a socket without addresses has only one peer.
fn is_from(from: Option<&SocketAddrAny>, remote: IpAddr) -> bool {
    match from.cloned().map(SocketAddr::try_from) {
        Some(Ok(from)) => from.ip().to_canonical() == remote.to_canonical(),
        Some(Err(_)) | None => true,
    }
}

fn reject(context: &mut Context, offender: &[u8], guest: IpAddr, why: Unreachable) {
    let packet = unreachable(offender, guest, &context.addresses, why);
    context.uplink.send_packet(&packet, context.mtu);
}

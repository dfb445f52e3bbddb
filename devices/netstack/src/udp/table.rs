//! The datagram flows of a guest.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Instant;

use policy::Protocol;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send, sendto, sockopt};
use smoltcp::wire::UdpPacket;

use super::datagram::{reject, reject_unquoted, send_datagram};
use super::mapping::{Mapping, Mappings, Origin, Tuple, Upstream};
use super::published::UdpPort;
use crate::audit::Outcome;
use crate::context::{Context, Decision};
use crate::idle::{Turns, turn};
use crate::poller::{Owner, Ready};
use crate::slab::{Key, Slab};
use crate::wire::{Packet, UDP_HEADER, Unreachable};

/// Longest datagram that UDP can carry.
const MAX_DATAGRAM: usize = 65_527;
/// Datagrams of one mapping before others get their turn.
pub(super) const MAX_TURNS: usize = 32;
/// Denied flows that are remembered, so that not each of their datagrams is a verdict of its own.
const MAX_DENIED: usize = 256;
/// Longest packet that every path carries, for a guest whose datagram was too long for the host's.
const MINIMUM_MTU: u16 = 1280;

pub(crate) struct UdpTable {
    pub(super) mappings: Mappings,
    pub(super) ports: Slab<UdpPort>,
    denied: HashMap<Tuple, Instant>,
    turns: Turns,
    pub(super) dirty_ports: Vec<Key>,
    pub(super) datagram: Box<[u8]>,
}

/// A datagram that the gateway's resolver is to answer.
pub(crate) struct Question<'a> {
    pub(crate) guest: SocketAddr,
    /// The server that the guest thinks it asks.
    pub(crate) server: SocketAddr,
    pub(crate) message: &'a [u8],
}

impl UdpTable {
    pub(crate) fn new() -> Self {
        Self {
            mappings: Mappings::new(),
            ports: Slab::new(),
            denied: HashMap::new(),
            turns: Turns::default(),
            dirty_ports: Vec::new(),
            datagram: vec![0; MAX_DATAGRAM].into_boxed_slice(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.mappings.len()
    }

    pub(crate) fn contains(&self, key: Key) -> bool {
        self.mappings.contains(key)
    }

    pub(crate) fn has_work(&self) -> bool {
        !self.turns.is_empty() || !self.dirty_ports.is_empty()
    }

    /// Takes a packet from the guest. Questions for the resolver are given back.
    pub(crate) fn on_packet<'a>(&mut self, context: &mut Context, packet: &Packet<'a>) -> Option<Question<'a>> {
        let udp = UdpPacket::new_checked(packet.payload).ok()?;
        let (source, destination) = (udp.src_port(), udp.dst_port());
        let message = packet.payload.get(UDP_HEADER..usize::from(udp.len()))?;
        if source == 0 || destination == 0 {
            return None;
        }
        let guest = SocketAddr::new(packet.source, source);
        let remote = SocketAddr::new(packet.destination, destination);
        let tuple = Tuple { guest, remote };
        if let Some(key) = self.mappings.find(&tuple) {
            self.forward(context, key, packet, message);
            return None;
        }
        if self.is_denied(context, &tuple) {
            reject(context, packet.bytes, guest, Unreachable::Prohibited);
            return None;
        }
        match context.decide(Protocol::Udp, remote) {
            Decision::Resolver => return Some(Question { guest, server: remote, message }),
            Decision::Ignore => {}
            Decision::Deny => {
                self.remember_denied(context, tuple);
                reject(context, packet.bytes, guest, Unreachable::Prohibited);
            }
            Decision::Dial { to, subject, .. } => match context.dial_udp(to) {
                Ok(socket) => {
                    self.make_room(context);
                    let mapping = Mapping::new(tuple, Upstream::Socket(socket), subject, context.now);
                    if let Some(key) = self.insert(context, mapping) {
                        self.forward(context, key, packet, message);
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, %remote, "Datagram cannot be sent");
                    context.closed(&subject, Outcome::Unreachable, context.now, 0, 0);
                    reject(context, packet.bytes, guest, Unreachable::Network);
                }
            },
        }
        None
    }

    /// Whether the flow was denied a while ago and still is.
    fn is_denied(&mut self, context: &Context, tuple: &Tuple) -> bool {
        let Some(&at) = self.denied.get(tuple) else { return false };
        let denied = context.now.saturating_duration_since(at) < context.limits.udp_idle
            && !context.still_allowed(Protocol::Udp, tuple.remote);
        if !denied {
            self.denied.remove(tuple);
        }
        denied
    }

    fn remember_denied(&mut self, context: &Context, tuple: Tuple) {
        if self.denied.len() >= MAX_DENIED {
            self.denied.clear();
        }
        self.denied.insert(tuple, context.now);
    }

    /// Ends the flow that was idle longest when there are as many as there may be.
    fn make_room(&mut self, context: &mut Context) {
        if self.mappings.count(Origin::Guest) >= context.limits.udp_mappings.max(1)
            && let Some(idlest) = self.mappings.idlest(Origin::Guest)
        {
            self.tell_limit(context, idlest, "UDP mappings");
            self.remove(context, idlest, Outcome::Evicted);
        }
    }

    /// Tells the audit that a mapping has to make room.
    pub(super) fn tell_limit(&mut self, context: &mut Context, key: Key, what: &'static str) {
        if let Some(mapping) = self.mappings.get_mut(key) {
            context.limit_of(mapping.subject.number, what);
        }
    }

    pub(super) fn insert(&mut self, context: &mut Context, mapping: Mapping) -> Option<Key> {
        let key = self.mappings.insert(mapping);
        let mapping = self.mappings.get_mut(key)?;
        let patience = context.limits.udp_idle;
        mapping.idle.watch(context, Owner::Udp(key), patience);
        if let Upstream::Socket(socket) = &mapping.upstream
            && let Err(error) = context.poller.add(socket, Owner::Udp(key))
        {
            tracing::warn!(%error, "UDP mapping cannot be watched");
            self.remove(context, key, Outcome::Failed);
            return None;
        }
        Some(key)
    }

    fn forward(&mut self, context: &mut Context, key: Key, packet: &Packet<'_>, message: &[u8]) {
        let Some(mapping) = self.mappings.touch(key, context.now) else { return };
        let guest = mapping.tuple.guest;
        mapping.from_guest += u64::try_from(message.len()).unwrap_or(0);
        let sent = match &mapping.upstream {
            Upstream::Socket(socket) => {
                // An error that an earlier datagram caused comes up with the next call; this one gets its own chance.
                let sent = send(socket, message, SendFlags::NOSIGNAL);
                if sent == Err(Errno::CONNREFUSED) {
                    reject(context, packet.bytes, guest, Unreachable::Port);
                    send(socket, message, SendFlags::NOSIGNAL)
                } else {
                    sent
                }
            }
            Upstream::Client { port, peer } => match self.ports.get_mut(*port) {
                Some(port) => sendto(&port.socket, message, SendFlags::NOSIGNAL, peer),
                None => return,
            },
        };
        let why = match sent {
            // The host's send buffer is full: the network drops datagrams, so do we.
            Ok(_) | Err(Errno::AGAIN | Errno::NOBUFS | Errno::CONNREFUSED) => return,
            Err(Errno::NETUNREACH) => Unreachable::Network,
            Err(Errno::MSGSIZE) => Unreachable::TooBig(path_mtu(mapping)),
            // The host's own firewall.
            Err(Errno::PERM | Errno::ACCESS) => Unreachable::Prohibited,
            Err(error) => {
                tracing::debug!(%error, "Datagram cannot be sent");
                Unreachable::Host
            }
        };
        reject(context, packet.bytes, guest, why);
    }

    pub(crate) fn on_ready(&mut self, key: Key, ready: Ready) {
        if ready.readable {
            self.mark(key);
        }
    }

    fn mark(&mut self, key: Key) {
        self.turns.add(key, self.mappings.get_mut(key).map(|mapping| &mut mapping.idle));
    }

    /// Brings answers and clients' datagrams to the guest, as long as it takes frames.
    pub(crate) fn pump(&mut self, context: &mut Context) {
        for key in self.turns.take() {
            match turn(|| self.receive(context, key)) {
                Some(true) => {}
                Some(false) => self.mark(key),
                None => {
                    context.fault("A datagram flow");
                    self.remove(context, key, Outcome::Failed);
                }
            }
        }
        for key in std::mem::take(&mut self.dirty_ports) {
            let received = turn(|| {
                self.receive_from_clients(context, key);
                true
            });
            if received.is_none() {
                context.fault("A datagram for a published port");
                self.mark_port(key);
            }
        }
    }

    /// Reads what a mapping's socket has; true when that was all.
    fn receive(&mut self, context: &mut Context, key: Key) -> bool {
        let Some(mapping) = self.mappings.touch(key, context.now) else { return true };
        mapping.idle.begin_turn();
        let Tuple { guest, remote } = mapping.tuple;
        let Upstream::Socket(socket) = &mapping.upstream else { return true };
        for _ in 0..MAX_TURNS {
            if context.uplink.is_blocked() {
                return false;
            }
            match recv(socket, &mut *self.datagram, RecvFlags::empty()) {
                Ok((_, count)) => {
                    mapping.to_guest += u64::try_from(count).unwrap_or(0);
                    let message = self.datagram.get(..count).unwrap_or_default();
                    send_datagram(&mut context.uplink, context.mtu, remote, guest, message);
                }
                Err(Errno::CONNREFUSED) => reject_unquoted(context, guest, remote, Unreachable::Port),
                Err(Errno::HOSTUNREACH) => reject_unquoted(context, guest, remote, Unreachable::Host),
                Err(Errno::NETUNREACH) => reject_unquoted(context, guest, remote, Unreachable::Network),
                Err(Errno::INTR) => {}
                Err(_) => return true,
            }
        }
        false
    }

    pub(crate) fn on_timer(&mut self, context: &mut Context, key: Key, at: Instant) {
        let Some(mapping) = self.mappings.get_mut(key) else { return };
        let patience = context.limits.udp_idle;
        if mapping.idle.is_over(context, Owner::Udp(key), at, patience) {
            self.remove(context, key, Outcome::Idle);
        }
    }

    /// Cuts the mappings that the policy of now does not allow, and forgets what was denied.
    pub(crate) fn revoke(&mut self, context: &mut Context) {
        self.denied.clear();
        for key in self.mappings.keys() {
            let Some(mapping) = self.mappings.get_mut(key) else { continue };
            let judged = matches!(mapping.upstream, Upstream::Socket(_));
            if judged && !context.still_allowed(Protocol::Udp, mapping.tuple.remote) {
                self.remove(context, key, Outcome::Revoked);
            }
        }
    }

    pub(crate) fn clear(&mut self, context: &mut Context) {
        for key in self.mappings.keys() {
            self.remove(context, key, Outcome::Stopped);
        }
    }

    pub(super) fn remove(&mut self, context: &mut Context, key: Key, outcome: Outcome) {
        let Some(mapping) = self.mappings.remove(key) else { return };
        context.closed(&mapping.subject, outcome, mapping.started, mapping.from_guest, mapping.to_guest);
        if let Upstream::Client { port, peer } = mapping.upstream
            && let Some(port) = self.ports.get_mut(port)
        {
            port.forget(peer);
        }
    }
}

/// What the host knows about the way to the remote of a datagram that was too long for it.
fn path_mtu(mapping: &Mapping) -> u16 {
    let mtu = match &mapping.upstream {
        Upstream::Socket(socket) if mapping.tuple.remote.is_ipv4() => sockopt::ip_mtu(socket),
        Upstream::Socket(socket) => sockopt::ipv6_mtu(socket),
        Upstream::Client { .. } => return MINIMUM_MTU,
    };
    mtu.map_or(MINIMUM_MTU, |mtu| u16::try_from(mtu).unwrap_or(u16::MAX).max(MINIMUM_MTU))
}

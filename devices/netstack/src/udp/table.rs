//! The mappings of a guest.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Instant;

use policy::Protocol;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use smoltcp::wire::UdpPacket;

use crate::audit::{Event, Outcome};
use crate::context::{Context, Decision};
use crate::poller::{Owner, Ready};
use crate::slab::{Key, Slab};
use crate::timers::Armed;
use crate::uplink::Uplink;
use crate::wire::{Packet, UDP, Unreachable, unreachable, write_ip};

const HEADER: usize = 8;
/// Longest datagram that UDP can carry.
const MAX_DATAGRAM: usize = 65_507;
/// Datagrams of one mapping before others get their turn.
const MAX_TURNS: usize = 32;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Tuple {
    guest: SocketAddr,
    remote: SocketAddr,
}

struct Mapping {
    tuple: Tuple,
    /// None for a flow that was denied: remembered so that each of its datagrams is not a new verdict.
    socket: Option<OwnedFd>,
    used: Instant,
    armed: Armed,
    dirty: bool,
    started: Instant,
    from_guest: u64,
    to_guest: u64,
}

pub(crate) struct UdpTable {
    mappings: Slab<Mapping>,
    by_tuple: HashMap<Tuple, Key>,
    dirty: Vec<Key>,
    datagram: Box<[u8]>,
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
            mappings: Slab::new(),
            by_tuple: HashMap::new(),
            dirty: Vec::new(),
            datagram: vec![0; MAX_DATAGRAM].into_boxed_slice(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.mappings.len()
    }

    pub(crate) fn has_work(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Takes a packet from the guest. Questions for the resolver are given back.
    pub(crate) fn on_packet<'a>(&mut self, context: &mut Context, packet: &Packet<'a>) -> Option<Question<'a>> {
        let udp = UdpPacket::new_checked(packet.payload).ok()?;
        let (source, destination) = (udp.src_port(), udp.dst_port());
        let message = packet.payload.get(HEADER..usize::from(udp.len()))?;
        if source == 0 || destination == 0 {
            return None;
        }
        let guest = SocketAddr::new(packet.source, source);
        let remote = SocketAddr::new(packet.destination, destination);
        let tuple = Tuple { guest, remote };
        let key = match self.by_tuple.get(&tuple) {
            Some(&key) => key,
            None => match context.decide(Protocol::Udp, remote) {
                Decision::Resolver => return Some(Question { guest, server: remote, message }),
                Decision::Ignore => return None,
                Decision::Deny => self.insert(context, tuple, None)?,
                Decision::Dial(to, _) => match context.dialer.udp(to) {
                    Ok(socket) => self.insert(context, tuple, Some(socket))?,
                    Err(error) => {
                        tracing::debug!(%error, %remote, "Datagram cannot be sent");
                        reject(context, packet.bytes, guest, Unreachable::Network);
                        return None;
                    }
                },
            },
        };
        self.forward(context, key, packet, message);
        None
    }

    fn insert(&mut self, context: &mut Context, tuple: Tuple, socket: Option<OwnedFd>) -> Option<Key> {
        if self.mappings.len() >= context.limits.udp_mappings {
            context.limit("UDP mappings");
            return None;
        }
        let now = context.now;
        let key = self.mappings.insert(Mapping {
            tuple,
            socket,
            used: now,
            armed: Armed::default(),
            dirty: false,
            started: now,
            from_guest: 0,
            to_guest: 0,
        });
        self.by_tuple.insert(tuple, key);
        let mapping = self.mappings.get_mut(key)?;
        context.timers.arm(&mut mapping.armed, Owner::Udp(key).into(), now + context.limits.udp_idle);
        if let Some(socket) = &mapping.socket
            && let Err(error) = context.poller.add(socket, Owner::Udp(key))
        {
            tracing::warn!(%error, "UDP mapping cannot be watched");
            self.remove(context, key, Outcome::Failed);
            return None;
        }
        Some(key)
    }

    fn forward(&mut self, context: &mut Context, key: Key, packet: &Packet<'_>, message: &[u8]) {
        let Some(mapping) = self.mappings.get_mut(key) else { return };
        let guest = mapping.tuple.guest;
        let Some(socket) = &mapping.socket else {
            return reject(context, packet.bytes, guest, Unreachable::Prohibited);
        };
        mapping.used = context.now;
        mapping.from_guest += u64::try_from(message.len()).unwrap_or(0);
        // An error that an earlier datagram caused comes up with the next call; this one gets its own chance.
        let mut sent = send(socket, message, SendFlags::NOSIGNAL);
        if sent == Err(Errno::CONNREFUSED) {
            reject(context, packet.bytes, guest, Unreachable::Port);
            sent = send(socket, message, SendFlags::NOSIGNAL);
        }
        match sent {
            // The host's send buffer is full: the network drops datagrams, so do we.
            Ok(_) | Err(Errno::AGAIN | Errno::NOBUFS | Errno::CONNREFUSED) => {}
            Err(Errno::NETUNREACH) => reject(context, packet.bytes, guest, Unreachable::Network),
            Err(error) => {
                tracing::debug!(%error, "Datagram cannot be sent");
                reject(context, packet.bytes, guest, Unreachable::Host);
            }
        }
    }

    pub(crate) fn on_ready(&mut self, key: Key, ready: Ready) {
        if ready.readable {
            self.mark(key);
        }
    }

    fn mark(&mut self, key: Key) {
        if let Some(mapping) = self.mappings.get_mut(key)
            && !std::mem::replace(&mut mapping.dirty, true)
        {
            self.dirty.push(key);
        }
    }

    /// Brings answers to the guest, as long as it takes frames.
    pub(crate) fn pump(&mut self, context: &mut Context) {
        for key in std::mem::take(&mut self.dirty) {
            let Some(mapping) = self.mappings.get_mut(key) else { continue };
            mapping.dirty = false;
            let Tuple { guest, remote } = mapping.tuple;
            let mut exhausted = false;
            for _ in 0..MAX_TURNS {
                if context.uplink.is_blocked() {
                    break;
                }
                let Some(socket) = &mapping.socket else { break };
                match recv(socket, &mut *self.datagram, RecvFlags::empty()) {
                    Ok((_, count)) => {
                        mapping.used = context.now;
                        mapping.to_guest += u64::try_from(count).unwrap_or(0);
                        let message = self.datagram.get(..count).unwrap_or_default();
                        send_datagram(&mut context.uplink, context.mtu, remote, guest, message);
                    }
                    Err(Errno::CONNREFUSED) => reject_unquoted(context, guest, remote, Unreachable::Port),
                    Err(Errno::HOSTUNREACH) => reject_unquoted(context, guest, remote, Unreachable::Host),
                    Err(Errno::NETUNREACH) => reject_unquoted(context, guest, remote, Unreachable::Network),
                    Err(_) => {
                        exhausted = true;
                        break;
                    }
                }
            }
            if !exhausted {
                self.mark(key);
            }
        }
    }

    pub(crate) fn on_timer(&mut self, context: &mut Context, key: Key, at: Instant) {
        let Some(mapping) = self.mappings.get_mut(key) else { return };
        if !mapping.armed.fired(at) {
            return;
        }
        let end = mapping.used + context.limits.udp_idle;
        if end > context.now {
            context.timers.arm(&mut mapping.armed, Owner::Udp(key).into(), end);
        } else {
            self.remove(context, key, Outcome::Idle);
        }
    }

    /// Cuts the mappings that the policy of now does not allow, and forgets what was denied.
    pub(crate) fn revoke(&mut self, context: &mut Context) {
        for key in self.mappings.keys() {
            let Some(mapping) = self.mappings.get_mut(key) else { continue };
            if mapping.socket.is_none() || !context.still_allowed(Protocol::Udp, mapping.tuple.remote) {
                self.remove(context, key, Outcome::Revoked);
            }
        }
    }

    pub(crate) fn clear(&mut self, context: &mut Context) {
        for key in self.mappings.keys() {
            self.remove(context, key, Outcome::Failed);
        }
    }

    fn remove(&mut self, context: &mut Context, key: Key, outcome: Outcome) {
        let Some(mapping) = self.mappings.remove(key) else { return };
        self.by_tuple.remove(&mapping.tuple);
        if mapping.socket.is_some() {
            let event = Event::Closed {
                protocol: Protocol::Udp,
                remote: mapping.tuple.remote,
                outcome,
                sent: mapping.from_guest,
                received: mapping.to_guest,
                duration: context.now.saturating_duration_since(mapping.started),
            };
            context.audit.record(context.now, &event);
        }
    }
}

/// Sends a datagram to the guest; one that the link cannot carry in one packet is lost.
pub(crate) fn send_datagram(uplink: &mut Uplink, mtu: u16, from: SocketAddr, guest: SocketAddr, message: &[u8]) {
    let header_len = if guest.is_ipv4() { 20 } else { 40 };
    let len = header_len + HEADER + message.len();
    if len > usize::from(mtu) {
        tracing::debug!(len, "Datagram is longer than the link's MTU");
        return;
    }
    uplink.send_ip(len, None, |packet| {
        let body = write_ip(packet, from.ip(), guest.ip(), UDP);
        write_udp(body, from.port(), guest.port(), message);
    });
}

fn write_udp(body: &mut [u8], from: u16, to: u16, message: &[u8]) {
    let len = u16::try_from(body.len()).unwrap_or(0).to_be_bytes();
    if let Some((head, rest)) = body.split_first_chunk_mut::<HEADER>()
        && rest.len() == message.len()
    {
        let ([f0, f1], [t0, t1], [l0, l1]) = (from.to_be_bytes(), to.to_be_bytes(), len);
        *head = [f0, f1, t0, t1, l0, l1, 0, 0];
        rest.copy_from_slice(message);
    }
}

fn reject(context: &mut Context, offender: &[u8], guest: SocketAddr, why: Unreachable) {
    let packet = unreachable(offender, guest.ip(), &context.addresses, why);
    context.uplink.send_ip(packet.len(), None, |space| space.copy_from_slice(&packet));
}

/// Like `reject` for a datagram that is gone: its headers are all that an error needs.
fn reject_unquoted(context: &mut Context, guest: SocketAddr, remote: SocketAddr, why: Unreachable) {
    let header_len = if guest.is_ipv4() { 20 } else { 40 };
    let mut offender = vec![0; header_len + HEADER];
    let body = write_ip(&mut offender, guest.ip(), remote.ip(), UDP);
    write_udp(body, guest.port(), remote.port(), &[]);
    reject(context, &offender, guest, why);
}

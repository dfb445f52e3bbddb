//! Published UDP ports: one socket of the host for all clients, each of which is a port of the gateway to the guest.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{RecvFlags, recvfrom};

use super::datagram::send_datagram;
use super::mapping::{Mapping, Origin, Tuple, Upstream};
use super::table::{MAX_TURNS, UdpTable};
use crate::audit::Outcome;
use crate::config::Publish;
use crate::context::Context;
use crate::poller::{Owner, Ready};
use crate::slab::Key;

/// Where ephemeral ports of the gateway begin (RFC 6335, 6).
const FIRST_EPHEMERAL: u16 = 49_152;

pub(super) struct UdpPort {
    pub(super) socket: OwnedFd,
    port: Publish,
    guest: SocketAddr,
    by_peer: HashMap<SocketAddr, Key>,
    next_port: u16,
    heard: u64,
    dirty: bool,
}

impl UdpPort {
    pub(super) fn forget(&mut self, peer: SocketAddr) {
        self.by_peer.remove(&peer);
    }
}

impl UdpTable {
    /// Serves a bound socket; clients are brought to `guest`.
    pub(crate) fn publish(
        &mut self,
        context: &Context,
        socket: OwnedFd,
        port: Publish,
        guest: SocketAddr,
    ) -> io::Result<Key> {
        let (by_peer, next_port) = (HashMap::new(), FIRST_EPHEMERAL);
        let port = UdpPort { socket, port, guest, by_peer, next_port, heard: 0, dirty: false };
        let key = self.ports.insert(port);
        if let Some(port) = self.ports.get_mut(key)
            && let Err(error) = context.poller.add(&port.socket, Owner::UdpPort(key))
        {
            self.ports.remove(key);
            return Err(error);
        }
        Ok(key)
    }

    /// Closes a published port and forgets its clients.
    pub(crate) fn unpublish(&mut self, context: &mut Context, key: Key) {
        let Some(port) = self.ports.remove(key) else { return };
        for mapping in port.by_peer.into_values() {
            self.remove(context, mapping, Outcome::Finished);
        }
    }

    /// How many clients a published port has heard of.
    pub(crate) fn clients(&mut self, key: Key) -> u64 {
        self.ports.get_mut(key).map_or(0, |port| port.heard)
    }

    pub(crate) fn on_port_ready(&mut self, key: Key, ready: Ready) {
        if ready.readable {
            self.mark_port(key);
        }
    }

    pub(super) fn mark_port(&mut self, key: Key) {
        if let Some(port) = self.ports.get_mut(key)
            && !std::mem::replace(&mut port.dirty, true)
        {
            self.dirty_ports.push(key);
        }
    }

    /// Brings what clients sent to the guest.
    pub(super) fn receive_from_clients(&mut self, context: &mut Context, key: Key) {
        if let Some(port) = self.ports.get_mut(key) {
            port.dirty = false;
        }
        for _ in 0..MAX_TURNS {
            if context.uplink.is_blocked() {
                break;
            }
            let Some(port) = self.ports.get_mut(key) else { return };
            let guest = port.guest;
            let (count, peer) = match recvfrom(&port.socket, &mut *self.datagram, RecvFlags::empty()) {
                Ok((_, count, Some(peer))) => (count, peer),
                // Errors of earlier answers, to clients that are gone.
                Ok(_) | Err(Errno::INTR | Errno::CONNREFUSED | Errno::HOSTUNREACH | Errno::NETUNREACH) => continue,
                Err(_) => return,
            };
            let Ok(peer) = SocketAddr::try_from(peer) else { continue };
            let client = self.client(context, key, peer);
            let Some(mapping) = client.and_then(|client| self.mappings.touch(client, context.now)) else { continue };
            mapping.to_guest += u64::try_from(count).unwrap_or(0);
            let remote = mapping.tuple.remote;
            let message = self.datagram.get(..count).unwrap_or_default();
            send_datagram(&mut context.uplink, context.mtu, remote, guest, message);
        }
        self.mark_port(key);
    }

    /// The mapping of a client, made if it is new. Over the limit the client of any port that was idle longest makes
    /// room: what is published is reachable for others, so a limit that refused would be theirs to fill.
    fn client(&mut self, context: &mut Context, key: Key, peer: SocketAddr) -> Option<Key> {
        if let Some(&mapping) = self.ports.get_mut(key)?.by_peer.get(&peer) {
            return Some(mapping);
        }
        if self.mappings.count(Origin::Client) >= context.limits.udp_clients.max(1) {
            let idlest = self.mappings.idlest(Origin::Client)?;
            self.tell_limit(context, idlest, "clients of published UDP ports");
            self.remove(context, idlest, Outcome::Evicted);
        }
        let tuple = self.free_tuple(context, key)?;
        let subject = context.admit(peer, self.ports.get_mut(key)?.port);
        let mapping = Mapping::new(tuple, Upstream::Client { port: key, peer }, subject, context.now);
        let client = self.insert(context, mapping)?;
        let port = self.ports.get_mut(key)?;
        port.by_peer.insert(peer, client);
        port.heard += 1;
        Some(client)
    }

    /// A port of the gateway that the guest's port has no flow with.
    fn free_tuple(&mut self, context: &Context, key: Key) -> Option<Tuple> {
        let port = self.ports.get_mut(key)?;
        let gateway = context.addresses.gateway_for(port.guest.ip());
        for _ in FIRST_EPHEMERAL..=u16::MAX {
            let number = port.next_port;
            port.next_port = number.checked_add(1).unwrap_or(FIRST_EPHEMERAL);
            let tuple = Tuple { guest: port.guest, remote: SocketAddr::new(gateway, number) };
            if self.mappings.find(&tuple).is_none() {
                return Some(tuple);
            }
        }
        None
    }
}

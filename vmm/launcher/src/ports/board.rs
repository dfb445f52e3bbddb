//! The published ports of a VM.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use agent_protocol::control::{MAX_PORTS, ToGuest};
use netstack::{Publish, Transport};
use virtio::RateLimit;

use super::mailbox::Mailbox;
use super::spec::PortSpec;
use crate::control::Agent;

/// How long the agent may take to relay a port; a guest that does not answer has its services on loopback to itself.
const RELAY_PATIENCE: Duration = Duration::from_secs(2);
/// The same for one that did not answer the last time.
const MUTE_PATIENCE: Duration = Duration::from_millis(100);
/// Free ports that are tried until one is free in both families.
const MAX_TRIES: usize = 16;

/// What is published, and the two that do it: the network stack and, for services on loopback, the agent.
#[derive(Debug)]
pub(crate) struct Board {
    network: netstack::Handle,
    agent: Agent,
    mailbox: Arc<Mailbox>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    entries: Vec<Entry>,
    /// The agent did not answer the last request for relays.
    is_mute: bool,
    complaint: RateLimit,
}

#[derive(Debug, Clone)]
struct Entry {
    /// With the host port that is really bound.
    spec: PortSpec,
    bound: Vec<SocketAddr>,
    /// The guest's idea, not the user's.
    is_mirrored: bool,
}

impl Board {
    /// Nothing is published yet.
    pub(crate) fn new(network: netstack::Handle, agent: Agent, mailbox: Arc<Mailbox>) -> Self {
        Self { network, agent, mailbox, state: Mutex::default() }
    }

    /// The network stack.
    pub(crate) fn network(&self) -> &netstack::Handle {
        &self.network
    }

    /// Publishes a port; gives it with the host port that is bound.
    pub(crate) fn publish(&self, spec: PortSpec) -> io::Result<PortSpec> {
        self.add(spec, false)
    }

    /// The same for a port that the guest came up with.
    pub(super) fn publish_mirrored(&self, spec: PortSpec) -> io::Result<()> {
        self.add(spec, true).map(drop)
    }

    /// Frees what the user published there; false if there is no such port.
    pub(crate) fn unpublish(&self, address: Option<IpAddr>, port: u16, transport: Transport) -> io::Result<bool> {
        self.remove(|entry| {
            let is_there = address.is_none() || entry.spec.address == address;
            is_there && (entry.spec.host, entry.spec.transport) == (port, transport)
        })
    }

    /// Frees a port that the guest came up with.
    pub(super) fn remove_mirrored(&self, port: u16) {
        if let Err(error) = self.remove(|entry| entry.is_mirrored && entry.spec.host == port) {
            tracing::warn!(port, %error, "A port of the guest stays published");
        }
    }

    /// Tells the agent and the stack about what was published before the agent was there.
    pub(crate) fn begin(&self) {
        let mut state = self.lock();
        if !state.entries.is_empty() {
            self.relay(&mut state);
        }
    }

    fn add(&self, spec: PortSpec, is_mirrored: bool) -> io::Result<PortSpec> {
        let mut state = self.lock();
        let bound = self.bind(spec)?;
        let host = bound.first().map_or(spec.host, SocketAddr::port);
        let spec = PortSpec { host, ..spec };
        state.entries.push(Entry { spec, bound, is_mirrored });
        self.relay(&mut state);
        Ok(spec)
    }

    /// Binds all addresses, or none.
    fn bind(&self, spec: PortSpec) -> io::Result<Vec<SocketAddr>> {
        let mut tries = if spec.host == 0 { MAX_TRIES } else { 1 };
        loop {
            tries -= 1;
            match self.bind_once(spec) {
                Err(error) if tries > 0 && error.kind() == io::ErrorKind::AddrInUse => {}
                outcome => return outcome,
            }
        }
    }

    fn bind_once(&self, spec: PortSpec) -> io::Result<Vec<SocketAddr>> {
        let mut bound: Vec<SocketAddr> = Vec::new();
        for address in spec.addresses() {
            let port = bound.first().map_or(spec.host, SocketAddr::port);
            let bind = SocketAddr::new(address, port);
            match self.network.publish(Publish { bind, guest_port: spec.guest, transport: spec.transport }) {
                Ok(at) => bound.push(at),
                // A host without IPv6 has no second loopback.
                Err(error) if !bound.is_empty() && is_missing_family(&error) => {}
                Err(error) => {
                    self.unbind(&bound, spec.transport)?;
                    return Err(error);
                }
            }
        }
        Ok(bound)
    }

    fn unbind(&self, bound: &[SocketAddr], transport: Transport) -> io::Result<()> {
        bound.iter().try_for_each(|bind| self.network.unpublish(*bind, transport).map(drop))
    }

    fn remove(&self, is_meant: impl Fn(&Entry) -> bool) -> io::Result<bool> {
        let mut state = self.lock();
        let (gone, kept): (Vec<Entry>, Vec<Entry>) = state.entries.iter().cloned().partition(is_meant);
        for entry in &gone {
            self.unbind(&entry.bound, entry.spec.transport)?;
        }
        state.entries = kept;
        if !gone.is_empty() {
            self.relay(&mut state);
        }
        Ok(!gone.is_empty())
    }

    /// Has the agent pass connections on to loopback for all TCP ports, and the stack know where.
    fn relay(&self, state: &mut State) {
        let tcp = state.entries.iter().filter(|entry| entry.spec.transport == Transport::Tcp);
        let mut ports: Vec<u16> = tcp.map(|entry| entry.spec.guest).collect();
        ports.sort_unstable();
        ports.dedup();
        ports.truncate(MAX_PORTS);
        self.mailbox.drop_relays();
        // An agent that is not there yet is told by `begin`; one that is gone takes its guest along.
        if self.agent.say(&ToGuest::Relay { ports: ports.clone() }).is_err() {
            return;
        }
        let patience = if state.is_mute { MUTE_PATIENCE } else { RELAY_PATIENCE };
        // At the end of the VM nobody needs relays.
        let Ok(relays) = self.mailbox.wait_relays(patience) else { return };
        state.is_mute = relays.is_none();
        let Some(relays) = relays else {
            if state.complaint.allow() {
                tracing::warn!(
                    "The guest agent does not relay ports; services on the guest's loopback are out of reach"
                );
            }
            return;
        };
        let relays = relays.iter().filter(|relay| ports.contains(&relay.port)).map(|relay| (relay.port, relay.at));
        if let Err(error) = self.network.set_relays(relays.collect()) {
            tracing::warn!(%error, "The network stack does not know of the guest's relays");
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_missing_family(error: &io::Error) -> bool {
    let unsupported = rustix::io::Errno::AFNOSUPPORT.raw_os_error();
    error.kind() == io::ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(unsupported)
}

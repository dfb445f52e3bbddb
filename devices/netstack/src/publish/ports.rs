//! All published ports of a VM.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{SocketFlags, acceptfrom_with, sockopt};

use super::Bound;
use crate::config::{Publish, Published, Transport};
use crate::context::Context;
use crate::poller::Owner;
use crate::slab::{Key, Slab};
use crate::tcp::{Client, TcpTable};
use crate::timers::Armed;
use crate::udp::UdpTable;

/// Connections accepted from one published port before others get their turn.
const MAX_ACCEPTS: usize = 32;
/// Pause before trying again when the host has nothing to accept a connection with.
const RETRY: Duration = Duration::from_millis(100);
/// Ports of one VM, since each takes a descriptor and the guest's services come and go.
const MAX_PORTS: usize = 1024;

enum Server {
    Listener(OwnedFd),
    /// Lives in the table of datagram flows.
    Datagrams(Key),
}

struct Port {
    port: Publish,
    server: Server,
    connections: u64,
    /// For coming back to a listener that has more connections than its turn takes.
    armed: Armed,
}

pub(crate) struct Ports(Slab<Port>);

impl Ports {
    pub(crate) fn new() -> Self {
        Self(Slab::new())
    }

    /// Starts to serve a port.
    pub(crate) fn add(&mut self, context: &Context, udp: &mut UdpTable, bound: Bound) -> io::Result<()> {
        if self.0.len() >= MAX_PORTS {
            return Err(io::Error::other(format!("Cannot publish more than {MAX_PORTS} ports of one VM")));
        }
        let Bound { socket, port } = bound;
        let server = match port.transport {
            Transport::Tcp => Server::Listener(socket),
            Transport::Udp => Server::Datagrams(udp.publish(context, socket, port, guest_endpoint(context, &port))?),
        };
        let key = self.0.insert(Port { port, server, connections: 0, armed: Armed::default() });
        if let Some(Port { server: Server::Listener(socket), .. }) = self.0.get_mut(key)
            && let Err(error) = context.poller.add(&*socket, Owner::Listener(key))
        {
            self.0.remove(key);
            return Err(error);
        }
        Ok(())
    }

    /// Frees a port; false when there is none of that address. Connections of TCP clients go on, mappings of UDP
    /// clients end with the socket that they share.
    pub(crate) fn remove(
        &mut self,
        context: &mut Context,
        udp: &mut UdpTable,
        bind: SocketAddr,
        transport: Transport,
    ) -> bool {
        let found = self.0.keys().into_iter().find(|&key| {
            let port = self.0.get_mut(key).map(|entry| (entry.port.bind, entry.port.transport));
            port == Some((bind, transport))
        });
        match found.and_then(|key| self.0.remove(key)) {
            Some(Port { server: Server::Datagrams(key), .. }) => {
                udp.unpublish(context, key);
                true
            }
            Some(_) => true,
            None => false,
        }
    }

    pub(crate) fn contains(&self, key: Key) -> bool {
        self.0.contains(key)
    }

    /// What is published, with counts.
    pub(crate) fn list(&mut self, udp: &mut UdpTable) -> Vec<Published> {
        let mut all = Vec::with_capacity(self.0.len());
        for key in self.0.keys() {
            let Some(entry) = self.0.get_mut(key) else { continue };
            let connections = match entry.server {
                Server::Listener(_) => entry.connections,
                Server::Datagrams(key) => udp.clients(key),
            };
            all.push(Published { port: entry.port, connections });
        }
        all
    }

    /// Takes the connections that wait at a port.
    pub(crate) fn accept(&mut self, context: &mut Context, tcp: &mut TcpTable, key: Key) {
        let Some(Port { port, server: Server::Listener(listener), connections, armed }) = self.0.get_mut(key) else {
            return;
        };
        let guest = guest_endpoint(context, port);
        for _ in 0..MAX_ACCEPTS {
            match acceptfrom_with(&*listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
                Ok((socket, address)) => {
                    *connections += 1;
                    let address = address.and_then(|address| SocketAddr::try_from(address).ok());
                    if let Some(address) = address
                        && sockopt::set_tcp_nodelay(&socket, true).is_ok()
                    {
                        tcp.publish(context, Client { socket, address, port: *port }, guest);
                    }
                }
                Err(Errno::AGAIN) => return,
                // A client that has gone already is no reason to keep the next one waiting.
                Err(Errno::CONNABORTED | Errno::INTR) => {}
                Err(error) => {
                    // Out of descriptors, most likely: whoever waits gets another chance when some were freed.
                    tracing::debug!(%error, "Connection to a published port must wait");
                    return context.timers.arm(armed, Owner::Listener(key).into(), context.now + RETRY);
                }
            }
        }
        // More may wait: come back after everybody else.
        context.timers.arm(armed, Owner::Listener(key).into(), context.now);
    }

    /// It is the turn of a listener again.
    pub(crate) fn on_timer(&mut self, context: &mut Context, tcp: &mut TcpTable, key: Key, at: Instant) {
        if self.0.get_mut(key).is_some_and(|port| port.armed.fired(at)) {
            self.accept(context, tcp, key);
        }
    }
}

/// Where clients of `port` are brought: the guest's address of the family they came over.
fn guest_endpoint(context: &Context, port: &Publish) -> SocketAddr {
    let address: IpAddr = match port.bind {
        SocketAddr::V4(_) => context.addresses.guest_v4.into(),
        SocketAddr::V6(_) => context.addresses.guest_v6.into(),
    };
    SocketAddr::new(address, port.guest_port)
}

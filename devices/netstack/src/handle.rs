//! How the rest of the program holds a gateway.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

use policy::Policy;
use virtio::frame::{Offloads, StackEnd};

use crate::config::{Addresses, NetConfig, Publish, Published, Transport};
use crate::gateway::Gateway;
use crate::publish::Bound;

/// A network gateway for one VM.
#[derive(Debug)]
pub struct Netstack;

/// A running gateway. Dropping it ends the thread and closes every connection.
#[derive(Debug)]
pub struct Handle {
    /// None only while being dropped: a closed channel is what ends the thread.
    commands: Option<Sender<Command>>,
    waker: OwnedFd,
    thread: Option<JoinHandle<()>>,
}

/// What the gateway has in force, from its own mouth.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Addresses on the link.
    pub addresses: Addresses,
    /// Longest IP packet on the link.
    pub mtu: u16,
    /// What is open, one line each.
    pub policy: Vec<String>,
    /// By what way connections leave, one line each; nothing where they leave directly.
    pub ways: Vec<String>,
    /// Whom it asks for names.
    pub resolvers: Vec<SocketAddr>,
    /// Published ports.
    pub published: Vec<Published>,
    /// What the guest's driver takes unfinished.
    pub offloads: Offloads,
    /// TCP connections, open and opening.
    pub tcp_flows: usize,
    /// UDP mappings.
    pub udp_mappings: usize,
    /// Packets of the guest that were dropped without an answer, by reason.
    pub dropped: Vec<(&'static str, u64)>,
}

#[derive(Debug)]
pub(crate) enum Command {
    Report(Sender<Report>),
    SetPolicy(Box<Policy>),
    Publish(Bound, Sender<io::Result<()>>),
    Unpublish(SocketAddr, Transport, Sender<bool>),
    SetRelays(Vec<(u16, u16)>),
}

impl Netstack {
    /// Binds the published ports, then serves `link` on a thread of its own, and on the card's while that borrows it.
    /// When this returns, the policy is in force.
    pub fn start(link: StackEnd, config: NetConfig) -> io::Result<Handle> {
        let (sender, receiver) = channel();
        let (gateway, waker) = Gateway::new(config, receiver)?;
        let thread = std::thread::Builder::new().name("netstack".to_owned()).spawn(move || {
            if let Err(error) = link.run(Box::new(gateway)) {
                tracing::error!(%error, "Network gateway cannot wait for events and ends");
            }
        })?;
        Ok(Handle { commands: Some(sender), waker, thread: Some(thread) })
    }
}

impl Handle {
    /// Asks the gateway what it has in force.
    pub fn report(&self) -> io::Result<Report> {
        let (sender, receiver) = channel();
        self.send(Command::Report(sender))?;
        receiver.recv().map_err(|_| gone())
    }

    /// Replaces the policy of the running gateway. Flows that it does not allow are cut before any later frame of the
    /// guest is looked at.
    pub fn set_policy(&self, policy: Policy) -> io::Result<()> {
        self.send(Command::SetPolicy(Box::new(policy)))
    }

    /// Publishes a port of the running guest; gives the address that is bound. An error names who has the address.
    pub fn publish(&self, port: Publish) -> io::Result<SocketAddr> {
        let bound = Bound::new(port)?;
        let bind = bound.port.bind;
        let (sender, receiver) = channel();
        self.send(Command::Publish(bound, sender))?;
        receiver.recv().map_err(|_| gone())?.map(|()| bind)
    }

    /// Frees a published port; false when there is none of that address. When this returns, the address is free. Open
    /// TCP connections go on.
    pub fn unpublish(&self, bind: SocketAddr, transport: Transport) -> io::Result<bool> {
        let (sender, receiver) = channel();
        self.send(Command::Unpublish(bind, transport, sender))?;
        receiver.recv().map_err(|_| gone())
    }

    /// Where TCP clients of published ports go that the guest refuses: from the first port of each pair to the second,
    /// at the guest's IPv4 address. Something in the guest passes them on to services that listen on its loopback only,
    /// or only in the other family. Replaces all pairs of before.
    pub fn set_relays(&self, relays: Vec<(u16, u16)>) -> io::Result<()> {
        self.send(Command::SetRelays(relays))
    }

    fn send(&self, command: Command) -> io::Result<()> {
        let commands = self.commands.as_ref().ok_or_else(gone)?;
        commands.send(command).map_err(|_| gone())?;
        self.wake()
    }

    fn wake(&self) -> io::Result<()> {
        rustix::io::write(&self.waker, &1u64.to_ne_bytes())?;
        Ok(())
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.commands = None;
        if let Err(error) = self.wake() {
            tracing::error!(%error, "Network gateway could not be woken up to end");
            return;
        }
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("Network gateway ended by a panic");
        }
    }
}

fn gone() -> io::Error {
    io::Error::other("The network gateway has ended")
}

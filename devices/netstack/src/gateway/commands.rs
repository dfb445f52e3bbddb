//! What the rest of the program wants of a running gateway.

use std::sync::mpsc::TryRecvError;

use super::Gateway;
use crate::handle::{Command, Report};

impl Gateway {
    /// Serves commands; true when the thread is to end.
    pub(super) fn stopped(&mut self) -> bool {
        loop {
            match self.commands.try_recv() {
                Ok(Command::Report(to)) => {
                    // Whoever asked may have gone.
                    let _ = to.send(self.report());
                }
                Ok(Command::SetPolicy(policy)) => {
                    self.context.policy = *policy;
                    self.judge_again();
                }
                Ok(Command::SetRelays(relays)) => self.context.relays = relays.into_iter().collect(),
                Ok(Command::Publish(bound, to)) => {
                    let _ = to.send(self.ports.add(&self.context, &mut self.udp, bound));
                }
                Ok(Command::Unpublish(bind, transport, to)) => {
                    let _ = to.send(self.ports.remove(&mut self.context, &mut self.udp, bind, transport));
                }
                Err(TryRecvError::Empty) => return false,
                Err(TryRecvError::Disconnected) => return true,
            }
        }
    }

    fn report(&mut self) -> Report {
        Report {
            addresses: self.context.addresses,
            mtu: self.context.mtu,
            policy: self.context.policy.summary(),
            ways: self.context.dialer.ways(),
            resolvers: self.resolver.servers(),
            published: self.ports.list(&mut self.udp),
            offloads: self.context.uplink.offloads(),
            tcp_flows: self.tcp.len(),
            udp_mappings: self.udp.len(),
            dropped: self.context.drops.list(),
        }
    }
}

//! Clients of published ports on their way to the guest.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use super::flow::{Flow, Stage};
use super::segment::Tuple;
use super::table::{FIRST_EPHEMERAL, TcpTable};
use super::upstream::{Kind, Upstream};
use crate::config::Publish;
use crate::context::Context;
use crate::slab::Key;

/// A client of a published port.
pub(crate) struct Client {
    pub(crate) socket: OwnedFd,
    pub(crate) address: SocketAddr,
    /// Which port it came by.
    pub(crate) port: Publish,
}

impl TcpTable {
    /// Brings a client of a published port to the guest.
    pub(crate) fn publish(&mut self, context: &mut Context, client: Client, guest: SocketAddr) {
        // What is published is reachable for others, who must not be able to cut the guest off.
        let most = context.limits.tcp_flows - context.limits.tcp_flows / 4;
        if self.flows.len() >= context.limits.tcp_flows || self.clients >= most {
            return context.limit("TCP connections");
        }
        let Some(tuple) = self.free_tuple(context, guest) else { return };
        let tcb = self.connecting(context, &tuple);
        let mut flow = Flow::opened(tuple, tcb, Upstream::socket(client.socket, Kind::Tcp), context.now);
        flow.ingress = true;
        self.clients += 1;
        flow.subject = Some(context.admit(client.address, client.port));
        self.insert(context, flow);
    }

    /// Brings a client that the guest refused to where the guest relays it; false if there is no such place.
    pub(super) fn relay(&mut self, context: &mut Context, key: Key) -> bool {
        let refused = self.flows.get_mut(key).filter(|flow| flow.ingress && flow.is_untouched()).map(|flow| flow.tuple);
        let Some(refused) = refused else { return false };
        let Some(at) = context.relays.get(&refused.guest.port()) else { return false };
        let guest = SocketAddr::new(context.addresses.guest_v4.into(), *at);
        // A relay that refuses is not relayed in turn.
        if guest == refused.guest || context.relays.values().any(|at| *at == refused.guest.port()) {
            return false;
        }
        let Some(tuple) = self.free_tuple(context, guest) else { return false };
        let tcb = self.connecting(context, &tuple);
        let Some(flow) = self.flows.get_mut(key) else { return false };
        flow.tuple = tuple;
        flow.stage = Stage::Open(tcb);
        self.by_tuple.remove(&refused);
        self.by_tuple.insert(tuple, key);
        self.mark(key);
        true
    }

    /// A port of the gateway that has no connection with that port of the guest.
    fn free_tuple(&mut self, context: &Context, guest: SocketAddr) -> Option<Tuple> {
        for _ in FIRST_EPHEMERAL..=u16::MAX {
            let port = self.next_port;
            self.next_port = port.checked_add(1).unwrap_or(FIRST_EPHEMERAL);
            let tuple = Tuple { guest, remote: SocketAddr::new(context.addresses.gateway_for(guest.ip()), port) };
            if !self.by_tuple.contains_key(&tuple) {
                return Some(tuple);
            }
        }
        None
    }
}

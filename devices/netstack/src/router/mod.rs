//! What a guest that was not told its addresses asks the gateway: DHCP, router and neighbour discovery.
//!
//! Our own guests know everything from the agent; this is for images with a network setup of their own. There is one
//! address of each family to have, for one card, so nothing a guest asks for takes anything away: leases cannot run
//! out. What guests offer or announce themselves is never believed.

mod advertisement;
mod dhcp;
mod dhcpv6;
mod neighbour;

use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use crate::config::Addresses;
use crate::context::Context;
use crate::poller::Owner;
use crate::timers::Armed;
use crate::wire::{Packet, UDP};

const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// Well before the default route that a guest learnt runs out.
const READVERTISE: Duration = Duration::from_secs(30_000);

/// Answers to questions about the network itself.
#[derive(Debug, Default)]
pub(crate) struct Router {
    /// Armed once somebody asked for a router.
    armed: Armed,
}

impl Router {
    /// Answers a packet if it is such a question.
    pub(crate) fn answer(&mut self, context: &mut Context, packet: &Packet<'_>) -> Option<Vec<u8>> {
        let (addresses, mtu) = (context.addresses, context.mtu);
        if packet.protocol == UDP {
            return match packet.source {
                IpAddr::V4(_) => dhcp::answer(packet, &addresses, mtu),
                IpAddr::V6(_) if context.ipv6 => dhcpv6::answer(packet, &addresses),
                IpAddr::V6(_) => None,
            };
        }
        if let Some(answer) = neighbour::answer(packet, &addresses) {
            return Some(answer);
        }
        if !context.ipv6 {
            // A guest that believes in a way to IPv6 waits for it before it tries IPv4.
            return None;
        }
        let answer = advertisement::answer(packet, &addresses, mtu)?;
        context.timers.arm(&mut self.armed, Owner::Router.into(), context.now + READVERTISE);
        Some(answer)
    }

    /// Renews what guests learnt.
    pub(crate) fn on_timer(&mut self, context: &mut Context, at: Instant) {
        if self.armed.fired(at) {
            let advertisement = advertisement::to(ALL_NODES, &context.addresses, context.mtu);
            context.uplink.send_packet(&advertisement, context.mtu);
            context.timers.arm(&mut self.armed, Owner::Router.into(), context.now + READVERTISE);
        }
    }
}

/// Whether `source` is an address that the guest may ask such questions from.
fn is_asker(source: Ipv6Addr, addresses: &Addresses) -> bool {
    source == addresses.guest_v6 || source.is_unicast_link_local()
}

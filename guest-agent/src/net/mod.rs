//! The guest's network: one link with static addresses, told by the host.

mod link;
mod netlink;

use std::net::IpAddr;

use agent_protocol::setup::Network;

use self::netlink::Netlink;
use crate::boot::Boot;
use crate::failure::{During, Failure};

/// Index of the loopback interface, always.
const LOOPBACK: u32 = 1;

/// Brings loopback up, and the link if there is to be one.
pub(crate) fn up(network: Option<&Network>, boot: &mut Boot) -> Result<(), Failure> {
    let mut netlink = Netlink::open().during(|| "Cannot talk to the kernel about the network".into())?;
    netlink.set_up(LOOPBACK, None).during(|| "Cannot bring loopback up".into())?;
    let Some(network) = network else { return Ok(()) };
    let link = link::find(network.mac)?;
    // No router solicitations and no waiting for duplicate addresses on a link of two.
    for (setting, value) in [("accept_ra", "0"), ("accept_dad", "0")] {
        boot.tolerate(link.configure_ipv6(setting, value));
    }
    let name = &link.name;
    netlink.set_up(link.index, Some(network.mtu)).during(|| format!("Cannot bring {name} up"))?;
    let ipv4 = network.ipv4.map(|link| (IpAddr::V4(link.address), link.prefix, link.gateway.map(IpAddr::V4)));
    let ipv6 = network.ipv6.map(|link| (IpAddr::V6(link.address), link.prefix, link.gateway.map(IpAddr::V6)));
    for (address, prefix, gateway) in [ipv4, ipv6].into_iter().flatten() {
        netlink
            .add_address(link.index, address, prefix)
            .during(|| format!("Cannot give {name} the address {address}/{prefix}"))?;
        if let Some(gateway) = gateway {
            netlink.add_default_route(link.index, gateway).during(|| format!("Cannot route through {gateway}"))?;
        }
    }
    Ok(())
}

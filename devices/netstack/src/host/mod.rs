//! Where the host itself answers, as the kernel tells it (rtnetlink(7)), and when that changes.

mod netlink;

use std::io;

pub(crate) use netlink::HostWatch;
use policy::HostAddresses;

/// The addresses at which this host answers now, for whoever wants to foretell the gateway's verdicts.
pub fn host_addresses() -> io::Result<HostAddresses> {
    HostWatch::new()?.addresses()
}

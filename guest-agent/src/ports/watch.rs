//! Tells the host which ports of the guest something listens on.
//!
//! The kernel announces no `listen` to a program without BPF, so this looks four times a second, and only while the
//! host wants to know. A look costs a dump of the listening sockets alone, however many connections there are.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::thread;
use std::time::Duration;

use agent_protocol::control::{MAX_PORTS, ToHost};

use super::diag::Diag;
use super::relay::OwnPorts;
use crate::control::Host;
use crate::failure::Failure;
use crate::log;

/// Between two looks.
const INTERVAL: Duration = Duration::from_millis(250);
const STACK: usize = 64 << 10;

/// Starts to report to the host, until it is gone.
pub(crate) fn start(host: Host, on_link: Vec<IpAddr>, own: OwnPorts) -> io::Result<()> {
    let mut diag = Diag::open()?;
    thread::Builder::new().name("watch".into()).stack_size(STACK).spawn(move || {
        if let Err(failure) = report(&host, &mut diag, &on_link, &own) {
            log::warn(&failure.to_string());
        }
    })?;
    Ok(())
}

fn report(host: &Host, diag: &mut Diag, on_link: &[IpAddr], own: &OwnPorts) -> Result<(), Failure> {
    let mut told = None;
    loop {
        let listeners = diag.listeners().map_err(|error| Failure::new("Cannot ask what listens", error))?;
        let ports = reachable(&listeners, on_link, &own.get());
        if told.as_ref() != Some(&ports) {
            host.send(&ToHost::Listening { ports: ports.iter().copied().collect() })?;
            told = Some(ports);
        }
        thread::sleep(INTERVAL);
    }
}

/// The ports that the host can reach, directly or through a relay.
fn reachable(listeners: &[SocketAddr], on_link: &[IpAddr], own: &BTreeSet<u16>) -> BTreeSet<u16> {
    let is_reachable = |address: IpAddr| {
        let loopback = [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()];
        address.is_unspecified() || loopback.contains(&address) || on_link.contains(&address)
    };
    let ports = listeners.iter().filter(|listener| is_reachable(listener.ip())).map(SocketAddr::port);
    let ports: BTreeSet<u16> = ports.filter(|port| !own.contains(port)).collect();
    ports.into_iter().take(MAX_PORTS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_host_can_reach_counts() {
        let on_link = [IpAddr::from([100, 96, 0, 2])];
        let listeners =
            ["0.0.0.0:1", "[::]:2", "127.0.0.1:3", "[::1]:4", "100.96.0.2:5", "172.17.0.1:6", "127.0.0.53:7"]
                .map(|address| address.parse().unwrap());
        let own = BTreeSet::from([5]);
        assert_eq!(reachable(&listeners, &on_link, &own), BTreeSet::from([1, 2, 3, 4]));
    }

    #[test]
    fn a_report_has_a_longest_length() {
        let listeners: Vec<SocketAddr> = (1..5000).map(|port| SocketAddr::from(([0, 0, 0, 0], port))).collect();
        let ports = reachable(&listeners, &[], &BTreeSet::new());
        assert_eq!((ports.len(), ports.last()), (MAX_PORTS, Some(&256)));
    }
}

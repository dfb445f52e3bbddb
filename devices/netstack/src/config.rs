//! What a gateway is started with.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use policy::{Cidr, Policy};

use crate::{AuditSink, Dialer, Discard, HostDialer, Interceptor, Proxy, StreamChecks};

/// Who is who on the link between guest and gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    /// MAC address of the guest's card.
    pub guest_mac: [u8; 6],
    /// MAC address of the gateway.
    pub gateway_mac: [u8; 6],
    /// The guest's IPv4 address.
    pub guest_v4: Ipv4Addr,
    /// The gateway's IPv4 address, also that of its resolver.
    pub gateway_v4: Ipv4Addr,
    /// Prefix length of the IPv4 network.
    pub prefix_v4: u8,
    /// The guest's IPv6 address.
    pub guest_v6: Ipv6Addr,
    /// The gateway's IPv6 address, also that of its resolver.
    pub gateway_v6: Ipv6Addr,
    /// Prefix length of the IPv6 network.
    pub prefix_v6: u8,
}

impl Default for Addresses {
    fn default() -> Self {
        Self {
            guest_mac: [0x02, 0x76, 0x6d, 0x6d, 0x00, 0x02],
            gateway_mac: [0x02, 0x76, 0x6d, 0x6d, 0x00, 0x01],
            guest_v4: Ipv4Addr::new(100, 96, 0, 2),
            gateway_v4: Ipv4Addr::new(100, 96, 0, 1),
            prefix_v4: 30,
            guest_v6: Ipv6Addr::new(0xfd76, 0x6d6d, 0, 0, 0, 0, 0, 2),
            gateway_v6: Ipv6Addr::new(0xfd76, 0x6d6d, 0, 0, 0, 0, 0, 1),
            prefix_v6: 64,
        }
    }
}

impl Addresses {
    pub(crate) fn is_guest(&self, address: IpAddr) -> bool {
        address == IpAddr::V4(self.guest_v4) || address == IpAddr::V6(self.guest_v6)
    }

    pub(crate) fn is_gateway(&self, address: IpAddr) -> bool {
        address == IpAddr::V4(self.gateway_v4) || address == IpAddr::V6(self.gateway_v6)
    }

    /// Whether `address` belongs to the link itself, where there is nobody but guest and gateway.
    pub(crate) fn is_on_link(&self, address: IpAddr) -> bool {
        let networks = [(IpAddr::from(self.gateway_v4), self.prefix_v4), (self.gateway_v6.into(), self.prefix_v6)];
        networks.iter().any(|(network, prefix)| Cidr::new(*network, *prefix).is_some_and(|link| link.contains(address)))
    }

    /// The gateway's link-local address, made from its MAC address (RFC 4291, appendix A).
    pub(crate) fn gateway_link_local(&self) -> Ipv6Addr {
        let [m0, m1, m2, m3, m4, m5] = self.gateway_mac;
        let pair = |high, low| u16::from_be_bytes([high, low]);
        Ipv6Addr::new(0xfe80, 0, 0, 0, pair(m0 ^ 2, m1), pair(m2, 0xff), pair(0xfe, m3), pair(m4, m5))
    }

    pub(crate) fn gateway_for(&self, address: IpAddr) -> IpAddr {
        if address.is_ipv4() { self.gateway_v4.into() } else { self.gateway_v6.into() }
    }
}

/// Where the resolvers to ask are found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolvers {
    /// In a file like resolv.conf(5), read again whenever it changes (a VPN comes or goes).
    File(PathBuf),
    /// Here.
    Fixed(Vec<SocketAddr>),
}

/// What one VM may use up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// TCP connections, open and opening.
    pub tcp_flows: usize,
    /// TCP connections waiting for the remote end.
    pub tcp_connecting: usize,
    /// UDP mappings.
    pub udp_mappings: usize,
    /// How long a UDP mapping lives without a datagram.
    pub udp_idle: Duration,
    /// Clients of published UDP ports.
    pub udp_clients: usize,
    /// Remote hosts being pinged, each identifier of the guest on its own.
    pub echo_flows: usize,
    /// DNS questions in flight.
    pub dns_in_flight: usize,
    /// How long a name opens an address at least, however short the lifetime of the answer: one of zero is still used
    /// once.
    pub pin_least: Duration,
    /// How long a name goes on opening an address when the answer has expired: programs use it a moment longer.
    pub pin_grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            tcp_flows: 16_384,
            tcp_connecting: 1024,
            udp_mappings: 1024,
            udp_idle: Duration::from_secs(60),
            udp_clients: 1024,
            echo_flows: 64,
            dns_in_flight: 256,
            pin_least: Duration::from_secs(60),
            pin_grace: Duration::from_secs(30),
        }
    }
}

/// A protocol that has ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        })
    }
}

/// A port of the guest that is reachable from the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Publish {
    /// Where the host listens; port 0 picks a free one. An IPv6 address takes no IPv4 clients along.
    pub bind: SocketAddr,
    /// Port of the guest.
    pub guest_port: u16,
    /// Over what.
    pub transport: Transport,
}

/// A port that is published, as the gateway sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Published {
    /// Which, with the address that is really bound.
    pub port: Publish,
    /// TCP connections that clients made, or UDP clients that were heard, since it was published.
    pub connections: u64,
}

/// Everything a gateway needs to know.
#[derive(Debug)]
pub struct NetConfig {
    /// Addresses on the link.
    pub addresses: Addresses,
    /// Longest IP packet on the link.
    pub mtu: u16,
    /// What may pass.
    pub policy: Policy,
    /// Whom to ask for names.
    pub resolvers: Resolvers,
    /// Ports to publish.
    pub publish: Vec<Publish>,
    /// Where verdicts are told. It is called on the gateway's thread and must not block.
    pub audit: Box<dyn AuditSink>,
    /// How connections to the world are opened.
    pub dialer: Box<dyn Dialer>,
    /// The proxy that flows have to take, if the host has one.
    pub proxy: Option<Proxy>,
    /// What the VM may use up.
    pub limits: Limits,
    /// Whether names have IPv6 addresses as far as the guest is told. Without IPv6 on the host they only cost time.
    pub ipv6: bool,
    /// What flows that rest on names may do.
    pub checks: StreamChecks,
    /// Who may take flows over.
    pub interceptor: Option<Box<dyn Interceptor>>,
}

impl NetConfig {
    /// Standard addresses, the host's resolvers and sockets, nothing published, no audit.
    pub fn new(policy: Policy) -> Self {
        Self {
            addresses: Addresses::default(),
            mtu: 65_520,
            policy,
            resolvers: Resolvers::File("/etc/resolv.conf".into()),
            publish: Vec::new(),
            audit: Box::new(Discard),
            dialer: Box::new(HostDialer),
            proxy: None,
            limits: Limits::default(),
            ipv6: true,
            checks: StreamChecks::default(),
            interceptor: None,
        }
    }
}

//! How the gateway opens connections to the world.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

use policy::Name;
use rustix::net::sockopt::{self, Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery};
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, ipproto, socket_with};

/// Opens upstream sockets. Only destinations that the policy allowed get here, with the addresses that were judged.
pub trait Dialer: Send + fmt::Debug {
    /// Starts a connection and returns at once; the socket becomes writable when it is made or has failed.
    fn tcp(&mut self, remote: SocketAddr) -> io::Result<OwnedFd>;
    /// A non-blocking UDP socket connected to `remote`.
    fn udp(&mut self, remote: SocketAddr) -> io::Result<OwnedFd>;

    /// Whether whatever `tcp` gives is a TCP socket. Where it may be something else, each is asked what it is.
    fn gives_tcp(&self) -> bool {
        false
    }

    /// By what way flows of the guest leave, one line each; nothing where they leave directly.
    fn ways(&self) -> Vec<String> {
        Vec::new()
    }

    /// Starts a connection for a flow of the guest, whose address was resolved from `names`, the latest first.
    fn tcp_flow(&mut self, remote: SocketAddr, names: &[Name]) -> io::Result<Dialed> {
        let _ = names;
        self.tcp(remote).map(|socket| Dialed { socket, greeting: None })
    }

    /// A socket for datagrams of the guest, likewise.
    fn udp_flow(&mut self, remote: SocketAddr, names: &[Name]) -> io::Result<OwnedFd> {
        let _ = names;
        self.udp(remote)
    }

    /// A non-blocking datagram socket for ICMP echo messages to and from `remote`, without IP headers. An error where
    /// the host has none for this user.
    fn echo(&mut self, remote: IpAddr) -> io::Result<OwnedFd> {
        Err(io::Error::new(io::ErrorKind::Unsupported, format!("No way to ping {remote}")))
    }
}

/// A connection that was started for a flow.
#[derive(Debug)]
pub struct Dialed {
    /// Its socket.
    pub socket: OwnedFd,
    /// What has to be said before it is the guest's.
    pub greeting: Option<Box<dyn Greeting>>,
}

/// A conversation at the start of a connection, with whoever stands before the remote end.
pub trait Greeting: Send + fmt::Debug {
    /// Goes on as far as it can without blocking; true when the connection is the guest's.
    fn advance(&mut self, socket: &OwnedFd) -> io::Result<bool>;
}

/// Ordinary sockets of this host.
#[derive(Debug, Clone, Copy, Default)]
pub struct HostDialer;

impl Dialer for HostDialer {
    fn gives_tcp(&self) -> bool {
        true
    }

    fn tcp(&mut self, remote: SocketAddr) -> io::Result<OwnedFd> {
        let socket = open(remote, SocketType::STREAM)?;
        // The guest has an idea of its own of when to send.
        sockopt::set_tcp_nodelay(&socket, true)?;
        match connect(&socket, &remote) {
            Ok(()) | Err(rustix::io::Errno::INPROGRESS) => Ok(socket),
            Err(error) => Err(error.into()),
        }
    }

    fn udp(&mut self, remote: SocketAddr) -> io::Result<OwnedFd> {
        let socket = open(remote, SocketType::DGRAM)?;
        // Datagrams that were fine on the guest's link may be too long for the next one: fragment, do not fail.
        match remote {
            SocketAddr::V4(_) => sockopt::set_ip_mtu_discover(&socket, Ipv4PathMtuDiscovery::DONT)?,
            SocketAddr::V6(_) => sockopt::set_ipv6_mtu_discover(&socket, Ipv6PathMtuDiscovery::DONT)?,
        }
        connect(&socket, &remote)?;
        Ok(socket)
    }

    fn echo(&mut self, remote: IpAddr) -> io::Result<OwnedFd> {
        // icmp(7): open to the groups in net.ipv4.ping_group_range, for both families; never a raw socket.
        let (family, protocol) = match remote {
            IpAddr::V4(_) => (AddressFamily::INET, ipproto::ICMP),
            IpAddr::V6(_) => (AddressFamily::INET6, ipproto::ICMPV6),
        };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = socket_with(family, SocketType::DGRAM, flags, Some(protocol))?;
        connect(&socket, &SocketAddr::new(remote, 0))?;
        Ok(socket)
    }
}

fn open(remote: SocketAddr, kind: SocketType) -> io::Result<OwnedFd> {
    let family = if remote.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let protocol = if kind == SocketType::STREAM { ipproto::TCP } else { ipproto::UDP };
    Ok(socket_with(family, kind, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC, Some(protocol))?)
}

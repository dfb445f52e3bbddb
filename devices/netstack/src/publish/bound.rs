//! Sockets of published ports, before the gateway has them.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use rustix::net::sockopt::{set_ipv6_v6only, set_socket_reuseaddr};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, getsockname, ipproto, listen, socket_with};

use super::holder;
use crate::config::{Publish, Transport};

/// Connections that may wait for the gateway's thread.
const BACKLOG: i32 = 1024;

/// A published port that holds its address and serves nobody yet.
#[derive(Debug)]
pub(crate) struct Bound {
    pub(crate) socket: OwnedFd,
    /// What was asked for, with the address it really has.
    pub(crate) port: Publish,
}

impl Bound {
    /// Binds `port`. The error names whoever has the address already, as far as this user may know.
    pub(crate) fn new(port: Publish) -> io::Result<Self> {
        if port.guest_port == 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "Cannot publish port 0 of the guest: none has it"));
        }
        open(port).map_err(|error| explain(port, &error))
    }
}

fn open(port: Publish) -> io::Result<Bound> {
    let family = if port.bind.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let (kind, protocol) = match port.transport {
        Transport::Tcp => (SocketType::STREAM, ipproto::TCP),
        Transport::Udp => (SocketType::DGRAM, ipproto::UDP),
    };
    let socket = socket_with(family, kind, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC, Some(protocol))?;
    if port.bind.is_ipv6() {
        // An IPv6 wildcard that took IPv4 along would be open wider than its address says.
        set_ipv6_v6only(&socket, true)?;
    }
    if port.transport == Transport::Tcp {
        // Connections of a predecessor that have not died yet are no reason to refuse.
        set_socket_reuseaddr(&socket, true)?;
    }
    bind(&socket, &port.bind)?;
    if port.transport == Transport::Tcp {
        listen(&socket, BACKLOG)?;
    }
    let bind = SocketAddr::try_from(getsockname(&socket)?)?;
    Ok(Bound { socket, port: Publish { bind, ..port } })
}

fn explain(port: Publish, error: &io::Error) -> io::Error {
    let Publish { bind, guest_port, transport } = port;
    let reason = match error.kind() {
        io::ErrorKind::AddrInUse => match holder::find(bind, transport) {
            Some(holder) => format!("{holder} has it already; choose another host port"),
            None => "something else has it already; choose another host port".to_owned(),
        },
        io::ErrorKind::PermissionDenied => {
            format!("{error}; this user may not bind ports below 1024, choose a higher host port")
        }
        io::ErrorKind::AddrNotAvailable => format!("{error}; the host has no such address"),
        _ => error.to_string(),
    };
    io::Error::new(
        error.kind(),
        format!("Cannot publish {transport} port {guest_port} of the guest at {bind}: {reason}"),
    )
}

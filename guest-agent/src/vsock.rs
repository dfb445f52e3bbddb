//! Stream sockets between guest and host.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, VsockAddr, bind, connect, listen, socket};
use rustix::net::SocketFlags;

/// Any of the guest's own addresses (VMADDR_CID_ANY).
const ANY_CID: u32 = u32::MAX;

fn stream() -> io::Result<OwnedFd> {
    Ok(socket(AddressFamily::Vsock, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?)
}

/// Connects to a port of the host. The driver is part of the kernel, so it is there before PID 1 is.
pub fn connect_to_host(port: u32) -> io::Result<OwnedFd> {
    let socket = stream()?;
    connect(socket.as_raw_fd(), &VsockAddr::new(agent_protocol::HOST_CID, port))?;
    Ok(socket)
}

/// Listens on a port of the guest.
pub fn listen_on(port: u32) -> io::Result<OwnedFd> {
    let socket = stream()?;
    bind(socket.as_raw_fd(), &VsockAddr::new(ANY_CID, port))?;
    listen(&socket, Backlog::MAXCONN)?;
    Ok(socket)
}

/// Waits for the host to connect.
pub fn accept(listener: &OwnedFd) -> io::Result<OwnedFd> {
    Ok(rustix::io::retry_on_intr(|| rustix::net::accept_with(listener, SocketFlags::CLOEXEC))?)
}

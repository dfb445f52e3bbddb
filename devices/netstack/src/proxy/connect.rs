//! The CONNECT that opens a flow at the proxy (RFC 9110, 9.3.6).

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use policy::Name;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};

use super::settings::Server;
use crate::dialer::Greeting;

/// Longest head of a proxy's answer.
const MAX_ANSWER: usize = 8192;

#[derive(Debug)]
pub(super) struct Connect {
    unsent: Vec<u8>,
}

impl Connect {
    pub(super) fn new(server: &Server, remote: SocketAddr, name: Option<&Name>) -> Self {
        let place = match name {
            Some(name) => format!("{name}:{}", remote.port()),
            None => remote.to_string(),
        };
        let mut request = format!("CONNECT {place} HTTP/1.1\r\nHost: {place}\r\n");
        if let Some(secret) = &server.authorization {
            request.push_str(&format!("Proxy-Authorization: {}\r\n", secret.0));
        }
        request.push_str("\r\n");
        Self { unsent: request.into_bytes() }
    }
}

impl Greeting for Connect {
    fn advance(&mut self, socket: &OwnedFd) -> io::Result<bool> {
        while !self.unsent.is_empty() {
            match send(socket, &self.unsent, SendFlags::NOSIGNAL) {
                Ok(count) => drop(self.unsent.drain(..count)),
                Err(Errno::AGAIN | Errno::INTR) => return Ok(false),
                Err(error) => return Err(error.into()),
            }
        }
        // Looked at before it is taken: what follows the head belongs to the guest.
        let mut space = [0; MAX_ANSWER];
        let count = match recv(socket, &mut space, RecvFlags::PEEK) {
            Ok((_, 0)) => return Err(refused("hung up")),
            Ok((_, count)) => count,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        let answer = space.get(..count).unwrap_or_default();
        let Some(end) = answer.windows(4).position(|window| window == b"\r\n\r\n") else {
            return if count < MAX_ANSWER { Ok(false) } else { Err(refused("talks too much")) };
        };
        let status = answer.split(|byte| *byte == b'\r').next().unwrap_or_default();
        let granted = status.starts_with(b"HTTP/1.") && status.get(8..10) == Some(b" 2");
        if !granted {
            tracing::debug!(status = %status.escape_ascii(), "Proxy of the host refused a connection");
            return Err(refused("said no"));
        }
        let head = space.get_mut(..end + 4).unwrap_or_default();
        let (_, taken) = recv(socket, head, RecvFlags::empty())?;
        if taken == end + 4 { Ok(true) } else { Err(refused("changed its answer")) }
    }
}

fn refused(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionRefused, format!("The proxy of the host {what}"))
}

//! What listens in the guest: a dump of sock_diag(7).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with};

const HEADER_LEN: usize = 16;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
/// NLM_F_REQUEST and NLM_F_DUMP.
const DUMP: u16 = 0x1 | 0x300;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const IPPROTO_TCP: u8 = 6;
/// TCPF_LISTEN, the only state of interest.
const LISTENING: u32 = 1 << 10;
/// struct inet_diag_req_v2.
const REQUEST_LEN: usize = 56;
/// What the kernel puts into one datagram of a dump at most (NLMSG_GOODSIZE, rounded up).
const BUFFER_LEN: usize = 32 << 10;

/// A conversation with the kernel about sockets.
#[derive(Debug)]
pub(super) struct Diag {
    socket: OwnedFd,
    buffer: Vec<u8>,
}

impl Diag {
    pub(super) fn open() -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, Some(netlink::SOCK_DIAG))?;
        Ok(Self { socket, buffer: vec![0; BUFFER_LEN] })
    }

    /// The addresses on which TCP sockets listen.
    pub(super) fn listeners(&mut self) -> io::Result<Vec<SocketAddr>> {
        let mut found = Vec::new();
        for family in [AF_INET, AF_INET6] {
            send(&self.socket, &request(family), SendFlags::empty())?;
            loop {
                let (count, _) = recv(&self.socket, self.buffer.as_mut_slice(), RecvFlags::empty())?;
                if read(self.buffer.get(..count).unwrap_or_default(), &mut found)? {
                    break;
                }
            }
        }
        Ok(found)
    }
}

/// struct nlmsghdr and struct inet_diag_req_v2: all listening TCP sockets of a family.
fn request(family: u8) -> Vec<u8> {
    let mut message = Vec::with_capacity(HEADER_LEN + REQUEST_LEN);
    let len = u32::try_from(HEADER_LEN + REQUEST_LEN).unwrap_or(0);
    message.extend(len.to_ne_bytes());
    message.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    message.extend(DUMP.to_ne_bytes());
    message.extend([0; 8]);
    message.extend([family, IPPROTO_TCP, 0, 0]);
    message.extend(LISTENING.to_ne_bytes());
    message.resize(HEADER_LEN + REQUEST_LEN, 0);
    message
}

/// Reads one datagram of a dump; true when it was the last.
fn read(mut datagram: &[u8], found: &mut Vec<SocketAddr>) -> io::Result<bool> {
    let malformed = || io::Error::other("Unexpected answer of the kernel");
    while !datagram.is_empty() {
        let len = datagram.first_chunk::<4>().map(|len| u32::from_ne_bytes(*len)).ok_or_else(malformed)?;
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        let message = datagram.get(..len).filter(|message| message.len() >= HEADER_LEN).ok_or_else(malformed)?;
        let kind = message.get(4..6).and_then(|kind| kind.first_chunk::<2>()).copied().map(u16::from_ne_bytes);
        let body = message.get(HEADER_LEN..).unwrap_or_default();
        match kind {
            Some(NLMSG_DONE) => return Ok(true),
            Some(NLMSG_ERROR) => {
                let error = body.first_chunk::<4>().map(|error| i32::from_ne_bytes(*error)).ok_or_else(malformed)?;
                return Err(io::Error::from_raw_os_error(error.saturating_neg()));
            }
            Some(SOCK_DIAG_BY_FAMILY) => found.extend(address(body)),
            _ => {}
        }
        datagram = datagram.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

/// The socket's own address in struct inet_diag_msg: family, three bytes, then struct inet_diag_sockid, which begins
/// with both ports and the address, in network order.
fn address(body: &[u8]) -> Option<SocketAddr> {
    let port = u16::from_be_bytes(*body.get(4..)?.first_chunk()?);
    let address = body.get(8..)?;
    let ip = match *body.first()? {
        AF_INET => IpAddr::V4(Ipv4Addr::from(*address.first_chunk::<4>()?)),
        AF_INET6 => IpAddr::V6(Ipv6Addr::from(*address.first_chunk::<16>()?)),
        _ => return None,
    };
    Some(SocketAddr::new(ip.to_canonical(), port))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn listeners_of_both_families_are_found_until_they_close() {
        let mut diag = Diag::open().unwrap();
        let sockets = ["127.0.0.1:0", "[::1]:0"].map(|address| TcpListener::bind(address).unwrap());
        let addresses = sockets.each_ref().map(|socket| socket.local_addr().unwrap());
        let found = diag.listeners().unwrap();
        assert!(addresses.iter().all(|address| found.contains(address)), "{found:?}");
        drop(sockets);
        let found = diag.listeners().unwrap();
        assert!(!addresses.iter().any(|address| found.contains(address)), "{found:?}");
    }

    #[test]
    fn nonsense_is_an_error_and_no_panic() {
        let whole = request(AF_INET);
        for len in 1..whole.len() {
            assert!(read(&whole[..len], &mut Vec::new()).is_err());
        }
        assert!(read(&[0; 64], &mut Vec::new()).is_err());
    }
}

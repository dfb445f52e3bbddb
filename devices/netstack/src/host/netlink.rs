//! The local routing table of the host, which knows every address it takes for its own: those of its interfaces, their
//! broadcast addresses, whole loopback networks, and ranges that somebody routed to it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use policy::{Cidr, HostAddresses};
use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, sendto, socket_with};

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_DUMP: u16 = 0x300;
const RTA_DST: u16 = 1;
/// Route types that mean the host itself: local, broadcast, anycast.
const OWN_TYPES: [u8; 3] = [2, 3, 4];
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// Addresses of either family come or go.
const GROUPS: u32 = 0x10 | 0x100;

const HEADER: usize = 16;
/// Longer than any message the kernel puts into a dump.
const BUFFER: usize = 64 << 10;
/// Messages of one dump: a host with more local routes is not believed.
const MAX_RANGES: usize = 1 << 16;

/// Tells where the host answers, and when that may have changed.
#[derive(Debug)]
pub(crate) struct HostWatch {
    changes: OwnedFd,
}

impl HostWatch {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { changes: open(GROUPS)? })
    }

    /// Whether something changed since the last call.
    pub(crate) fn take_change(&self) -> bool {
        let mut buffer = vec![0; BUFFER];
        let mut changed = false;
        loop {
            match recv(&self.changes, &mut *buffer, RecvFlags::empty()) {
                Ok(_) => changed = true,
                // Notices were lost: so something did change.
                Err(Errno::NOBUFS) => changed = true,
                Err(_) => return changed,
            }
        }
    }

    /// The addresses of now. A host whose addresses cannot be told is not one to start a guest on.
    pub(crate) fn addresses(&self) -> io::Result<HostAddresses> {
        let mut ranges = Vec::new();
        for family in [AF_INET, AF_INET6] {
            dump(family, &mut ranges)?;
        }
        Ok(HostAddresses::new(ranges))
    }
}

impl AsFd for HostWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.changes.as_fd()
    }
}

fn open(groups: u32) -> io::Result<OwnedFd> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    // Protocol 0 of netlink is NETLINK_ROUTE.
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
    bind(&socket, &SocketAddrNetlink::new(0, groups))?;
    Ok(socket)
}

fn dump(family: u8, ranges: &mut Vec<Cidr>) -> io::Result<()> {
    let socket = open(0)?;
    let mut request = Vec::with_capacity(HEADER + 12);
    request.extend_from_slice(&28u32.to_ne_bytes());
    request.extend_from_slice(&RTM_GETROUTE.to_ne_bytes());
    request.extend_from_slice(&(NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
    request.extend_from_slice(&[0; 8]);
    request.extend_from_slice(&[family, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    sendto(&socket, &request, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
    let mut buffer = vec![0; BUFFER];
    loop {
        // The kernel puts the next part of a dump in place before a read returns: there is nothing to wait for.
        let (_, count) = recv(&socket, &mut *buffer, RecvFlags::empty())?;
        if count == 0 || !read_messages(buffer.get(..count).unwrap_or_default(), family, ranges)? {
            return Ok(());
        }
    }
}

/// Reads one datagram of a dump; false when it was the last.
fn read_messages(mut datagram: &[u8], family: u8, ranges: &mut Vec<Cidr>) -> io::Result<bool> {
    while let Some((&[l0, l1, l2, l3, t0, t1, ..], _)) = datagram.split_first_chunk::<HEADER>() {
        let len = usize::try_from(u32::from_ne_bytes([l0, l1, l2, l3])).unwrap_or(usize::MAX);
        let body = datagram.get(HEADER..len).ok_or(io::ErrorKind::InvalidData)?;
        match u16::from_ne_bytes([t0, t1]) {
            NLMSG_DONE => return Ok(false),
            NLMSG_ERROR => return Err(netlink_error(body)),
            RTM_NEWROUTE => ranges.extend(own_range(body, family)),
            _ => {}
        }
        if ranges.len() > MAX_RANGES {
            return Err(io::Error::other("The host has too many addresses of its own"));
        }
        datagram = datagram.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(true)
}

fn netlink_error(body: &[u8]) -> io::Error {
    match body.first_chunk::<4>() {
        Some(&code) => io::Error::from_raw_os_error(i32::from_ne_bytes(code).saturating_neg()),
        None => io::ErrorKind::InvalidData.into(),
    }
}

/// The destination of a route, if it leads to the host itself.
fn own_range(body: &[u8], wanted: u8) -> Option<Cidr> {
    let (&[family, prefix, _, _, _, _, _, kind, ..], mut attributes) = body.split_first_chunk::<12>()?;
    if family != wanted || !OWN_TYPES.contains(&kind) {
        return None;
    }
    while let Some((&[l0, l1, t0, t1], _)) = attributes.split_first_chunk::<4>() {
        let len = usize::from(u16::from_ne_bytes([l0, l1]));
        let value = attributes.get(4..len)?;
        if u16::from_ne_bytes([t0, t1]) == RTA_DST {
            let address: IpAddr = match family {
                AF_INET => Ipv4Addr::from(<[u8; 4]>::try_from(value).ok()?).into(),
                _ => Ipv6Addr::from(<[u8; 16]>::try_from(value).ok()?).into(),
            };
            return Cidr::new(address, prefix);
        }
        attributes = attributes.get(len.next_multiple_of(4)..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_network_is_the_hosts_own() {
        let own = HostWatch::new().unwrap().addresses().unwrap();
        assert!(own.contains("127.0.0.1".parse().unwrap()));
        assert!(own.contains("127.1.2.3".parse().unwrap()));
        assert!(!own.contains("93.184.216.34".parse().unwrap()));
    }

    #[test]
    fn malformed_messages_are_errors_not_panics() {
        for datagram in [&[0u8; 16][..], &[255; 16], &[20, 0, 0, 0, 24, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]] {
            let mut ranges = Vec::new();
            let _ = read_messages(datagram, AF_INET, &mut ranges);
            assert!(ranges.is_empty());
        }
    }
}

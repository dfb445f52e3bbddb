//! The four requests of rtnetlink(7) the agent makes, each acknowledged.

use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with};

const HEADER_LEN: usize = 16;
const NLMSG_ERROR: u16 = 2;
const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
/// NLM_F_REQUEST and NLM_F_ACK.
const REQUEST: u16 = 0x1 | 0x4;
/// NLM_F_REPLACE and NLM_F_CREATE.
const PUT: u16 = 0x100 | 0x400;
const IFF_UP: u32 = 1;
const IFLA_MTU: u16 = 4;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
/// IFA_F_NODAD: the address is good at once.
const NO_DUPLICATE_DETECTION: u8 = 2;
const TABLE_MAIN: u8 = 254;
const PROTOCOL_STATIC: u8 = 4;
const TYPE_UNICAST: u8 = 1;

/// A conversation with the kernel.
#[derive(Debug)]
pub(super) struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

impl Netlink {
    pub(super) fn open() -> io::Result<Self> {
        // No protocol is NETLINK_ROUTE, which is number 0.
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Brings an interface up, with that MTU.
    pub(super) fn set_up(&mut self, index: u32, mtu: Option<u16>) -> io::Result<()> {
        let mut message = Message::new(RTM_NEWLINK, REQUEST);
        // struct ifinfomsg: family and type unspecified, index, flags, which of them change.
        message.put(&[0; 4]);
        message.put(&index.to_ne_bytes());
        message.put(&IFF_UP.to_ne_bytes());
        message.put(&IFF_UP.to_ne_bytes());
        if let Some(mtu) = mtu {
            message.attribute(IFLA_MTU, &u32::from(mtu).to_ne_bytes());
        }
        self.ask(message)
    }

    /// Gives an interface an address.
    pub(super) fn add_address(&mut self, index: u32, address: IpAddr, prefix: u8) -> io::Result<()> {
        let mut message = Message::new(RTM_NEWADDR, REQUEST | PUT);
        // struct ifaddrmsg: family, prefix, flags, scope, index.
        message.put(&[family(address), prefix, NO_DUPLICATE_DETECTION, 0]);
        message.put(&index.to_ne_bytes());
        message.address(IFA_LOCAL, address);
        message.address(IFA_ADDRESS, address);
        self.ask(message)
    }

    /// Routes everything else through a gateway.
    pub(super) fn add_default_route(&mut self, index: u32, gateway: IpAddr) -> io::Result<()> {
        let mut message = Message::new(RTM_NEWROUTE, REQUEST | PUT);
        // struct rtmsg: family, destination and source of length 0, type of service, table, protocol, scope, type,
        // flags.
        message.put(&[family(gateway), 0, 0, 0, TABLE_MAIN, PROTOCOL_STATIC, 0, TYPE_UNICAST]);
        message.put(&[0; 4]);
        message.address(RTA_GATEWAY, gateway);
        message.attribute(RTA_OIF, &index.to_ne_bytes());
        self.ask(message)
    }

    fn ask(&mut self, message: Message) -> io::Result<()> {
        self.sequence += 1;
        // A socket without a peer talks to the kernel.
        send(&self.socket, &message.finish(self.sequence)?, SendFlags::empty())?;
        let mut answer = [0; 512];
        let (count, _) = recv(&self.socket, &mut answer, RecvFlags::empty())?;
        acknowledged(answer.get(..count).unwrap_or_default(), self.sequence)
    }
}

/// Reads struct nlmsghdr and the error of struct nlmsgerr.
fn acknowledged(answer: &[u8], sequence: u32) -> io::Result<()> {
    let field = |at: usize| answer.get(at..at + 4).and_then(|bytes| bytes.first_chunk::<4>()).copied();
    let kind = answer.get(4..6).and_then(|bytes| bytes.first_chunk::<2>()).copied().map(u16::from_ne_bytes);
    match (kind, field(8).map(u32::from_ne_bytes), field(HEADER_LEN).map(i32::from_ne_bytes)) {
        (Some(NLMSG_ERROR), Some(found), Some(0)) if found == sequence => Ok(()),
        (Some(NLMSG_ERROR), Some(found), Some(error)) if found == sequence => {
            Err(io::Error::from_raw_os_error(error.saturating_neg()))
        }
        _ => Err(io::Error::other("Unexpected answer of the kernel")),
    }
}

fn family(address: IpAddr) -> u8 {
    // AF_INET, AF_INET6.
    if address.is_ipv4() { 2 } else { 10 }
}

/// A request being built.
struct Message(Vec<u8>);

impl Message {
    fn new(kind: u16, flags: u16) -> Self {
        let mut bytes = vec![0; HEADER_LEN];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        Self(bytes)
    }

    fn put(&mut self, bytes: &[u8]) {
        self.0.extend(bytes);
    }

    /// struct rtattr: length, kind, value; padded to 4 bytes. Values here are at most 16 bytes.
    fn attribute(&mut self, kind: u16, value: &[u8]) {
        let len = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
        self.put(&len.to_ne_bytes());
        self.put(&kind.to_ne_bytes());
        self.put(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    fn address(&mut self, kind: u16, address: IpAddr) {
        match address {
            IpAddr::V4(address) => self.attribute(kind, &address.octets()),
            IpAddr::V6(address) => self.attribute(kind, &address.octets()),
        }
    }

    fn finish(mut self, sequence: u32) -> io::Result<Vec<u8>> {
        let len = u32::try_from(self.0.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        self.0[..4].copy_from_slice(&len.to_ne_bytes());
        self.0[8..12].copy_from_slice(&sequence.to_ne_bytes());
        Ok(self.0)
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use super::{Message, NLMSG_ERROR, RTM_NEWLINK, acknowledged};

    fn answer(kind: u16, sequence: u32, error: i32) -> Vec<u8> {
        let mut message = Message::new(kind, 0);
        message.put(&error.to_ne_bytes());
        message.finish(sequence).unwrap()
    }

    #[test]
    fn only_the_acknowledgement_of_this_request_counts() {
        assert!(acknowledged(&answer(NLMSG_ERROR, 7, 0), 7).is_ok());
        assert!(acknowledged(&answer(NLMSG_ERROR, 6, 0), 7).is_err());
        assert!(acknowledged(&answer(RTM_NEWLINK, 7, 0), 7).is_err());
        assert!(acknowledged(&[], 7).is_err());
        let denied = acknowledged(&answer(NLMSG_ERROR, 7, -1), 7).unwrap_err();
        assert_eq!(denied.kind(), ErrorKind::PermissionDenied);
    }

    #[test]
    fn attributes_are_padded_and_lengths_are_not() {
        let mut message = Message::new(RTM_NEWLINK, 5);
        message.attribute(1, &[1, 2, 3]);
        let bytes = message.finish(9).unwrap();
        assert_eq!(bytes.len(), 24);
        assert_eq!(bytes[16..], [7, 0, 1, 0, 1, 2, 3, 0]);
        assert_eq!(bytes[..4], 24u32.to_ne_bytes());
    }
}

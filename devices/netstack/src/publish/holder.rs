//! Who holds a port, for an error that helps: the socket tables of /proc give an inode, the descriptors of processes
//! the process that has it. Processes of other users stay hidden from an ordinary one.

use std::fmt;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::config::Transport;

/// Process descriptors looked at before giving up.
const MAX_DESCRIPTORS: usize = 1 << 17;
/// TCP_LISTEN in the tables of /proc (include/net/tcp_states.h).
const LISTENING: &str = "0A";

/// A process.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Holder {
    pid: u32,
    name: String,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (process {})", self.name, self.pid)
    }
}

/// The process that holds an address which collides with `bind`, if it can be told.
pub(super) fn find(bind: SocketAddr, transport: Transport) -> Option<Holder> {
    let tables = match transport {
        Transport::Tcp => ["/proc/net/tcp", "/proc/net/tcp6"],
        Transport::Udp => ["/proc/net/udp", "/proc/net/udp6"],
    };
    let inodes: Vec<String> = tables
        .iter()
        .filter_map(|table| fs::read_to_string(table).ok())
        .flat_map(|table| table.lines().filter_map(|line| inode_of(line, bind, transport)).collect::<Vec<_>>())
        .collect();
    owner(&inodes)
}

/// The inode of the socket in `line` of a table, if it stands in the way of `bind`.
fn inode_of(line: &str, bind: SocketAddr, transport: Transport) -> Option<String> {
    let mut fields = line.split_ascii_whitespace();
    let (address, port) = fields.nth(1)?.split_once(':')?;
    let state = fields.nth(1)?;
    let inode = fields.nth(5)?;
    let address = parse_address(address)?;
    let collides = u16::from_str_radix(port, 16).ok()? == bind.port()
        && (address == bind.ip() || address.is_unspecified() || bind.ip().is_unspecified())
        && (transport == Transport::Udp || state == LISTENING);
    collides.then(|| inode.to_owned())
}

/// Addresses stand as 32-bit words of the host's byte order.
fn parse_address(text: &str) -> Option<IpAddr> {
    let words = text.as_bytes().chunks_exact(8).map(|word| {
        let word = std::str::from_utf8(word).ok()?;
        Some(u32::from_str_radix(word, 16).ok()?.to_ne_bytes())
    });
    let bytes = words.collect::<Option<Vec<_>>>()?.concat();
    match <[u8; 4]>::try_from(bytes.as_slice()) {
        Ok(v4) => Some(Ipv4Addr::from(v4).into()),
        Err(_) => Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into()),
    }
}

fn owner(inodes: &[String]) -> Option<Holder> {
    if inodes.is_empty() {
        return None;
    }
    let links: Vec<String> = inodes.iter().map(|inode| format!("socket:[{inode}]")).collect();
    let processes = fs::read_dir("/proc").ok()?.flatten().filter_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        Some((pid, fs::read_dir(entry.path().join("fd")).ok()?))
    });
    let (pid, _) = processes
        .flat_map(|(pid, descriptors)| descriptors.flatten().map(move |descriptor| (pid, descriptor)))
        .take(MAX_DESCRIPTORS)
        .find(|(_, descriptor)| {
            let link = fs::read_link(descriptor.path());
            link.is_ok_and(|link| links.iter().any(|wanted| link.as_os_str() == wanted.as_str()))
        })?;
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Some(Holder { pid, name: name.trim_end().escape_debug().to_string() })
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use super::*;

    #[test]
    fn the_process_that_listens_is_found() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(address).unwrap();
            let holder = find(listener.local_addr().unwrap(), Transport::Tcp).unwrap();
            assert_eq!(holder.pid, std::process::id());
            assert!(!holder.name.is_empty());
        }
    }

    #[test]
    fn a_wildcard_stands_in_the_way_of_every_address() {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let holder = find(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port), Transport::Udp).unwrap();
        assert_eq!(holder.pid, std::process::id());
    }

    #[test]
    fn a_connection_is_no_listener() {
        let line = "   1: 0100007F:0BB8 0100007F:A000 01 00000000:00000000 00:00000000 00000000     0        0 4242 1";
        let bind = "127.0.0.1:3000".parse().unwrap();
        assert_eq!(inode_of(line, bind, Transport::Tcp), None);
        let line = line.replace(" 01 ", " 0A ");
        assert_eq!(inode_of(&line, bind, Transport::Tcp).as_deref(), Some("4242"));
        assert_eq!(inode_of("nonsense", bind, Transport::Tcp), None);
    }
}

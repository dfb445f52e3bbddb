//! The host's resolvers, as resolv.conf(5) names them.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::net::{AddressFamily, SocketFlags, SocketType, netdevice, socket_with};

use crate::config::Resolvers;

const DNS: u16 = 53;
/// As many as libc looks at.
const MAX_SERVERS: usize = 3;
/// A resolv.conf longer than this is not one.
const MAX_FILE: u64 = 64 << 10;

/// What tells one version of a file from the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Version {
    device: u64,
    inode: u64,
    modified: (i64, i64),
    size: u64,
}

/// The servers to ask, kept up to date.
#[derive(Debug)]
pub(crate) struct Servers {
    source: Resolvers,
    version: Option<Version>,
    servers: Vec<SocketAddr>,
}

impl Servers {
    pub(crate) fn new(source: Resolvers) -> Self {
        let mut servers = Self { source, version: None, servers: Vec::new() };
        servers.refresh();
        servers
    }

    /// The servers of now. Looking whether the file changed costs one system call, which no question is too busy for.
    pub(crate) fn current(&mut self) -> &[SocketAddr] {
        self.refresh();
        &self.servers
    }

    fn refresh(&mut self) {
        let path = match &self.source {
            Resolvers::Fixed(fixed) => {
                self.servers.clone_from(fixed);
                return;
            }
            Resolvers::File(path) => path,
        };
        let version = version(path);
        if version.is_some() && version == self.version {
            return;
        }
        self.version = version;
        self.servers = match version.map(|version| version.size) {
            Some(size) if size <= MAX_FILE => fs::read(path).map(|text| parse(&text)).unwrap_or_default(),
            _ => Vec::new(),
        };
        tracing::debug!(servers = ?self.servers, "Resolvers of the host");
    }
}

fn version(path: &Path) -> Option<Version> {
    let meta = fs::metadata(path).ok()?;
    Some(Version {
        device: meta.dev(),
        inode: meta.ino(),
        modified: (meta.mtime(), meta.mtime_nsec()),
        size: meta.size(),
    })
}

fn parse(text: &[u8]) -> Vec<SocketAddr> {
    let text = String::from_utf8_lossy(text);
    let words = text.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next()).flatten()
    });
    let mut servers: Vec<_> = words.filter_map(parse_server).take(MAX_SERVERS).collect();
    if servers.is_empty() {
        // What libc asks when the file names nobody.
        servers.push(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), DNS));
    }
    servers
}

/// An address, with `%interface` where it is link-local.
fn parse_server(word: &str) -> Option<SocketAddr> {
    if let Ok(address) = word.parse::<IpAddr>() {
        return Some(SocketAddr::new(address, DNS));
    }
    let (address, scope) = word.split_once('%')?;
    let address = address.parse::<Ipv6Addr>().ok()?;
    let scope = scope.parse().ok().or_else(|| interface(scope))?;
    Some(SocketAddrV6::new(address, DNS, 0, scope).into())
}

fn interface(name: &str) -> Option<u32> {
    let socket = socket_with(AddressFamily::INET6, SocketType::DGRAM, SocketFlags::CLOEXEC, None).ok()?;
    netdevice::name_to_index(&socket, name).ok()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn servers_are_read_like_libc_reads_them() {
        let text = b"# comment\nsearch example\nnameserver 192.0.2.1\nnameserver\t2001:db8::1 # two\noptions ndots:2\n\
                     nameserver fe80::1%7\nnameserver 192.0.2.4\n";
        let servers: Vec<_> = parse(text).iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["192.0.2.1:53", "[2001:db8::1]:53", "[fe80::1%7]:53"]);
        assert_eq!(parse(b""), ["127.0.0.1:53".parse().unwrap()]);
        assert_eq!(parse(b"nameserver evil\0\xff\n"), ["127.0.0.1:53".parse().unwrap()]);
    }

    #[test]
    fn a_changed_file_is_read_again() {
        let dir = std::env::temp_dir().join(format!("netstack-servers-{}", std::process::id()));
        fs::write(&dir, "nameserver 192.0.2.1\n").unwrap();
        let mut servers = Servers::new(Resolvers::File(dir.clone()));
        assert_eq!(servers.current(), ["192.0.2.1:53".parse().unwrap()]);

        fs::OpenOptions::new().append(true).open(&dir).unwrap().write_all(b"nameserver 192.0.2.2\n").unwrap();
        assert_eq!(servers.current().len(), 2);
        fs::remove_file(&dir).unwrap();
        assert_eq!(servers.current(), []);
    }
}

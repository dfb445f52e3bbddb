//! What the host wants the guest to become: one value, sent once.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::bytes::{Domain, EntryName, EnvVar, GuestPath, Hostname, Serial, SysctlName, SysctlValue, Timezone};
use crate::exec::User;
use crate::frame::ProtocolError;
use crate::wire::{Decoder, Encoder};

/// Most shares of one guest.
pub const MAX_SHARES: usize = 1024;
/// Most entries of each other list.
pub const MAX_ENTRIES: usize = 256;
/// Longest file content.
pub const MAX_FILE: usize = 512 * 1024;

/// The whole of it. `Setup::new(hostname, unix_ns, root, upper)` gives the least a guest needs; the rest are public
/// fields to fill in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setup {
    /// Host name.
    pub hostname: Hostname,
    /// Wall clock, nanoseconds since 1970.
    pub unix_ns: u64,
    /// Time zone; the image's own when absent.
    pub timezone: Option<Timezone>,
    /// The disk with the root image (EROFS, read-only).
    pub root: Serial,
    /// Where writes go.
    pub upper: Upper,
    /// Host directories and files.
    pub shares: Vec<Share>,
    /// Whose the files in the shares are to be. Unless that is root the agent looks the user up in the image and tells
    /// the host in `Owner`, before it mounts any of them.
    pub owner: User,
    /// Further tmpfs mounts, made before the shares.
    pub tmpfs: Vec<Tmpfs>,
    /// Files to write into the guest, after the mounts.
    pub files: Vec<File>,
    /// The network, if the guest has one.
    pub network: Option<Network>,
    /// Kernel parameters, set last; one that does not exist is a warning.
    pub sysctls: Vec<Sysctl>,
    /// Environment of every command, below what the command's own request says.
    pub environment: Vec<EnvVar>,
}

/// The writable layer over the root image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Upper {
    /// Guest memory.
    Memory,
    /// An ext4 disk. A blank one (its first 64 KiB are zero) is formatted with the image's own mkfs.ext4.
    Disk(Serial),
}

/// Whether a share is a directory or one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShareKind {
    /// A directory tree.
    Directory,
    /// A regular file.
    File,
}

/// An entry of the virtio-fs root, shown at a path of the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// Its name in the virtio-fs root.
    pub entry: EntryName,
    /// Where the guest sees it; missing directories are made.
    pub path: GuestPath,
    /// What the mount point must be.
    pub kind: ShareKind,
    /// Whether to mount it read-only. The host enforces it; this gives the guest the honest error early.
    pub read_only: bool,
}

/// A tmpfs mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tmpfs {
    /// Where.
    pub path: GuestPath,
    /// Most bytes it may hold; the kernel's default (half of memory) when absent.
    pub size: Option<u64>,
    /// Permissions of its root, such as 0o1777.
    pub mode: u16,
}

/// A file the host puts into the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Where; missing directories are made, an existing file is replaced.
    pub path: GuestPath,
    /// Permissions.
    pub mode: u16,
    /// What is in it, at most [`MAX_FILE`] bytes.
    pub content: Vec<u8>,
}

/// One kernel parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sysctl {
    /// Its name.
    pub name: SysctlName,
    /// Its value.
    pub value: SysctlValue,
}

/// The one link, statically configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// Picks the interface by its address; the first device when absent.
    pub mac: Option<[u8; 6]>,
    /// Link MTU.
    pub mtu: u16,
    /// IPv4, if the link has it.
    pub ipv4: Option<Address<Ipv4Addr>>,
    /// IPv6, if the link has it.
    pub ipv6: Option<Address<Ipv6Addr>>,
    /// Name servers for resolv.conf.
    pub dns: Vec<IpAddr>,
    /// Search list for resolv.conf.
    pub search: Vec<Domain>,
    /// Further lines for /etc/hosts.
    pub hosts: Vec<Host>,
}

/// A line of /etc/hosts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// The address.
    pub address: IpAddr,
    /// Its name.
    pub name: Domain,
}

/// An address of the guest on its link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address<A> {
    /// The guest's own.
    pub address: A,
    /// Length of the network prefix in bits.
    pub prefix: u8,
    /// Default gateway.
    pub gateway: Option<A>,
}

impl Setup {
    /// The least a guest needs.
    pub fn new(hostname: Hostname, unix_ns: u64, root: Serial, upper: Upper) -> Self {
        Self {
            hostname,
            unix_ns,
            timezone: None,
            root,
            upper,
            shares: Vec::new(),
            owner: User::Root,
            tmpfs: Vec::new(),
            files: Vec::new(),
            network: None,
            sysctls: Vec::new(),
            environment: Vec::new(),
        }
    }

    pub(crate) fn encode(&self, out: &mut Encoder<'_>) {
        self.hostname.encode(out);
        out.u64(self.unix_ns);
        out.option(self.timezone.as_ref(), |out, timezone| timezone.encode(out));
        self.root.encode(out);
        out.option(self.upper.disk(), |out, serial| serial.encode(out));
        out.list(&self.shares, |out, share| share.encode(out));
        self.owner.encode(out);
        out.list(&self.tmpfs, |out, tmpfs| tmpfs.encode(out));
        out.list(&self.files, |out, file| file.encode(out));
        out.option(self.network.as_ref(), |out, network| network.encode(out));
        out.list(&self.sysctls, |out, sysctl| {
            sysctl.name.encode(out);
            sysctl.value.encode(out);
        });
        out.list(&self.environment, |out, variable| variable.encode(out));
    }

    pub(crate) fn decode(body: &mut Decoder<'_>) -> Result<Self, ProtocolError> {
        Ok(Self {
            hostname: Hostname::decode(body)?,
            unix_ns: body.u64()?,
            timezone: body.option(Timezone::decode)?,
            root: Serial::decode(body)?,
            upper: body.option(Serial::decode)?.map_or(Upper::Memory, Upper::Disk),
            shares: body.list(MAX_SHARES, Share::decode)?,
            owner: User::decode(body)?,
            tmpfs: body.list(MAX_ENTRIES, Tmpfs::decode)?,
            files: body.list(MAX_ENTRIES, File::decode)?,
            network: body.option(Network::decode)?,
            sysctls: body.list(MAX_ENTRIES, |body| {
                Ok(Sysctl { name: SysctlName::decode(body)?, value: SysctlValue::decode(body)? })
            })?,
            environment: body.list(crate::exec::MAX_ENV, EnvVar::decode)?,
        })
    }
}

impl Upper {
    fn disk(&self) -> Option<&Serial> {
        match self {
            Self::Memory => None,
            Self::Disk(serial) => Some(serial),
        }
    }
}

impl Share {
    fn encode(&self, out: &mut Encoder<'_>) {
        self.entry.encode(out);
        self.path.encode(out);
        out.bool(matches!(self.kind, ShareKind::File));
        out.bool(self.read_only);
    }

    fn decode(body: &mut Decoder<'_>) -> Result<Self, ProtocolError> {
        Ok(Self {
            entry: EntryName::decode(body)?,
            path: GuestPath::decode(body)?,
            kind: if body.bool()? { ShareKind::File } else { ShareKind::Directory },
            read_only: body.bool()?,
        })
    }
}

impl Tmpfs {
    fn encode(&self, out: &mut Encoder<'_>) {
        self.path.encode(out);
        out.option(self.size.as_ref(), |out, size| out.u64(*size));
        out.u16(self.mode);
    }

    fn decode(body: &mut Decoder<'_>) -> Result<Self, ProtocolError> {
        Ok(Self { path: GuestPath::decode(body)?, size: body.option(Decoder::u64)?, mode: decode_mode(body)? })
    }
}

impl File {
    fn encode(&self, out: &mut Encoder<'_>) {
        self.path.encode(out);
        out.u16(self.mode);
        out.bytes(&self.content);
    }

    fn decode(body: &mut Decoder<'_>) -> Result<Self, ProtocolError> {
        Ok(Self { path: GuestPath::decode(body)?, mode: decode_mode(body)?, content: body.bytes(MAX_FILE)?.to_vec() })
    }
}

fn decode_mode(body: &mut Decoder<'_>) -> Result<u16, ProtocolError> {
    match body.u16()? {
        mode @ 0..=0o7777 => Ok(mode),
        _ => Err(ProtocolError::Malformed("permissions beyond 07777")),
    }
}

impl Network {
    fn encode(&self, out: &mut Encoder<'_>) {
        out.option(self.mac.as_ref(), |out, mac| out.raw(mac));
        out.u16(self.mtu);
        out.option(self.ipv4.as_ref(), |out, link| {
            out.raw(&link.address.octets());
            out.u8(link.prefix);
            out.option(link.gateway.as_ref(), |out, gateway| out.raw(&gateway.octets()));
        });
        out.option(self.ipv6.as_ref(), |out, link| {
            out.raw(&link.address.octets());
            out.u8(link.prefix);
            out.option(link.gateway.as_ref(), |out, gateway| out.raw(&gateway.octets()));
        });
        out.list(&self.dns, |out, address| encode_ip(*address, out));
        out.list(&self.search, |out, domain| domain.encode(out));
        out.list(&self.hosts, |out, host| {
            encode_ip(host.address, out);
            host.name.encode(out);
        });
    }

    fn decode(body: &mut Decoder<'_>) -> Result<Self, ProtocolError> {
        Ok(Self {
            mac: body.option(Decoder::octets)?,
            mtu: body.u16()?,
            ipv4: body.option(|body| {
                Ok(Address {
                    address: body.octets::<4>()?.into(),
                    prefix: decode_prefix(body, 32)?,
                    gateway: body.option(|body| Ok(body.octets::<4>()?.into()))?,
                })
            })?,
            ipv6: body.option(|body| {
                Ok(Address {
                    address: body.octets::<16>()?.into(),
                    prefix: decode_prefix(body, 128)?,
                    gateway: body.option(|body| Ok(body.octets::<16>()?.into()))?,
                })
            })?,
            dns: body.list(MAX_ENTRIES, decode_ip)?,
            search: body.list(MAX_ENTRIES, Domain::decode)?,
            hosts: body
                .list(MAX_ENTRIES, |body| Ok(Host { address: decode_ip(body)?, name: Domain::decode(body)? }))?,
        })
    }
}

fn decode_prefix(body: &mut Decoder<'_>, max: u8) -> Result<u8, ProtocolError> {
    match body.u8()? {
        prefix if prefix <= max => Ok(prefix),
        _ => Err(ProtocolError::Malformed("network prefix longer than an address")),
    }
}

fn encode_ip(address: IpAddr, out: &mut Encoder<'_>) {
    match address {
        IpAddr::V4(address) => {
            out.u8(4);
            out.raw(&address.octets());
        }
        IpAddr::V6(address) => {
            out.u8(6);
            out.raw(&address.octets());
        }
    }
}

fn decode_ip(body: &mut Decoder<'_>) -> Result<IpAddr, ProtocolError> {
    match body.u8()? {
        4 => Ok(IpAddr::V4(body.octets::<4>()?.into())),
        6 => Ok(IpAddr::V6(body.octets::<16>()?.into())),
        _ => Err(ProtocolError::Malformed("address family other than 4 and 6")),
    }
}

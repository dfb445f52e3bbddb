//! What may be asked of a running VM, and its answers.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::instance::VmId;
use crate::ports::PortSpec;

/// Version of the requests; a VM answers only those of its own.
pub(super) const VERSION: u32 = 1;
/// Longest request: a policy of 4096 rules with the longest names.
pub(super) const MAX_REQUEST: usize = 2 << 20;
/// Longest answer.
pub(super) const MAX_RESPONSE: usize = 4 << 20;

/// One line of a client. The request is read only if the version is right.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Call<R> {
    pub(super) version: u32,
    pub(super) request: R,
}

/// What a client wants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Everything there is to know.
    Status,
    /// A further published port.
    Publish {
        /// Which.
        port: PortSpec,
    },
    /// A published port less.
    Unpublish {
        /// The address it was published at, if that matters.
        address: Option<IpAddr>,
        /// The host's port.
        port: u16,
        /// Whether it is UDP instead of TCP.
        udp: bool,
    },
    /// Another policy, at once. Open flows that it does not allow are cut.
    SetPolicy {
        /// The policy, as settings spell it.
        #[serde(with = "PolicyTable")]
        policy: policy::Table,
    },
}

/// What the VM answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Response {
    /// To `Status`.
    Status(Box<Status>),
    /// To `Publish`: with the host port that is bound.
    Published {
        /// Which.
        port: PortSpec,
    },
    /// It is done.
    Done,
    /// It is not done, in words for the user.
    Failed {
        /// Why.
        message: String,
    },
}

/// A running VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Its name.
    pub id: VmId,
    /// Its project on the host.
    pub project: PathBuf,
    /// The process that runs it.
    pub pid: u32,
    /// When it was started, in seconds since 1970.
    pub started: u64,
    /// `kvm` or `qemu`.
    pub engine: String,
    /// Virtual CPUs.
    pub cpus: u8,
    /// Memory ceiling in MiB.
    pub memory_mib: u64,
    /// What of the host it sees, as the file server reports it; the project first.
    pub shares: Vec<ShareStatus>,
    /// Its network, as the network stack reports it; absent if it has none.
    pub network: Option<NetworkStatus>,
}

/// A shared folder or file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShareStatus {
    /// On the host.
    pub host: PathBuf,
    /// In the guest.
    pub guest: PathBuf,
    /// Whether the host refuses every change.
    pub read_only: bool,
    /// What in it the guest cannot change, from its root on.
    #[serde(default)]
    pub protected: Vec<PathBuf>,
    /// What of it the guest does not see.
    #[serde(default)]
    pub hidden: Vec<PathBuf>,
}

/// What the network stack has in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkStatus {
    /// The gateway, at which the guest sees what of the host's loopback is open.
    pub gateway: Ipv4Addr,
    /// What is open, one line each.
    pub policy: Vec<String>,
    /// By what way connections leave, one line each; nothing where they leave directly.
    #[serde(default)]
    pub ways: Vec<String>,
    /// Whom it asks for names.
    pub resolvers: Vec<SocketAddr>,
    /// Published ports.
    pub published: Vec<PublishedPort>,
    /// TCP connections, open and opening.
    pub tcp_flows: usize,
    /// UDP mappings.
    pub udp_mappings: usize,
    /// Lines that the egress log could not take.
    pub log_lines_lost: u64,
}

/// One bound address of a published port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedPort {
    /// Where the host listens.
    pub bind: SocketAddr,
    /// Port of the guest.
    pub guest_port: u16,
    /// `tcp` or `udp`.
    pub transport: String,
    /// TCP connections or UDP clients so far.
    pub connections: u64,
}

/// [`policy::Table`] as JSON.
#[derive(Serialize, Deserialize)]
#[serde(remote = "policy::Table", deny_unknown_fields)]
struct PolicyTable {
    preset: Option<String>,
    rules: Vec<String>,
    deny: Vec<String>,
    allow: Option<Vec<String>>,
    lan: bool,
    host: Vec<u16>,
    host_all: bool,
}

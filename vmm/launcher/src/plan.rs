//! What to start: everything the command line decides, nothing that is running yet.

use std::ffi::OsString;
use std::path::PathBuf;

use netstack::Proxy;
use policy::Policy;
use vmm::{Engine, Mib};

use crate::guard::Guards;
use crate::ports::PortSpec;
use crate::project::Mount;

/// The guest's link to the outside.
#[derive(Debug, Clone)]
pub enum Network {
    /// No network device.
    Absent,
    /// A link on which this policy decides.
    Policy(Policy),
}

/// A VM and what it shares.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The project folder.
    pub project: Mount,
    /// Further folders and files.
    pub mounts: Vec<Mount>,
    /// Whose their files are in the guest, by name or number: the user who works with them.
    pub user: OsString,
    /// What in them the guest may not change, or not see.
    pub guards: Guards,
    /// Who runs the CPUs.
    pub engine: Engine,
    /// Virtual CPUs.
    pub cpus: u8,
    /// Memory ceiling.
    pub memory: Mib,
    /// Size of the writable disk.
    pub disk: Mib,
    /// Root image, the default one if absent.
    pub image: Option<PathBuf>,
    /// Kernel, the built-in one if absent.
    pub kernel: Option<PathBuf>,
    /// The guest's link to the outside.
    pub network: Network,
    /// The proxy by which this machine itself goes out; the guest's connections then take it too.
    pub proxy: Option<Proxy>,
    /// Ports of the guest that the host publishes.
    pub publish: Vec<PortSpec>,
    /// Copies the guest's console to standard error.
    pub shows_console: bool,
}

impl Plan {
    /// The project and the other mounts, in the order in which the guest mounts them.
    pub fn shares(&self) -> impl Iterator<Item = &Mount> {
        std::iter::once(&self.project).chain(&self.mounts)
    }

    /// The guest's host name: the project folder's, as far as a host name may spell it.
    pub(crate) fn hostname(&self) -> String {
        const MAX_LABEL: usize = 63;
        let name = self.project.host.file_name().unwrap_or_default().to_string_lossy();
        let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
        let label: String = name.chars().map(plain).take(MAX_LABEL).collect();
        let label = label.trim_matches('-');
        if label.is_empty() { "vmm".into() } else { label.into() }
    }
}

//! What can be built into a VM, and which engine serves it how.

use std::fmt;

use devices::balloon::Balloon;
use devices::blk::Blk;
use devices::console::Console;
use devices::fs::Fs;
use devices::net::Net;
use devices::rng::Rng;
use devices::vsock::Vsock;
use virtio::{DeviceInfo, VirtioDevice};
use virtio_bindings::virtio_ids::{VIRTIO_ID_BALLOON, VIRTIO_ID_CONSOLE, VIRTIO_ID_NET, VIRTIO_ID_VSOCK};

/// Kinds of which a guest would not know which is which.
const SINGULAR: [u32; 4] = [VIRTIO_ID_NET, VIRTIO_ID_CONSOLE, VIRTIO_ID_BALLOON, VIRTIO_ID_VSOCK];

/// A device to build into the VM. The engines need to know the kind: the qemu engine hands some of them to QEMU.
///
/// ```no_run
/// # fn main() -> Result<(), vmm::Error> {
/// # let config = vmm::VmConfig::new(vmm::Kernel::open("vmlinux")?);
/// let vm = vmm::Vm::builder(config).device(devices::rng::Rng::new()).build()?;
/// # Ok(()) }
/// ```
#[non_exhaustive]
pub enum Device {
    /// A device whose code both engines run: in process under kvm, over vhost-user under qemu.
    Virtio(Box<dyn VirtioDevice>),
    /// A network card, known by its kind since QEMU's front end for it needs its address.
    Net(Box<Net>),
    /// A console: under qemu, QEMU's own on the same host end, which must be a socket; it does not learn the window
    /// size.
    Console(Box<Console>),
    /// A memory balloon: under qemu, QEMU's own, which reports free pages and has no target.
    Balloon(Box<Balloon>),
}

impl Device {
    /// Kind, label and queues.
    pub(crate) fn info(&self) -> &DeviceInfo {
        match self {
            Self::Virtio(device) => device.info(),
            Self::Net(net) => net.info(),
            Self::Console(console) => console.info(),
            Self::Balloon(balloon) => balloon.info(),
        }
    }

    /// Whether a VM has one of this kind at most; others are told apart by their serial or tag.
    pub(crate) fn is_singular(&self) -> bool {
        SINGULAR.contains(&self.info().kind)
    }

    /// The device's own code, for an engine that serves all of them itself.
    pub(crate) fn into_virtio(self) -> Box<dyn VirtioDevice> {
        match self {
            Self::Virtio(device) => device,
            Self::Net(net) => net,
            Self::Console(console) => console,
            Self::Balloon(balloon) => balloon,
        }
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Device").field(self.info()).finish()
    }
}

impl From<Box<dyn VirtioDevice>> for Device {
    fn from(device: Box<dyn VirtioDevice>) -> Self {
        Self::Virtio(device)
    }
}

impl From<Rng> for Device {
    fn from(rng: Rng) -> Self {
        Self::Virtio(Box::new(rng))
    }
}

impl From<Blk> for Device {
    fn from(disk: Blk) -> Self {
        Self::Virtio(Box::new(disk))
    }
}

impl From<Vsock> for Device {
    fn from(vsock: Vsock) -> Self {
        Self::Virtio(Box::new(vsock))
    }
}

impl From<Fs> for Device {
    fn from(shares: Fs) -> Self {
        Self::Virtio(Box::new(shares))
    }
}

impl From<Net> for Device {
    fn from(net: Net) -> Self {
        Self::Net(Box::new(net))
    }
}

impl From<Console> for Device {
    fn from(console: Console) -> Self {
        Self::Console(Box::new(console))
    }
}

impl From<Balloon> for Device {
    fn from(balloon: Balloon) -> Self {
        Self::Balloon(Box::new(balloon))
    }
}

//! What a VM is made of.

use std::fmt;
use std::fs::File;
use std::path::Path;

use virtio::VirtioDevice;

use crate::Error;

/// A size in MiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mib(pub u64);

impl Mib {
    /// The same size in bytes, saturating.
    pub fn bytes(self) -> u64 {
        self.0.saturating_mul(1 << 20)
    }
}

/// Who runs the vCPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Engine {
    /// `Kvm` where the probe finds real hardware virtualisation, else `Qemu`.
    #[default]
    Auto,
    /// Our own VMM on /dev/kvm.
    Kvm,
    /// A QEMU child that emulates the CPUs; the devices are still ours.
    Qemu,
}

/// A kernel image: `vmlinux` (ELF, PVH or 64-bit entry) or `bzImage`, told apart by content.
#[derive(Debug)]
pub struct Kernel {
    pub(crate) file: File,
}

impl Kernel {
    /// Opens an image on disk.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        File::open(path).map(Self::from).map_err(|source| Error::File { what: "kernel", path: path.into(), source })
    }
}

impl From<File> for Kernel {
    fn from(file: File) -> Self {
        Self { file }
    }
}

/// The initramfs (cpio, possibly compressed).
#[derive(Debug)]
pub struct Initramfs {
    pub(crate) file: File,
}

impl From<File> for Initramfs {
    fn from(file: File) -> Self {
        Self { file }
    }
}

/// A device to build into the VM. The engines need to know the kind: the qemu engine hands some of them to QEMU.
#[non_exhaustive]
pub enum Device {
    /// A device that both engines serve as it is.
    Virtio(Box<dyn VirtioDevice>),
}

impl Device {
    /// The device's own code, for an engine that serves it itself.
    pub(crate) fn into_virtio(self) -> Box<dyn VirtioDevice> {
        match self {
            Self::Virtio(device) => device,
        }
    }
}

impl From<Box<dyn VirtioDevice>> for Device {
    fn from(device: Box<dyn VirtioDevice>) -> Self {
        Self::Virtio(device)
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Virtio(device) => formatter.debug_tuple("Virtio").field(device.info()).finish(),
        }
    }
}

/// CPUs, memory and what to boot.
#[derive(Debug)]
pub struct VmConfig {
    /// Virtual CPUs, 1 to 32.
    pub cpus: u8,
    /// Guest RAM.
    pub memory: Mib,
    /// What to boot.
    pub kernel: Kernel,
    /// The first root file system, if any.
    pub initramfs: Option<Initramfs>,
    /// Kernel parameters added after the VMM's own.
    pub cmdline: String,
    /// Gets a copy of everything the guest writes to its serial console.
    pub serial: Option<File>,
}

impl VmConfig {
    /// One CPU and 512 MiB around `kernel`.
    pub fn new(kernel: Kernel) -> Self {
        Self { cpus: 1, memory: Mib(512), kernel, initramfs: None, cmdline: String::new(), serial: None }
    }
}

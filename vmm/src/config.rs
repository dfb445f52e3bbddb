//! What a VM is made of.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

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

    /// Takes an image that is in memory already, such as one embedded in the program.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Error> {
        memory_file("kernel", bytes).map(Self::from)
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

impl Initramfs {
    /// Opens an archive on disk.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        File::open(path).map(Self::from).map_err(|source| Error::File { what: "initramfs", path: path.into(), source })
    }

    /// Takes an archive that is in memory already, such as one embedded in the program.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Error> {
        memory_file("initramfs", bytes).map(Self::from)
    }
}

impl From<File> for Initramfs {
    fn from(file: File) -> Self {
        Self { file }
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

/// A file that lives in memory, has no name on disk and can no longer be changed.
fn memory_file(name: &'static str, bytes: &[u8]) -> Result<File, Error> {
    let fill = || -> io::Result<File> {
        let mut file = File::from(memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?);
        file.write_all(bytes)?;
        fcntl_add_seals(&file, SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        Ok(file)
    };
    fill().map_err(|source| Error::Host { doing: "Putting an image into memory", source })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn image_in_memory_reads_back_and_cannot_change() {
        let kernel = Kernel::from_bytes(b"image").unwrap();
        let mut bytes = [0; 5];
        kernel.file.read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!(&bytes, b"image");
        assert!(kernel.file.write_at(b"other", 0).is_err());
        assert!(kernel.file.set_len(0).is_err());
    }

    #[test]
    fn missing_file_is_named() {
        let error = Initramfs::open("/nonexistent/initramfs").unwrap_err().to_string();
        assert_eq!(error, "Cannot use initramfs /nonexistent/initramfs");
    }
}

//! The kernel and the initramfs that the binary carries.
//!
//! The kernel is unpacked once into the user's cache and read from there by every later start: unpacking costs more
//! instructions than the whole rest of a start. The cache folder is the user's own (0700) and is trusted.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use rustix::fs::{MemfdFlags, memfd_create};
use vmm::{Initramfs, Kernel};

use crate::Error;
use crate::dirs::Dirs;

const KERNEL_ZST: &[u8] = include_bytes!(env!("VMM_KERNEL_ZST"));
const KERNEL_HASH: &str = env!("VMM_KERNEL_HASH");
const INITRAMFS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/initramfs.cpio"));

/// The built-in kernel, from the cache if it was unpacked before.
pub fn kernel(dirs: &Dirs) -> Result<Kernel, Error> {
    let folder = dirs.cache().join("kernel").join(KERNEL_HASH);
    let path = folder.join("vmlinux");
    if let Ok(file) = File::open(&path) {
        return Ok(file.into());
    }
    match unpack_into(&folder, &path) {
        Ok(file) => Ok(file.into()),
        // A read-only or full cache costs speed, not the start.
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "The kernel cannot be cached; unpacking it into memory");
            unpack_into_memory().map(Kernel::from).map_err(|source| Error::host("Unpacking the kernel", source))
        }
    }
}

fn unpack_into(folder: &Path, path: &Path) -> io::Result<File> {
    fs::create_dir_all(folder)?;
    let mut unpacked = tempfile::NamedTempFile::new_in(folder)?;
    zstd::stream::copy_decode(KERNEL_ZST, &mut unpacked)?;
    unpacked.flush()?;
    unpacked.persist(path).map_err(|error| error.error)?;
    File::open(path)
}

fn unpack_into_memory() -> io::Result<File> {
    let mut file = File::from(memfd_create("vmm-kernel", MemfdFlags::CLOEXEC)?);
    zstd::stream::copy_decode(KERNEL_ZST, &mut file)?;
    Ok(file)
}

/// The initramfs: the guest agent and nothing else.
pub fn initramfs() -> Result<Initramfs, Error> {
    let load = || -> io::Result<File> {
        let mut file = File::from(memfd_create("vmm-initramfs", MemfdFlags::CLOEXEC)?);
        file.write_all(INITRAMFS)?;
        Ok(file)
    };
    load().map(Initramfs::from).map_err(|source| Error::host("Loading the initramfs", source))
}

//! The kernel and the initramfs that the binary carries.
//!
//! Both are unpacked once into the user's cache and read from there by every later start: unpacking the kernel costs
//! more instructions than the whole rest of a start, and what a start reads out of the binary stays in its memory. The
//! cache folder is the user's own (0700) and is trusted.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustix::fs::{MemfdFlags, memfd_create};
use vmm::{Initramfs, Kernel};

use crate::Error;
use crate::dirs::Dirs;

/// What other versions of this program unpacked and nobody has read for this long is removed.
const UNUSED: Duration = Duration::from_secs(30 * 24 * 60 * 60);

const KERNEL: Asset = Asset { what: "kernel", hash: env!("VMM_KERNEL_HASH"), file: "vmlinux", unpack: unpack_kernel };
const INITRAMFS: Asset =
    Asset { what: "initramfs", hash: env!("VMM_INITRAMFS_HASH"), file: "initramfs.cpio", unpack: unpack_initramfs };

/// The built-in kernel, from the cache if it was unpacked before.
pub fn kernel(dirs: &Dirs) -> Result<Kernel, Error> {
    KERNEL.open(dirs.cache()).map(Kernel::from).map_err(|source| Error::host("Unpacking the kernel", source))
}

/// The initramfs: the guest agent and nothing else.
pub fn initramfs(dirs: &Dirs) -> Result<Initramfs, Error> {
    INITRAMFS.open(dirs.cache()).map(Initramfs::from).map_err(|source| Error::host("Unpacking the initramfs", source))
}

fn unpack_kernel(to: &mut dyn Write) -> io::Result<()> {
    zstd::stream::copy_decode(include_bytes!(env!("VMM_KERNEL_ZST")).as_slice(), to)
}

fn unpack_initramfs(to: &mut dyn Write) -> io::Result<()> {
    to.write_all(include_bytes!(concat!(env!("OUT_DIR"), "/initramfs.cpio")))
}

/// A file that the binary carries.
struct Asset {
    what: &'static str,
    /// Of the contents: another version's is another file.
    hash: &'static str,
    file: &'static str,
    unpack: fn(&mut dyn Write) -> io::Result<()>,
}

impl Asset {
    fn open(&self, cache: &Path) -> io::Result<File> {
        let versions = cache.join(self.what);
        let folder = versions.join(self.hash);
        let path = folder.join(self.file);
        if let Ok(file) = File::open(&path) {
            return Ok(file);
        }
        match self.unpack_into(&folder, &path) {
            Ok(file) => {
                remove_unused(&versions, SystemTime::now());
                Ok(file)
            }
            // A read-only or full cache costs speed, not the start.
            Err(error) => {
                let (path, what) = (path.display(), self.what);
                tracing::warn!(%path, %error, "The {what} cannot be cached; unpacking it into memory");
                let mut file = File::from(memfd_create(self.what, MemfdFlags::CLOEXEC)?);
                (self.unpack)(&mut file)?;
                Ok(file)
            }
        }
    }

    fn unpack_into(&self, folder: &Path, path: &Path) -> io::Result<File> {
        fs::create_dir_all(folder)?;
        let mut unpacked = tempfile::NamedTempFile::new_in(folder)?;
        (self.unpack)(&mut unpacked)?;
        // A crash must not leave half a file under a name that says it is whole.
        unpacked.as_file().sync_data()?;
        unpacked.persist(path).map_err(|error| error.error)?;
        File::open(path)
    }
}

/// Removes the versions that were not read for long. One that is in use loses nothing: whoever reads it has it open.
fn remove_unused(versions: &Path, now: SystemTime) {
    for folder in fs::read_dir(versions).into_iter().flatten().flatten() {
        let last_read = |path: &Path| fs::metadata(path).and_then(|file| file.accessed());
        let files = fs::read_dir(folder.path()).into_iter().flatten().flatten();
        let used = files.filter_map(|file| last_read(&file.path()).ok()).max();
        let is_unused = used.is_some_and(|used| now.duration_since(used).is_ok_and(|unread| unread > UNUSED));
        if is_unused && let Err(error) = fs::remove_dir_all(folder.path()) {
            tracing::debug!(%error, folder = %folder.path().display(), "Unused version cannot be removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    const ASSET: Asset =
        Asset { what: "thing", hash: "5eed", file: "thing.bin", unpack: |to| to.write_all(b"contents") };

    fn contents(mut file: File) -> String {
        let mut text = String::new();
        io::Seek::rewind(&mut file).unwrap();
        file.read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn asset_is_unpacked_once_and_read_from_the_cache_afterwards() {
        let cache = tempfile::tempdir().unwrap();
        assert_eq!(contents(ASSET.open(cache.path()).unwrap()), "contents");
        fs::write(cache.path().join("thing/5eed/thing.bin"), "from the cache").unwrap();
        assert_eq!(contents(ASSET.open(cache.path()).unwrap()), "from the cache");
    }

    #[test]
    fn cache_that_cannot_be_written_costs_only_speed() {
        let not_a_folder = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(contents(ASSET.open(not_a_folder.path()).unwrap()), "contents");
    }

    #[test]
    fn versions_nobody_reads_are_removed() {
        let cache = tempfile::tempdir().unwrap();
        drop(ASSET.open(cache.path()).unwrap());
        let versions = cache.path().join("thing");
        remove_unused(&versions, SystemTime::now() + UNUSED / 2);
        assert!(versions.join("5eed").exists());
        remove_unused(&versions, SystemTime::now() + UNUSED * 2);
        assert!(!versions.join("5eed").exists());
    }

    #[test]
    fn built_in_files_are_what_they_are_called() {
        let cache = tempfile::tempdir().unwrap();
        for (asset, magic) in [(&KERNEL, b"\x7fELF".as_slice()), (&INITRAMFS, b"070701")] {
            let mut start = vec![0; magic.len()];
            asset.open(cache.path()).unwrap().read_exact(&mut start).unwrap();
            assert_eq!(start, magic, "{}", asset.what);
        }
    }
}

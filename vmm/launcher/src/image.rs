//! Root images: finding them, checking them, and the writable disk on top.
//!
//! An image is one EROFS file that all VMs share. Beside it lie the few blocks that make an empty ext4 file system,
//! from which each VM gets a disk of its own ([`scratch`]) in a millisecond, whatever its size.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use vmm::Mib;

use crate::Error;
use crate::dirs::Dirs;
use crate::scratch;

/// The image layout this launcher understands.
const IMAGE_API: u32 = 1;
const EROFS_MAGIC: u32 = 0xE0F5_E1E2;
/// Where an EROFS superblock begins (Linux: fs/erofs/erofs_fs.h).
const EROFS_SUPER_OFFSET: u64 = 1024;
const REMEDY: &str = "build it with `make image` in a checkout of vmm, or name another with --image PATH";

/// A checked root image, open.
#[derive(Debug)]
pub struct Image {
    path: PathBuf,
    root: File,
    pieces: Option<File>,
}

#[derive(Debug, Deserialize)]
struct Metadata {
    api: u32,
    root: RootFile,
}

#[derive(Debug, Deserialize)]
struct RootFile {
    bytes: u64,
}

impl Image {
    /// Opens the image at `path` (a folder as the builder leaves it, or a bare EROFS file), by default the newest
    /// one that was built for this user.
    pub fn open(path: Option<&Path>, dirs: &Dirs) -> Result<Self, Error> {
        let path = path.map_or_else(|| dirs.cache().join("images/default"), Path::to_path_buf);
        let problem = |problem: String| Error::Image { path: path.clone(), problem };
        let is_folder = match path.metadata() {
            Ok(metadata) => metadata.is_dir(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(problem(format!("is missing; {REMEDY}")));
            }
            Err(source) => return Err(Error::path("open the root image", &path, source)),
        };
        let file = if is_folder { path.join("root.erofs") } else { path.clone() };
        let root = File::open(&file).map_err(|error| problem(format!("cannot be opened ({error}); {REMEDY}")))?;
        let length = root.metadata().map_err(|source| Error::path("read", &file, source))?.len();
        check_superblock(&root, length).map_err(|reason| problem(format!("is damaged: {reason}; {REMEDY}")))?;
        if !is_folder {
            return Ok(Self { path, root, pieces: None });
        }
        let metadata: Metadata = std::fs::read(path.join("image.json"))
            .map_err(|error| problem(format!("has no readable image.json ({error}); {REMEDY}")))
            .and_then(|text| {
                serde_json::from_slice(&text).map_err(|error| problem(format!("has a bad image.json ({error})")))
            })?;
        if metadata.api != IMAGE_API {
            let found = metadata.api;
            return Err(problem(format!("has layout {found}, this vmm understands {IMAGE_API}; {REMEDY}")));
        }
        if metadata.root.bytes != length {
            return Err(problem(format!("is damaged: {length} bytes instead of {}; {REMEDY}", metadata.root.bytes)));
        }
        Ok(Self { pieces: File::open(path.join("overlay.pieces")).ok(), path, root })
    }

    /// Where the image was found.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The read-only root file system.
    pub fn into_root(self) -> File {
        self.root
    }

    /// A fresh writable disk of `size`, without a name: it is gone when the VM is, however that ends.
    /// Blank where the image has no file system of that size to copy; the guest then makes one.
    pub fn scratch_disk(&self, size: Mib, folder: &Path) -> Result<File, Error> {
        scratch::disk(folder, size.bytes(), self.pieces.as_ref())
            .map_err(|source| Error::path("create a disk in", folder, source))
    }
}

fn check_superblock(root: &File, length: u64) -> Result<(), String> {
    let mut block = [0; 64];
    root.read_exact_at(&mut block, EROFS_SUPER_OFFSET).map_err(|_| "it is too short".to_owned())?;
    let word = |at: usize| u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]]);
    if word(0) != EROFS_MAGIC {
        return Err("it is not an EROFS file system".into());
    }
    let block_size = 1u64.checked_shl(u32::from(block[12])).unwrap_or(u64::MAX);
    let needed = u64::from(word(36)).saturating_mul(block_size);
    if needed > length { Err(format!("{length} bytes of {needed} are there")) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn erofs(folder: &Path) -> PathBuf {
        let path = folder.join("root.erofs");
        let file = File::create(&path).unwrap();
        file.set_len(8192).unwrap();
        file.write_all_at(&EROFS_MAGIC.to_le_bytes(), 1024).unwrap();
        file.write_all_at(&[12], 1024 + 12).unwrap();
        file.write_all_at(&2u32.to_le_bytes(), 1024 + 36).unwrap();
        path
    }

    #[test]
    fn truncated_image_is_refused_with_both_sizes() {
        let folder = tempfile::tempdir().unwrap();
        let path = erofs(folder.path());
        File::options().write(true).open(&path).unwrap().set_len(4096).unwrap();
        let error = check_superblock(&File::open(path).unwrap(), 4096).unwrap_err();
        assert_eq!(error, "4096 bytes of 8192 are there");
    }

    #[test]
    fn whole_image_is_accepted_and_another_file_is_not() {
        let folder = tempfile::tempdir().unwrap();
        assert!(check_superblock(&File::open(erofs(folder.path())).unwrap(), 8192).is_ok());
        let other = File::open("/proc/self/exe").unwrap();
        assert!(check_superblock(&other, u64::MAX).is_err());
    }
}

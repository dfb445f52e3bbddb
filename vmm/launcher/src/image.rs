//! Root images: finding them, checking them, and the writable disk on top.
//!
//! An image is one EROFS file that all VMs share. Beside it lies an empty ext4 file system, copied for each VM: only
//! its few allocated blocks are copied, so the disk costs milliseconds and a megabyte, whatever its size.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, SeekFrom, copy_file_range, ftruncate, ioctl_ficlone, open, seek};
use rustix::io::Errno;
use serde::Deserialize;
use vmm::Mib;

use crate::Error;
use crate::dirs::Dirs;

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
    overlay: Option<File>,
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
            return Ok(Self { path, root, overlay: None });
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
        Ok(Self { overlay: File::open(path.join("overlay.ext4")).ok(), path, root })
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
        let failed = |source: io::Error| Error::path("create a disk in", folder, source);
        let disk = unnamed_file(folder).map_err(failed)?;
        match &self.overlay {
            Some(template) if template.metadata().is_ok_and(|found| found.len() == size.bytes()) => {
                copy_sparse(template, &disk, size.bytes()).map_err(failed)?;
            }
            _ => ftruncate(&disk, size.bytes()).map_err(|error| failed(error.into()))?,
        }
        Ok(disk)
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

fn unnamed_file(folder: &Path) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
    match open(folder, flags, Mode::RUSR | Mode::WUSR) {
        Ok(file) => Ok(file.into()),
        // Some file systems (overlayfs before 6.3, NFS) know no O_TMPFILE.
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => tempfile::tempfile_in(folder),
        Err(error) => Err(error.into()),
    }
}

/// Copies what is allocated in `from`, by reference where the file system can.
fn copy_sparse(from: &File, to: &File, length: u64) -> io::Result<()> {
    if ioctl_ficlone(to, from).is_ok() {
        return Ok(());
    }
    ftruncate(to, length)?;
    let mut position = 0;
    while position < length {
        let start = match seek(from, SeekFrom::Data(position)) {
            Ok(start) => start,
            Err(Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        position = seek(from, SeekFrom::Hole(start))?;
        copy_extent(from, to, start, position)?;
    }
    Ok(())
}

fn copy_extent(from: &File, to: &File, start: u64, end: u64) -> io::Result<()> {
    let (mut source, mut target) = (start, start);
    while source < end {
        let left = usize::try_from(end - source).unwrap_or(usize::MAX);
        match copy_file_range(from, Some(&mut source), to, Some(&mut target), left) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => {}
            Err(Errno::XDEV | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {
                return copy_by_hand(from, to, source, end);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn copy_by_hand(from: &File, to: &File, mut position: u64, end: u64) -> io::Result<()> {
    const CHUNK: usize = 256 << 10;
    let mut buffer = vec![0; CHUNK];
    while position < end {
        let wanted = usize::try_from(end - position).map_or(CHUNK, |left| left.min(CHUNK));
        let chunk = &mut buffer[..wanted];
        from.read_exact_at(chunk, position)?;
        to.write_all_at(chunk, position)?;
        position += u64::try_from(wanted).unwrap_or(u64::MAX);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    const SIZE: u64 = 64 << 20;

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
    fn scratch_disk_copies_data_and_stays_sparse() {
        let folder = tempfile::tempdir().unwrap();
        let template = File::create_new(folder.path().join("template")).unwrap();
        template.set_len(SIZE).unwrap();
        template.write_all_at(b"super", 1024).unwrap();
        template.write_all_at(b"last", SIZE - 4096).unwrap();
        let disk = unnamed_file(folder.path()).unwrap();
        copy_sparse(&File::open(folder.path().join("template")).unwrap(), &disk, SIZE).unwrap();
        let mut found = [0; 5];
        disk.read_exact_at(&mut found, 1024).unwrap();
        assert_eq!(&found, b"super");
        disk.read_exact_at(&mut found[..4], SIZE - 4096).unwrap();
        assert_eq!(&found[..4], b"last");
        assert_eq!(disk.metadata().unwrap().len(), SIZE);
        assert!(disk.metadata().unwrap().blocks() * 512 < 1 << 20);
    }

    #[test]
    fn scratch_disk_leaves_no_name() {
        let folder = tempfile::tempdir().unwrap();
        let _disk = unnamed_file(folder.path()).unwrap();
        assert_eq!(folder.path().read_dir().unwrap().count(), 0);
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

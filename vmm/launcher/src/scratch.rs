//! The writable disk of a VM: a file without a name, made from the few pieces of a file system that hold data.
//!
//! The image builder writes the pieces (rootfs/build): `VMMDISK1`, the disk's size, then offset, length and bytes of
//! each piece; numbers are 64-bit little-endian. An image is data: a piece outside the disk or of absurd length is an
//! error.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;

const MAGIC: &[u8; 8] = b"VMMDISK1";
/// Longest piece; builders write one block each.
const MAX_PIECE: u64 = 1 << 20;

/// A disk of `size` bytes in `folder`, gone when the last descriptor is closed. It holds what `pieces` say if they
/// describe a disk of that size, and is blank otherwise.
pub(crate) fn disk(folder: &Path, size: u64, pieces: Option<&File>) -> io::Result<File> {
    let disk = unnamed_file(folder)?;
    disk.set_len(size)?;
    if let Some(pieces) = pieces {
        let mut pieces = BufReader::new(pieces);
        if read_size(&mut pieces)? == size {
            copy(&mut pieces, &disk, size)?;
        }
    }
    Ok(disk)
}

fn unnamed_file(folder: &Path) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
    match open(folder, flags, Mode::RUSR | Mode::WUSR) {
        Ok(file) => Ok(file.into()),
        // Some file systems (overlayfs before Linux 6.3, NFS) know no O_TMPFILE.
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => tempfile::tempfile_in(folder),
        Err(error) => Err(error.into()),
    }
}

fn read_size(pieces: &mut impl Read) -> io::Result<u64> {
    let mut magic = [0; 8];
    pieces.read_exact(&mut magic)?;
    if &magic != MAGIC {
        return Err(malformed());
    }
    read_number(pieces)?.ok_or_else(malformed)
}

fn copy(pieces: &mut impl Read, disk: &File, size: u64) -> io::Result<()> {
    let mut piece = Vec::new();
    while let Some(offset) = read_number(pieces)? {
        let length = read_number(pieces)?.filter(|length| *length <= MAX_PIECE).ok_or_else(malformed)?;
        if offset.checked_add(length).is_none_or(|end| end > size) {
            return Err(malformed());
        }
        piece.clear();
        if u64::try_from(pieces.take(length).read_to_end(&mut piece)?) != Ok(length) {
            return Err(malformed());
        }
        disk.write_all_at(&piece, offset)?;
    }
    Ok(())
}

/// The next number, `None` at the end.
fn read_number(pieces: &mut impl Read) -> io::Result<Option<u64>> {
    let mut bytes = Vec::with_capacity(8);
    pieces.take(8).read_to_end(&mut bytes)?;
    match <[u8; 8]>::try_from(bytes.as_slice()) {
        Ok(bytes) => Ok(Some(u64::from_le_bytes(bytes))),
        Err(_) if bytes.is_empty() => Ok(None),
        Err(_) => Err(malformed()),
    }
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "The image's disk pieces are damaged")
}

#[cfg(test)]
mod tests {
    use std::io::{Seek, Write};
    use std::os::unix::fs::MetadataExt;

    use super::*;

    const SIZE: u64 = 64 << 20;

    fn pieces(size: u64, list: &[(u64, &[u8])]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(MAGIC).unwrap();
        file.write_all(&size.to_le_bytes()).unwrap();
        for (offset, data) in list {
            file.write_all(&offset.to_le_bytes()).unwrap();
            file.write_all(&(data.len() as u64).to_le_bytes()).unwrap();
            file.write_all(data).unwrap();
        }
        file.rewind().unwrap();
        file
    }

    #[test]
    fn disk_holds_its_pieces_and_stays_sparse() {
        let folder = tempfile::tempdir().unwrap();
        let pieces = pieces(SIZE, &[(1024, b"super"), (SIZE - 4, b"last")]);
        let disk = disk(folder.path(), SIZE, Some(&pieces)).unwrap();
        let mut found = [0; 5];
        disk.read_exact_at(&mut found, 1024).unwrap();
        assert_eq!(&found, b"super");
        disk.read_exact_at(&mut found[..4], SIZE - 4).unwrap();
        assert_eq!(&found[..4], b"last");
        assert!(disk.metadata().unwrap().blocks() * 512 < 1 << 20);
    }

    #[test]
    fn disk_has_no_name() {
        let folder = tempfile::tempdir().unwrap();
        let _disk = disk(folder.path(), SIZE, None).unwrap();
        assert_eq!(folder.path().read_dir().unwrap().count(), 0);
    }

    #[test]
    fn disk_of_another_size_is_blank() {
        let folder = tempfile::tempdir().unwrap();
        let disk = disk(folder.path(), SIZE, Some(&pieces(2 * SIZE, &[(0, b"super")]))).unwrap();
        assert_eq!(disk.metadata().unwrap().len(), SIZE);
        assert_eq!(disk.metadata().unwrap().blocks(), 0);
    }

    #[test]
    fn damaged_pieces_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let outside = pieces(SIZE, &[(SIZE - 1, b"xx")]);
        assert!(disk(folder.path(), SIZE, Some(&outside)).is_err());
        let cut = pieces(SIZE, &[(0, b"whole")]);
        cut.set_len(26).unwrap();
        assert!(disk(folder.path(), SIZE, Some(&cut)).is_err());
    }
}

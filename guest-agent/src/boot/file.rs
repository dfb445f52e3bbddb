//! Files the agent writes into the guest.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// Makes `path` a regular file with that content; leaves one that is so already alone, because a write would copy it
/// into the writable layer.
pub(super) fn put(path: &Path, content: &[u8], mode: u16) -> io::Result<()> {
    let mode = u32::from(mode);
    if is_as_wanted(path, content, mode) {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    // An image's symbolic link, perhaps to nowhere, gives way.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(content)?;
    // Whatever the file mode creation mask is.
    file.set_permissions(Permissions::from_mode(mode))
}

fn is_as_wanted(path: &Path, content: &[u8], mode: u32) -> bool {
    let Ok(metadata) = fs::symlink_metadata(path) else { return false };
    metadata.is_file()
        && metadata.permissions().mode() & 0o7777 == mode
        && metadata.len() == u64::try_from(content.len()).unwrap_or(u64::MAX)
        && fs::read(path).is_ok_and(|found| found == content)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::put;

    #[test]
    fn a_link_gives_way_and_its_target_stays() {
        let directory = tempfile::tempdir().unwrap();
        let (link, target) = (directory.path().join("link"), directory.path().join("target"));
        fs::write(&target, "precious").unwrap();
        symlink(&target, &link).unwrap();
        put(&link, b"new", 0o600).unwrap();
        assert_eq!(fs::read(&link).unwrap(), b"new");
        assert_eq!(fs::symlink_metadata(&link).unwrap().permissions().mode() & 0o7777, 0o600);
        assert_eq!(fs::read(&target).unwrap(), b"precious");
    }

    #[test]
    fn what_is_as_wanted_is_not_written_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a/b/file");
        put(&path, b"content", 0o644).unwrap();
        let before = fs::metadata(&path).unwrap().ino();
        put(&path, b"content", 0o644).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().ino(), before);
        put(&path, b"contend", 0o644).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"contend");
    }
}

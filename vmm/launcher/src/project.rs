//! Which host folders the guest sees, and where.

use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use crate::Error;

/// Where a project goes that cannot keep its own path.
pub const WORKSPACE: &str = "/workspace";

/// Folders the guest needs for itself, with everything below them.
const GUEST_TREES: [&str; 14] = [
    "/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/libx32", "/proc", "/run", "/sbin", "/sys", "/tmp",
    "/usr",
];
/// Folders the guest needs for itself, but in which a project may lie.
const GUEST_FOLDERS: [&str; 7] = ["/", "/home", "/mnt", "/opt", "/root", "/srv", "/var"];

/// A host folder or file and its place in the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Real path on the host.
    pub host: PathBuf,
    /// Absolute path in the guest.
    pub guest: PathBuf,
    /// Whether the host refuses every change.
    pub is_read_only: bool,
}

impl Mount {
    /// The project itself: at its own path, or at [`WORKSPACE`] if the guest needs that path.
    pub fn project(path: &Path) -> Result<Self, Error> {
        let host = path.canonicalize().map_err(|source| Error::path("open the project", path, source))?;
        if !host.is_dir() {
            return Err(Error::Share { path: host, reason: "a project is a folder, and this is a file".into() });
        }
        host.read_dir().map_err(|source| Error::path("read the project", &host, source))?;
        let guest = if is_needed_by_guest(&host) { PathBuf::from(WORKSPACE) } else { host.clone() };
        Ok(Self { host, guest, is_read_only: false })
    }

    /// True if the guest sees it under another path than the host.
    pub fn is_moved(&self) -> bool {
        self.host != self.guest
    }

    /// A `--mount` value: `HOST[:GUEST][:ro]`, any bytes but a colon in the paths.
    pub fn parse(value: &std::ffi::OsStr) -> Result<Self, Error> {
        let as_path = |bytes: &[u8]| PathBuf::from(std::ffi::OsStr::from_bytes(bytes));
        let wrong = |reason: &str| Error::Share { path: value.into(), reason: reason.into() };
        let mut parts: Vec<&[u8]> = value.as_bytes().split(|byte| *byte == b':').collect();
        let mode = parts.pop_if(|last| matches!(*last, b"ro" | b"rw"));
        let [host, guest @ ..] = parts.as_slice() else { return Err(wrong("write --mount HOST[:GUEST][:ro]")) };
        let path = as_path(host);
        let host = path.canonicalize().map_err(|source| Error::path("open the mount", &path, source))?;
        let guest = match guest {
            [] => host.clone(),
            [guest] => as_path(guest),
            _ => return Err(wrong("too many colons; write --mount HOST[:GUEST][:ro]")),
        };
        let is_plain = guest.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
        if !guest.is_absolute() || !is_plain {
            return Err(wrong("the guest path must be absolute and without `..`"));
        }
        if is_needed_by_guest(&guest) {
            return Err(wrong("the guest needs that path itself; name another one, as in --mount HOST:/data"));
        }
        Ok(Self { host, guest, is_read_only: mode == Some(b"ro") })
    }
}

fn is_needed_by_guest(path: &Path) -> bool {
    GUEST_TREES.iter().any(|tree| path.starts_with(tree))
        || GUEST_FOLDERS.iter().any(|folder| path == Path::new(folder))
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;

    #[test]
    fn project_in_a_guest_tree_moves_to_the_workspace() {
        let folder = tempfile::tempdir_in("/tmp").unwrap();
        let mount = Mount::project(folder.path()).unwrap();
        assert_eq!(mount.guest, Path::new(WORKSPACE));
        assert!(mount.is_moved());
    }

    #[test]
    fn project_elsewhere_keeps_its_path() {
        assert!(!is_needed_by_guest(Path::new("/home/me/project")));
        assert!(!is_needed_by_guest(Path::new("/root/project")));
        assert!(!is_needed_by_guest(Path::new("/usrlocal/x")));
    }

    #[test]
    fn whole_home_of_root_moves() {
        assert!(is_needed_by_guest(Path::new("/root")));
        assert!(is_needed_by_guest(Path::new("/")));
    }

    #[test]
    fn mount_values_carry_target_and_mode() {
        let mount = Mount::parse(OsStr::new("/proc/self:/data:ro")).unwrap();
        assert_eq!((mount.guest.as_path(), mount.is_read_only), (Path::new("/data"), true));
        assert!(!Mount::parse(OsStr::new("/var/lib:/data")).unwrap().is_read_only);
    }

    #[test]
    fn mounts_may_not_cover_what_the_guest_needs_or_climb() {
        for value in ["/var/lib:/etc/x", "/var/lib:data", "/var/lib:/data/../etc", "/var/lib:/a:/b"] {
            assert!(Mount::parse(OsStr::new(value)).is_err(), "{value}");
        }
    }
}

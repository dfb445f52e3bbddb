//! Which shares may wait for another machine.
//!
//! A share does that lies on a network file system, and one in which such a file system is mounted when the device is
//! made: a mere look at that mount's folder may hang. What is mounted later is not noticed.

use std::ffi::OsString;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;

use rustix::fs::{CWD, fstatfs, readlinkat};
use rustix::io::Errno;

/// File systems whose files are on another machine or served by another program (`linux/magic.h`, `f_type`).
const REMOTE: [u64; 7] = [
    0x6969,      // NFS
    0xfe53_4d42, // SMB
    0xff53_4d42, // CIFS
    0x6573_5546, // FUSE: sshfs and the like
    0x0102_1997, // 9p
    0x00c3_6400, // Ceph
    0x5346_414f, // AFS
];
/// The same by the names that `/proc/self/mountinfo` has for them; of FUSE there are kinds after a dot.
const REMOTE_NAMES: [&[u8]; 9] = [b"9p", b"afs", b"ceph", b"cifs", b"fuse", b"nfs", b"nfs4", b"smb3", b"smbfs"];

/// Whether what a descriptor names lies on another machine.
pub(super) fn lies_away(file: &OwnedFd) -> Result<bool, Errno> {
    let kind = fstatfs(file)?.f_type;
    // The number's 32 bits may have been extended with a sign.
    let kind = u64::try_from(kind).unwrap_or_default() & u64::from(u32::MAX);
    Ok(REMOTE.contains(&kind))
}

/// The same of something in it.
pub(super) fn is_remote(root: &OwnedFd) -> Result<bool, Errno> {
    if lies_away(root)? {
        return Ok(true);
    }
    let path = readlinkat(CWD, format!("/proc/self/fd/{}", root.as_raw_fd()), Vec::new())?;
    // Without the list, a share is as local as its root.
    let mounts = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
    let mount = remote_mount_below(path.as_bytes(), &mounts);
    if let Some(mount) = &mount {
        let (share, mount) = (path.to_string_lossy(), mount.display());
        tracing::info!(%share, %mount, "The share waits for another machine; its requests take a longer way");
    }
    Ok(mount.is_some())
}

/// The first file system in the list that is mounted below `root` and on another machine.
fn remote_mount_below(root: &[u8], mounts: &[u8]) -> Option<OsString> {
    mounts.split(|byte| *byte == b'\n').find_map(|line| {
        // ID, parent, device, root, mount point, options, any number of optional fields, `-`, type (proc(5)).
        let mut words = line.split(|byte| *byte == b' ');
        let point = unescaped(words.nth(4)?);
        let kind = words.skip_while(|word| *word != b"-").nth(1)?;
        let kind = kind.split(|byte| *byte == b'.').next()?;
        let below = point.strip_prefix(root)?;
        let is_below = root == b"/" || below.starts_with(b"/");
        (is_below && REMOTE_NAMES.contains(&kind)).then(|| OsString::from_vec(point))
    })
}

/// A path of the list, in which spaces and the like are written as three octal digits.
fn unescaped(text: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, tail @ ..] = rest {
        let escaped = match tail {
            [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', ..] if *first == b'\\' => {
                Some((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'))
            }
            _ => None,
        };
        plain.push(escaped.unwrap_or(*first));
        rest = if escaped.is_some() { tail.get(3..).unwrap_or_default() } else { tail };
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &[u8] = b"\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 22 0:40 / /home/u/away rw,nosuid shared:2 master:3 - fuse.sshfs host:/data rw
31 22 0:41 / /srv/my\\040data rw - nfs4 host:/x rw
32 22 0:42 / /home/u/disk rw - fuseblk /dev/sdb1 rw
33 22 0:43 / /sys/fs/fuse/connections rw - fusectl none rw
34 22 0:44 / /home/u/tmp rw - tmpfs none rw
";

    fn found(root: &str) -> Option<String> {
        remote_mount_below(root.as_bytes(), MOUNTS).map(|path| path.into_string().unwrap())
    }

    #[test]
    fn network_mounts_in_a_share_are_found() {
        assert_eq!(found("/").as_deref(), Some("/home/u/away"));
        assert_eq!(found("/home/u").as_deref(), Some("/home/u/away"));
        assert_eq!(found("/srv").as_deref(), Some("/srv/my data"));
    }

    #[test]
    fn mounts_beside_a_share_and_local_ones_do_not_count() {
        for root in ["/home/u/aw", "/home/u/disk", "/home/u/tmp", "/sys", "/var", "/srv/my", "/home/u/away"] {
            assert_eq!(found(root), None, "{root}");
        }
    }
}

//! Host directories and files at their places in the guest.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};

use agent_protocol::SHARES_TAG;
use agent_protocol::setup::{Share, ShareKind};
use rustix::fs::{CWD, Mode, OFlags, major, minor, openat, stat};
use rustix::mount::{MountFlags, UnmountFlags, mount_bind, mount_remount, unmount};

use super::mount::{Spec, make_directory, read_only};
use crate::failure::{During, Failure};

/// Where the one virtio-fs device is mounted while its entries are put in place.
const ALL: &str = "/run/vmm/shares";
/// What is read ahead; the kernel's own choice is 128.
const READ_AHEAD_KIB: &str = "512";
const FLAGS: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV);

/// Puts every share in place, outer paths before those inside them.
pub(super) fn mount(shares: &[Share]) -> Result<(), Failure> {
    if shares.is_empty() {
        return Ok(());
    }
    make_directory(Path::new(ALL))?;
    Spec { source: SHARES_TAG, target: ALL, kind: "virtiofs", flags: FLAGS, options: "" }.mount()?;
    read_ahead();
    let mut shares: Vec<&Share> = shares.iter().collect();
    shares.sort_by_key(|share| share.path.components().count());
    for share in shares {
        place(share)?;
    }
    // The whole collection need not be seen, but it has to stay: it owns what writes back dirty pages for every share
    // in it. Without it, who writes to mapped files would wait for ever, and what they wrote would never reach the
    // host.
    let whole = openat(CWD, ALL, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    std::mem::forget(whole.during(|| format!("Cannot open {ALL}"))?);
    unmount(ALL, UnmountFlags::DETACH).during(|| format!("Cannot unmount {ALL}"))
}

/// Has files that are read in order read ahead in larger pieces, as each is a request to the host. All shares are one
/// device to the kernel. Where this cannot be had, reading is slower and nothing else.
fn read_ahead() {
    // The answer comes after that to the mount's own first request, which sets what is changed here.
    let Ok(whole) = stat(ALL) else { return };
    let device = format!("{}:{}", major(whole.st_dev), minor(whole.st_dev));
    let _ = fs::write(format!("/sys/class/bdi/{device}/read_ahead_kb"), READ_AHEAD_KIB);
}

fn place(share: &Share) -> Result<(), Failure> {
    let source = PathBuf::from(ALL).join(share.entry.as_os_str());
    let target = share.path.as_path();
    match share.kind {
        ShareKind::Directory => make_directory(target)?,
        ShareKind::File => make_file(target)?,
    }
    let place = || format!("Cannot mount share {:?} on {}", share.entry, target.display());
    mount_bind(&source, target).during(place)?;
    if share.read_only {
        mount_remount(target, MountFlags::BIND | FLAGS | read_only(true), "").during(place)?;
    }
    Ok(())
}

/// Something to mount a file on, if there is nothing.
fn make_file(path: &Path) -> Result<(), Failure> {
    if fs::symlink_metadata(path).is_ok() {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        make_directory(parent)?;
    }
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(path)
        .map(drop)
        .during(|| format!("Cannot make the file {}", path.display()))
}

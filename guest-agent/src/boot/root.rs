//! The root filesystem: the read-only image below, a writable layer above.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;

use agent_protocol::setup::{Setup, Upper};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::mount::{MountFlags, mount_move};
use rustix::process::{chdir, chroot};

use super::disk;
use super::mount::{Spec, make_directory};
use crate::failure::{During, Failure};

/// Places in the initramfs, out of sight once the root is switched.
const IMAGE: &str = "/vmm/image";
const UPPER: &str = "/vmm/upper";
const ROOT: &str = "/vmm/root";

/// Mounts the root and makes it this process's; gives the writable disk's mount, for the shutdown.
pub(super) fn mount(setup: &Setup) -> Result<Option<OwnedFd>, Failure> {
    for directory in [IMAGE, UPPER, ROOT] {
        make_directory(Path::new(directory))?;
    }
    let device = disk::find(&setup.root)?;
    spec(&device, IMAGE, "erofs", MountFlags::RDONLY, "").mount()?;
    mount_upper(&setup.upper)?;
    for directory in ["work", "upper"] {
        make_directory(&Path::new(UPPER).join(directory))?;
    }
    // Renames of the image's directories work. What is in memory need not be synced.
    let volatile = if matches!(setup.upper, Upper::Memory) { ",volatile" } else { "" };
    let layers = format!("lowerdir={IMAGE},upperdir={UPPER}/upper,workdir={UPPER}/work,redirect_dir=on{volatile}");
    spec("overlay", ROOT, "overlay", MountFlags::empty(), &layers).mount()?;
    let upper = match setup.upper {
        Upper::Memory => None,
        Upper::Disk(_) => Some(open_directory(UPPER)?),
    };
    switch()?;
    Ok(upper)
}

fn mount_upper(upper: &Upper) -> Result<(), Failure> {
    match upper {
        Upper::Memory => spec("tmpfs", UPPER, "tmpfs", MountFlags::empty(), "mode=755").mount(),
        Upper::Disk(serial) => {
            let device = disk::find(serial)?;
            disk::format_if_blank(&device, IMAGE)?;
            spec(&device, UPPER, "ext4", MountFlags::NOATIME, "discard").mount()
        }
    }
}

fn spec<'a>(source: &'a str, target: &'a str, kind: &'a str, flags: MountFlags, options: &'a str) -> Spec<'a> {
    Spec { source, target, kind, flags, options }
}

fn open_directory(path: &str) -> Result<OwnedFd, Failure> {
    openat(CWD, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .during(|| format!("Cannot open {path}"))
}

/// The initramfs cannot be left by pivot_root(2): the new root is moved over it (see the kernel's
/// Documentation/filesystems/ramfs-rootfs-initramfs.rst).
fn switch() -> Result<(), Failure> {
    for name in ["dev", "proc", "sys"] {
        let target = format!("{ROOT}/{name}");
        make_directory(Path::new(&target))?;
        mount_move(format!("/{name}"), target.as_str()).during(|| format!("Cannot move /{name} to the new root"))?;
    }
    let entered = chdir(ROOT).and_then(|()| mount_move(".", "/")).and_then(|()| chroot(".")).and_then(|()| chdir("/"));
    entered.during(|| "Cannot enter the new root".into())?;
    // The first proof that the image is one: programs need it, and /dev/null is what they break on.
    File::open("/dev/null").map(drop).during(|| "Cannot open /dev/null in the new root".into())
}

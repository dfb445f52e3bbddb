//! Mounts of the kernel's own filesystems.

use std::ffi::CString;
use std::fs;
use std::path::Path;

use agent_protocol::setup::Tmpfs;
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount};

use super::Boot;
use crate::failure::{During, Failure};

const NOTHING: MountFlags = MountFlags::empty();
const PLAIN: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);

/// One mount.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spec<'a> {
    pub(super) source: &'a str,
    pub(super) target: &'a str,
    pub(super) kind: &'a str,
    pub(super) flags: MountFlags,
    pub(super) options: &'a str,
}

impl Spec<'_> {
    pub(super) fn mount(&self) -> Result<(), Failure> {
        self.try_mount().during(|| format!("Cannot mount {} ({}) on {}", self.source, self.kind, self.target))
    }

    fn try_mount(&self) -> std::io::Result<()> {
        let options = CString::new(self.options)?;
        Ok(mount(self.source, self.target, self.kind, self.flags, options.as_c_str())?)
    }
}

/// What the initramfs needs before anything else: devices, processes, hardware.
pub fn kernel_filesystems() -> Result<(), Failure> {
    for (target, kind, flags) in
        [("/dev", "devtmpfs", MountFlags::NOSUID), ("/proc", "proc", PLAIN), ("/sys", "sysfs", PLAIN)]
    {
        make_directory(Path::new(target))?;
        match mount(kind, target, kind, flags, None) {
            // The kernel mounts /dev itself when told to.
            Ok(()) | Err(Errno::BUSY) => {}
            Err(error) => return Err(Failure::new(format!("Cannot mount {target}"), error)),
        }
    }
    Ok(())
}

/// What programs expect besides; those a kernel may lack are warnings.
pub(super) fn run_time_filesystems(boot: &mut Boot) -> Result<(), Failure> {
    let spec = |target, kind, flags, options| Spec { source: kind, target, kind, flags, options };
    let needed = [
        spec("/run", "tmpfs", MountFlags::NOSUID.union(MountFlags::NODEV), "mode=755"),
        spec("/dev/pts", "devpts", MountFlags::NOSUID.union(MountFlags::NOEXEC), "gid=5,mode=620,ptmxmode=666"),
        spec("/dev/shm", "tmpfs", MountFlags::NOSUID.union(MountFlags::NODEV), "mode=1777"),
    ];
    for spec in needed {
        make_directory(Path::new(spec.target))?;
        spec.mount()?;
    }
    let optional = [
        spec("/dev/mqueue", "mqueue", PLAIN, ""),
        spec("/sys/fs/cgroup", "cgroup2", PLAIN, "nsdelegate"),
        spec("/sys/fs/bpf", "bpf", PLAIN, "mode=700"),
    ];
    for spec in optional {
        // A directory of sysfs is there when the kernel has what is mounted on it.
        boot.tolerate(make_directory(Path::new(spec.target)).and_then(|()| spec.mount()));
    }
    for (link, target) in
        [("/dev/fd", "/proc/self/fd"), ("/dev/stdin", "fd/0"), ("/dev/stdout", "fd/1"), ("/dev/stderr", "fd/2")]
    {
        let linked = std::os::unix::fs::symlink(target, link);
        boot.tolerate(linked.during(|| format!("Cannot link {link}")));
    }
    Ok(())
}

/// A tmpfs the host asked for.
pub(super) fn tmpfs(wanted: &Tmpfs) -> Result<(), Failure> {
    let path = wanted.path.as_path();
    make_directory(path)?;
    let size = wanted.size.map(|size| format!(",size={size}")).unwrap_or_default();
    let options = CString::new(format!("mode={:o}{size}", wanted.mode)).during(|| "Cannot name a size".into())?;
    mount("tmpfs", path, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, options.as_c_str())
        .during(|| format!("Cannot mount a tmpfs on {}", path.display()))
}

/// Makes a directory and those above it, if they are not there.
pub(super) fn make_directory(path: &Path) -> Result<(), Failure> {
    fs::create_dir_all(path).during(|| format!("Cannot make the directory {}", path.display()))
}

/// Read-only, or nothing in particular.
pub(super) fn read_only(read_only: bool) -> MountFlags {
    if read_only { MountFlags::RDONLY } else { NOTHING }
}

//! Whether /dev/kvm is there, may be opened, can do what the engine needs, and runs guest kernels on hardware.

use std::ffi::CString;
use std::fmt;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kvm_ioctls::{Cap, Kvm};

use super::ring0;

/// Where the kernel offers KVM.
const DEVICE: &str = "/dev/kvm";

/// Above this a loop turn in guest ring 0 is emulated. Hardware needs 0 to 3 ns, a KVM nested in an emulator about as
/// much, instruction emulators 1,800 and more: the geometric middle leaves a wide margin either way.
const EMULATED_NS: f64 = 200.0;

/// What the engine cannot do without, by the kernel's names.
const NEEDED: [(Cap, &str); 8] = [
    (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
    (Cap::Irqchip, "KVM_CAP_IRQCHIP"),
    (Cap::Irqfd, "KVM_CAP_IRQFD"),
    (Cap::Ioeventfd, "KVM_CAP_IOEVENTFD"),
    (Cap::IrqRouting, "KVM_CAP_IRQ_ROUTING"),
    (Cap::ExtCpuid, "KVM_CAP_EXT_CPUID"),
    (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
    (Cap::SetTssAddr, "KVM_CAP_SET_TSS_ADDR"),
];

/// What was found out about KVM; its `Display` is one line for the user, with the remedy if there is one.
#[derive(Debug)]
#[non_exhaustive]
pub struct KvmReport {
    /// The device that was looked at.
    pub device: PathBuf,
    /// The conclusion.
    pub verdict: KvmVerdict,
    /// Nanoseconds per turn of a loop in guest ring 0, if it came to measuring.
    pub ring0_ns: Option<f64>,
    /// How long finding out took.
    pub took: Duration,
}

/// Whether and why KVM can be used.
#[derive(Debug)]
#[non_exhaustive]
pub enum KvmVerdict {
    /// Guest kernels run on the hardware: usable.
    Native,
    /// Guest kernels are emulated instruction by instruction: not usable.
    Emulated,
    /// There is no such device.
    Absent,
    /// This user may not open the device.
    Denied,
    /// The device lacks capabilities that the engine needs, named as in the kernel.
    Lacking(Vec<&'static str>),
    /// The device is there and does not work.
    Broken(io::Error),
}

impl KvmReport {
    /// Looks at the one device there is.
    pub(crate) fn examine() -> Self {
        Self::take(Path::new(DEVICE))
    }

    /// Looks at `device`.
    fn take(device: &Path) -> Self {
        let begin = Instant::now();
        let (verdict, ring0_ns) = match ring0_cost(device) {
            Ok(ns) if ns > EMULATED_NS => (KvmVerdict::Emulated, Some(ns)),
            Ok(ns) => (KvmVerdict::Native, Some(ns)),
            Err(verdict) => (verdict, None),
        };
        Self { device: device.into(), verdict, ring0_ns, took: begin.elapsed() }
    }

    /// Whether the kvm engine can be used.
    pub fn is_usable(&self) -> bool {
        matches!(self.verdict, KvmVerdict::Native)
    }
}

impl fmt::Display for KvmReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let device = self.device.display();
        let ns = self.ring0_ns.unwrap_or_default();
        match &self.verdict {
            KvmVerdict::Native => write!(f, "{device} runs guest kernels on the hardware ({ns:.1} ns per loop turn)"),
            KvmVerdict::Emulated => write!(
                f,
                "{device} emulates guest kernels instruction by instruction ({ns:.0} ns per loop turn, hardware needs \
                 under 5), on which Linux does not boot"
            ),
            KvmVerdict::Absent => write!(
                f,
                "{device} does not exist; switch virtualisation on in the firmware (in a VM: nested virtualisation) \
                 and load the module kvm_intel or kvm_amd"
            ),
            KvmVerdict::Denied => write!(
                f,
                "{device} may not be opened by this user; join the group that owns it (`sudo usermod -aG kvm $USER`, \
                 then log in again)"
            ),
            KvmVerdict::Lacking(names) => {
                write!(f, "{device} lacks {}; a newer host kernel has it", names.join(", "))
            }
            KvmVerdict::Broken(error) => write!(f, "{device} does not work: {error}"),
        }
    }
}

/// Nanoseconds per turn of a loop in ring 0, or why it did not come to that.
fn ring0_cost(device: &Path) -> Result<f64, KvmVerdict> {
    let path = CString::new(device.as_os_str().as_bytes()).map_err(|error| KvmVerdict::Broken(error.into()))?;
    let kvm = Kvm::new_with_path(path).map_err(|error| match error.errno() {
        libc::ENOENT | libc::ENOTDIR | libc::ENODEV | libc::ENXIO => KvmVerdict::Absent,
        libc::EACCES | libc::EPERM => KvmVerdict::Denied,
        errno => KvmVerdict::Broken(io::Error::from_raw_os_error(errno)),
    })?;
    let version = kvm.get_api_version();
    // What a file that is not KVM answers, and the only version there has been since 2007.
    if version != 12 {
        return Err(KvmVerdict::Broken(io::Error::other(format!("it speaks version {version} of the API, not 12"))));
    }
    let lacking: Vec<_> = NEEDED.iter().filter(|(cap, _)| !kvm.check_extension(*cap)).map(|(_, name)| *name).collect();
    if !lacking.is_empty() {
        return Err(KvmVerdict::Lacking(lacking));
    }
    ring0::cost_ns(&kvm, EMULATED_NS).map_err(KvmVerdict::Broken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_device_is_told_apart() {
        let report = KvmReport::take(Path::new("/nonexistent/kvm"));
        assert!(matches!(report.verdict, KvmVerdict::Absent));
        assert!(report.to_string().contains("firmware"));
    }

    #[test]
    fn file_that_is_not_kvm_is_broken_not_usable() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let report = KvmReport::take(file.path());
        assert!(matches!(report.verdict, KvmVerdict::Broken(_)), "{report:?}");
        assert!(!report.is_usable());
    }

    #[test]
    fn verdict_is_bounded_in_time() {
        // The budget is 20 ms; the bound leaves room for a loaded test machine.
        const BOUND: Duration = Duration::from_millis(500);
        let report = KvmReport::take(Path::new(DEVICE));
        assert!(report.took < BOUND, "{report:?}");
        assert_eq!(report.ring0_ns.is_some(), matches!(report.verdict, KvmVerdict::Native | KvmVerdict::Emulated));
    }
}

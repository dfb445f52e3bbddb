//! Which engine can run here, and the evidence for it.
//!
//! [`Engine::Auto`](crate::Engine::Auto) decides by it and `vmm doctor` prints it. Capabilities alone do not tell: some
//! hosts offer a /dev/kvm that announces everything and emulates guest kernel code one instruction at a time, on
//! which Linux takes minutes to die. So the probe runs a few instructions and looks at what they cost.

mod kvm;
mod qemu;
mod ring0;

pub use kvm::{KvmReport, KvmVerdict};
pub use qemu::QemuReport;

use crate::sandbox::LandlockReport;

/// What [`probe`] found.
#[derive(Debug)]
#[non_exhaustive]
pub struct Probe {
    /// Whether the kvm engine can be used.
    pub kvm: KvmReport,
    /// Whether the qemu engine can be used.
    pub qemu: QemuReport,
    /// Whether the host's kernel confines the file server.
    pub landlock: LandlockReport,
}

/// Finds out which engines can be used here; takes a few milliseconds and changes nothing.
///
/// ```no_run
/// let found = vmm::probe();
/// println!("kvm: {}", found.kvm);
/// println!("qemu: {}", found.qemu);
/// ```
pub fn probe() -> Probe {
    Probe { kvm: KvmReport::examine(), qemu: QemuReport::search(), landlock: LandlockReport::examine() }
}

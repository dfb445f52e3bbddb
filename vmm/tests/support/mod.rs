//! What the tests of booted VMs share: a kernel, small guests, a console to wait on.

// Every test binary compiles this for itself and uses a part of it; here as there, failing is what a test does.
#![allow(dead_code, clippy::unwrap_used)]

pub mod guest;
pub mod scenario;

use std::fs::{self, File};
use std::io::{BufRead, BufReader, PipeReader, Write};
use std::os::fd::OwnedFd;
use std::path::Path;

use vmm::{Engine, Initramfs, Kernel, RunningVm, Vm, VmConfig};

/// What a guest prints that has come up.
pub const UP: &str = "guest is up\n";

/// The project's own kernel, or the one that `VMM_TEST_KERNEL` names.
pub fn kernel() -> Kernel {
    if let Some(path) = std::env::var_os("VMM_TEST_KERNEL") {
        return Kernel::open(path).unwrap();
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../kernel/prebuilt/vmlinux.zst");
    let packed = File::open(&path).unwrap_or_else(|error| panic!("{} is needed: {error}", path.display()));
    Kernel::from_bytes(&zstd::decode_all(packed).unwrap()).unwrap()
}

/// A VM with `init`, and what it writes to its console.
pub fn config(initramfs: &[u8]) -> (VmConfig, Console) {
    let (reader, writer) = std::io::pipe().unwrap();
    let initramfs = Some(Initramfs::from_bytes(initramfs).unwrap());
    let config = VmConfig { initramfs, serial: Some(OwnedFd::from(writer).into()), ..VmConfig::new(kernel()) };
    (config, Console(BufReader::new(reader)))
}

/// Boots `config` under QEMU.
pub fn boot_qemu(config: VmConfig) -> RunningVm {
    boot(Engine::Qemu, config)
}

/// Boots `config` under KVM.
pub fn boot_kvm(config: VmConfig) -> RunningVm {
    boot(Engine::Kvm, config)
}

/// Boots `config` under that engine.
pub fn boot(engine: Engine, config: VmConfig) -> RunningVm {
    Vm::builder(config).engine(engine).build().and_then(Vm::boot).unwrap()
}

/// Descriptors and threads of this process.
pub fn holdings() -> (Vec<String>, usize) {
    let mut descriptors: Vec<_> = fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(|entry| fs::read_link(entry.unwrap().path()).ok())
        .map(|target| target.to_string_lossy().into_owned())
        .filter(|target| !target.starts_with("/proc/"))
        .collect();
    descriptors.sort();
    (descriptors, fs::read_dir("/proc/self/task").unwrap().count())
}

/// Whether guests can run under KVM here. If not, says so past the test harness, which hides what passing tests print;
/// with `VMM_TEST_REQUIRE_KVM` set it fails.
pub fn kvm_is_real() -> bool {
    let report = vmm::probe().kvm;
    if !report.is_usable() {
        assert!(std::env::var_os("VMM_TEST_REQUIRE_KVM").is_none(), "KVM is required: {report}");
        let test = std::thread::current().name().unwrap_or("a test").to_owned();
        let text = format!("NOT TESTED: {test} needs real KVM (tests/lab/kvm has it): {report}\n");
        std::io::stderr().write_all(text.as_bytes()).unwrap();
    }
    report.is_usable()
}

/// What a guest writes to its console, line by line.
pub struct Console(BufReader<PipeReader>);

impl Console {
    /// Waits until a line holds `text`. A guest that ends without it fails the test.
    pub fn wait_for(&mut self, text: &str) {
        let mut seen = Vec::new();
        loop {
            let start = seen.len();
            let count = self.0.read_until(b'\n', &mut seen).unwrap();
            assert_ne!(count, 0, "{text:?} is not in {}", String::from_utf8_lossy(&seen));
            if String::from_utf8_lossy(&seen[start..]).contains(text) {
                return;
            }
        }
    }
}

//! Real guests under KVM: how they start, every way in which they end, and devices over PCI.
//!
//! Where KVM is missing or emulates guest kernels, each test says so on standard error and passes without having tested
//! anything; with `VMM_TEST_REQUIRE_KVM` set it fails instead. `tests/lab/kvm` provides a machine where it is real.

// In its helpers, too, failing is what a test does.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs::File;
use std::io::{Read, Seek, Write};

use devices::blk::{Access, Blk, Disk};
use devices::rng::Rng;
use support::guest::Program;
use support::{UP, boot_kvm, config, kvm_is_real, scenario};
use vmm::{Engine, Exit, Kernel, Mib, Vm, VmConfig};

/// The goal of the whole project, with every device; here there are two.
const MAX_EXITS_TO_INIT: u64 = 2_500;
const DISK_SIZE: u64 = 1 << 20;

#[test]
fn power_off_is_a_shutdown() {
    if !kvm_is_real() {
        return;
    }
    scenario::power_off_is_a_shutdown(Engine::Kvm);
}

#[test]
fn reboot_is_a_reset() {
    if !kvm_is_real() {
        return;
    }
    scenario::reboot_is_a_reset(Engine::Kvm);
}

#[test]
fn panic_is_told_in_the_kernels_words() {
    if !kvm_is_real() {
        return;
    }
    let (config, _console) = config(&Program::default().panic());
    let Exit::Panicked { message } = boot_kvm(config).wait().unwrap() else { panic!("no panic") };
    assert!(message.starts_with("Attempted to kill init!"), "{message}");
}

#[test]
fn triple_fault_is_explained() {
    if !kvm_is_real() {
        return;
    }
    let kernel = Kernel::from_bytes(&kernel_of(&[0x0f, 0x0b])).unwrap(); // ud2, and nobody to take the exception
    let Exit::Crashed { reason } = boot_kvm(VmConfig::new(kernel)).wait().unwrap() else { panic!("no crash") };
    assert!(reason.contains("triple fault"), "{reason}");
}

#[test]
fn kill_from_another_thread_ends_the_wait() {
    if !kvm_is_real() {
        return;
    }
    // A guest that never leaves by itself: jmp to itself.
    let kernel = Kernel::from_bytes(&kernel_of(&[0xeb, 0xfe])).unwrap();
    let running = boot_kvm(VmConfig { cpus: 2, ..VmConfig::new(kernel) });
    let handle = running.handle();
    let killer = std::thread::spawn(move || {
        handle.kill();
        handle.kill();
    });
    assert_eq!(running.wait().unwrap(), Exit::Killed);
    killer.join().unwrap();
}

#[test]
fn two_vms_live_in_one_process() {
    if !kvm_is_real() {
        return;
    }
    scenario::two_vms_live_in_one_process(Engine::Kvm);
}

#[test]
fn every_cpu_comes_up() {
    if !kvm_is_real() {
        return;
    }
    let (config, mut console) = config(&Program::default().power_off());
    let running = boot_kvm(VmConfig { cpus: 4, cmdline: "loglevel=7".into(), ..config });
    console.wait_for("Brought up 1 node, 4 CPUs");
    assert_eq!(running.wait().unwrap(), Exit::Shutdown);
}

#[test]
fn memory_past_the_pci_hole_is_used() {
    if !kvm_is_real() {
        return;
    }
    let (config, _console) = config(&Program::default().power_off());
    assert_eq!(boot_kvm(VmConfig { memory: Mib(3200), ..config }).wait().unwrap(), Exit::Shutdown);
}

#[test]
fn entropy_comes_by_message_signalled_interrupts() {
    if !kvm_is_real() {
        return;
    }
    let (config, mut console) =
        config(&Program::default().show("/dev/hwrng", 64).print("\nrandom bytes came\n").power_off());
    let vm = Vm::builder(config).engine(Engine::Kvm).device(Rng::new()).build();
    let running = vm.unwrap().boot().unwrap();
    console.wait_for("random bytes came");
    assert_eq!(running.wait().unwrap(), Exit::Shutdown);
}

#[test]
fn disk_is_written_and_start_up_stays_within_its_exits() {
    if !kvm_is_real() {
        return;
    }
    let mut image = tempfile::tempfile().unwrap();
    image.set_len(DISK_SIZE).unwrap();
    let disk = Disk::new(image.try_clone().unwrap(), Access::ReadWrite).unwrap();
    let program = Program::default().print(UP).write_to("/dev/vda", "from the guest");
    let (config, mut console) = config(&program.sync().idle());
    let vm = Vm::builder(config).engine(Engine::Kvm).device(Blk::new(disk, "disk")).device(Rng::new()).build();
    let running = vm.unwrap().boot().unwrap();
    let handle = running.handle();
    console.wait_for(UP.trim());
    let exits = handle.counts().unwrap().total();
    assert!(exits <= MAX_EXITS_TO_INIT, "{exits} exits to init");
    wait_for_content(&mut image, b"from the guest");
    drop(running);
}

#[test]
fn stock_distribution_kernel_boots() {
    let Some(kernel) = std::env::var_os("VMM_TEST_BZIMAGE").filter(|_| kvm_is_real()) else { return };
    let (config, mut console) = config(&Program::default().print(UP).power_off());
    let running = boot_kvm(VmConfig { kernel: Kernel::open(kernel).unwrap(), ..config });
    console.wait_for(UP.trim());
    assert_eq!(running.wait().unwrap(), Exit::Shutdown);
}

/// Waits until `file` begins with `expected`; the time limit is the test run's.
fn wait_for_content(file: &mut File, expected: &[u8]) {
    let mut found = vec![0; expected.len()];
    while found != expected {
        std::thread::yield_now();
        file.rewind().unwrap();
        file.read_exact(&mut found).unwrap();
    }
}

/// A PVH kernel of a few bytes of code.
fn kernel_of(code: &[u8]) -> Vec<u8> {
    const AT: u64 = 1 << 20;
    const CODE: u64 = 0x100;
    const NOTE: u64 = 0x80 + 56;
    let mut elf = Vec::new();
    elf.write_all(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0").unwrap();
    elf.extend([AT, 64, 0].map(u64::to_le_bytes).concat());
    elf.extend([0u16, 0, 64, 56, 2, 0, 0, 0].map(u16::to_le_bytes).concat());
    for (kind, offset, size) in [(1u32, CODE, code.len() as u64), (4, NOTE, 20)] {
        elf.extend([kind, 7].map(u32::to_le_bytes).concat());
        elf.extend([offset, AT, AT, size, size, 1].map(u64::to_le_bytes).concat());
    }
    elf.resize(usize::try_from(NOTE).unwrap(), 0);
    elf.extend([4u32, 4, 18].map(u32::to_le_bytes).concat());
    elf.extend(b"Xen\0");
    elf.extend(u32::try_from(AT).unwrap().to_le_bytes());
    elf.resize(usize::try_from(CODE).unwrap(), 0);
    elf.extend(code);
    elf
}

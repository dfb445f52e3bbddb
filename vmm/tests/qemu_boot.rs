//! Real guests under QEMU: how they start and every way in which they end. Needs qemu-system-x86_64 in PATH.

// `boot_with` is no test by itself, and yet fails as one.
#![allow(clippy::unwrap_used)]

mod support;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use devices::balloon::Balloon;
use devices::blk::{self, Blk, Disk};
use devices::console::Console;
use devices::fs::{self, Fs, Share};
use devices::net::{Net, NetConfig};
use devices::rng::Rng;
use devices::vsock::Vsock;
use support::guest::Program;
use support::{UP, boot_qemu, config, scenario};
use virtio::frame::FrameLink;
use virtio::test_kit::FakeStack;
use vmm::{Device, Engine, Exit, Kernel, RunningVm, Vm, VmConfig};

/// Boots with one device.
fn boot_with(config: VmConfig, device: impl Into<Device>) -> RunningVm {
    Vm::builder(config).engine(Engine::Qemu).device(device).build().and_then(Vm::boot).unwrap()
}

#[test]
fn power_off_is_a_shutdown() {
    scenario::power_off_is_a_shutdown(Engine::Qemu);
}

#[test]
fn reboot_is_a_reset() {
    scenario::reboot_is_a_reset(Engine::Qemu);
}

#[test]
fn panic_is_told_in_the_kernels_words() {
    let (config, _console) = config(&Program::default().panic());
    let running = boot_qemu(config);
    let handle = running.handle();
    let Exit::Panicked { message } = running.wait().unwrap() else { panic!("no panic") };
    assert!(message.starts_with("Attempted to kill init!"), "{message}");
    assert!(handle.console().last_lines(50).iter().any(|line| line.contains(&message)));
}

#[test]
fn kill_from_another_thread_ends_the_wait() {
    let (config, mut console) = config(&Program::default().print(UP).idle());
    let running = boot_qemu(config);
    let handle = running.handle();
    let killer = std::thread::spawn(move || {
        console.wait_for(UP.trim());
        handle.kill();
        handle.kill();
    });
    assert_eq!(running.wait().unwrap(), Exit::Killed);
    killer.join().unwrap();
}

#[test]
fn two_vms_live_in_one_process() {
    scenario::two_vms_live_in_one_process(Engine::Qemu);
}

#[test]
fn sleepers_wake() {
    // Not a matter of course: this board has one clock that can wake anybody, and kernel parameters that lose it.
    let (config, _console) = config(&Program::default().sleep_ms(30).power_off());
    assert_eq!(boot_qemu(VmConfig { cpus: 2, ..config }).wait().unwrap(), Exit::Shutdown);
}

#[test]
fn entropy_comes_from_our_device() {
    let (config, mut console) = config(&Program::default().show("/dev/hwrng", 8).print("\nrandom bytes came\n").idle());
    let _running = boot_with(config, Rng::new());
    console.wait_for("random bytes came");
}

#[test]
fn disk_is_read_through_our_device() {
    let mut image = tempfile::tempfile().unwrap();
    image.write_all(&[&b"first sector\n"[..], &[0; 4096]].concat()).unwrap();
    let disk = Blk::new(Disk::new(image, blk::Access::ReadOnly).unwrap(), "root");
    let (config, mut console) = config(&Program::default().show("/dev/vda", 13).idle());
    let _running = boot_with(config, disk);
    console.wait_for("first sector");
}

#[test]
fn shared_directory_is_served_by_our_device() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("note"), "from the host\n").unwrap();
    let share = Share::open(directory.path(), fs::Access::ReadOnly).unwrap();
    let (config, mut console) = config(&Program::default().mount(fs::TAG).show("/mnt/0/note", 14).idle());
    let _running = boot_with(config, Fs::new(vec![share]).unwrap());
    console.wait_for("from the host");
}

#[test]
fn guest_reaches_a_port_of_the_host() {
    const PORT: u32 = 1024;
    let (vsock, host) = Vsock::new(3).unwrap();
    let listener = host.listen(PORT).unwrap();
    let (config, _console) = config(&Program::default().send_to_host(PORT, "hello host").idle());
    let _running = boot_with(config, vsock);
    let mut heard = [0; 10];
    listener.accept().unwrap().read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"hello host");
}

#[test]
fn balloon_and_console_are_found_by_the_guest() {
    let (host, mut far) = UnixStream::pair().unwrap();
    let (config, mut boot_console) = config(&Program::default().write_to("/dev/hvc0", "hello host\n").print(UP).idle());
    let vm = Vm::builder(config)
        .engine(Engine::Qemu)
        .device(Console::new(host.into()).unwrap().0)
        .device(Balloon::new().unwrap().0)
        .build();
    let _running = vm.unwrap().boot().unwrap();
    boot_console.wait_for(UP.trim());
    let mut heard = [0; 10];
    far.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"hello host");
}

#[test]
fn network_card_sends_frames_to_our_link() {
    let FrameLink { device, stack } = FrameLink::new().unwrap();
    let stack = FakeStack::start(stack);
    let (config, mut console) = config(&Program::default().bring_up("eth0").print(UP).idle());
    let _running = boot_with(config, Net::new(device, NetConfig::default()));
    console.wait_for(UP.trim());
    let (_, frame) = stack.receive().unwrap();
    assert!(frame.len() >= 14);
    // From the card's address, an IPv6 packet: the guest announces itself.
    assert_eq!(&frame[6..14], &[0x02, 0x76, 0x6d, 0x6d, 0x00, 0x02, 0x86, 0xdd]);
}

#[test]
fn qemu_that_refuses_to_start_says_why() {
    // Passes for a kernel as far as we look; QEMU looks further.
    let mut image = vec![0; 1024];
    image[0x202..0x206].copy_from_slice(b"HdrS");
    let running = boot_qemu(VmConfig::new(Kernel::from_bytes(&image).unwrap()));
    let Exit::Crashed { reason } = running.wait().unwrap() else { panic!("it ran") };
    assert!(reason.contains("it said:"), "{reason}");
}

#[test]
fn qemu_that_is_not_there_is_an_error_before_anything_starts() {
    let (config, _console) = config(&Program::default().panic());
    let vm = Vm::builder(config).engine(Engine::Qemu).qemu("/nonexistent/qemu").build().and_then(Vm::boot);
    assert!(vm.unwrap_err().to_string().contains("Starting QEMU"));
}

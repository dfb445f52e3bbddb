//! Every kind of device in one VM under KVM: found by the guest over PCI, served, and within the budget of exits.

// In its helpers, too, failing is what a test does.
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
use support::{UP, config, kvm_is_real};
use virtio::frame::FrameLink;
use vmm::{Engine, Vm};

const PORT: u32 = 1024;
const SECTOR: usize = 512;
/// The project's goal for a start with everything plugged in (Firecracker: 3,944).
const MAX_EXITS_TO_INIT: u64 = 2_500;

#[test]
fn a_vm_with_every_device_serves_all_of_them() {
    if !kvm_is_real() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("note"), "from the share\n").unwrap();
    let (vsock, host) = Vsock::new(3).unwrap();
    let listener = host.listen(PORT).unwrap();
    let (near, mut far) = UnixStream::pair().unwrap();
    let FrameLink { device: card, stack: _stack } = FrameLink::new().unwrap();
    // The socket has to be the program's first descriptor.
    let program = Program::default()
        .print(UP)
        .send_to_host(PORT, "by vsock")
        .write_to("/dev/hvc0", "by console\n")
        .bring_up("eth0")
        .mount(fs::TAG)
        .show("/mnt/0/note", 15)
        .show("/dev/vda", 14);
    let (config, mut console) = config(&program.idle());
    let share = Share::open(directory.path(), fs::Access::ReadOnly).unwrap();
    let vm = Vm::builder(config)
        .engine(Engine::Kvm)
        .device(disk("root", "from the disk\n"))
        .device(disk("overlay", ""))
        .device(Rng::new())
        .device(Fs::new(vec![share]).unwrap())
        .device(vsock)
        .device(Net::new(card, NetConfig::default()))
        .device(Console::new(near.into()).unwrap().0)
        .device(Balloon::new().unwrap().0);
    let running = vm.build().unwrap().boot().unwrap();

    console.wait_for(UP.trim());
    let counts = running.handle().counts().unwrap();
    assert!(counts.total() <= MAX_EXITS_TO_INIT, "{counts:?}");
    let mut heard = [0; 8];
    listener.accept().unwrap().read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"by vsock");
    let mut heard = [0; 10];
    far.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"by console");
    console.wait_for("from the share");
    console.wait_for("from the disk");
}

fn disk(label: &str, content: &str) -> Blk {
    let mut image = tempfile::tempfile().unwrap();
    image.write_all(content.as_bytes()).unwrap();
    image.set_len(8 * SECTOR as u64).unwrap();
    Blk::new(Disk::new(image, blk::Access::ReadWrite).unwrap(), label)
}

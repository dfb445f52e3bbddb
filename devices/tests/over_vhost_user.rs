//! Every device keeps its contract behind a vhost-user connection too.

use std::fs::File;
use std::os::unix::net::UnixStream;

use devices::balloon::Balloon;
use devices::blk::{Access, Blk, Disk};
use devices::console::Console;
use devices::fs::{Fs, Share};
use devices::rng::Rng;
use devices::vsock::Vsock;
use vhost_user_server::test_kit::Socket;
use virtio::test_kit::Subject;

fn rng_device() -> Subject {
    Subject::new(Rng::new(), &[0])
}

fn image() -> File {
    let image = tempfile::tempfile().expect("the host gives what a device needs");
    image.set_len(1 << 20).expect("the host gives what a device needs");
    image
}

fn blk_device() -> Subject {
    Subject::new(
        Blk::new(Disk::new(image(), Access::ReadWrite).expect("the host gives what a device needs"), "disk"),
        &[0],
    )
}

fn console_device() -> Subject {
    let (host, far) = UnixStream::pair().expect("the host gives what a device needs");
    let (console, handle) = Console::new(far.into()).expect("the host gives what a device needs");
    Subject::new(console, &[1]).keeping((handle, host))
}

fn balloon_device() -> Subject {
    let (balloon, handle) = Balloon::new().expect("the host gives what a device needs");
    Subject::new(balloon, &[0, 1, 3, 4]).keeping(handle)
}

fn fs_device() -> Subject {
    let directory = tempfile::tempdir().expect("the host gives what a device needs");
    let share = Share::open(directory.path(), devices::fs::Access::ReadWrite);
    let share = share.expect("the host gives what a device needs");
    Subject::new(Fs::new(vec![share]).expect("the host gives what a device needs"), &[0, 1]).keeping(directory)
}

fn vsock_device() -> Subject {
    let (vsock, host) = Vsock::new(3).expect("the host gives what a device needs");
    Subject::new(vsock, &[1]).keeping(host)
}

mod rng {
    virtio::contract_suite!(super::rng_device, over super::Socket);
}

mod blk {
    virtio::contract_suite!(super::blk_device, over super::Socket);
}

mod console {
    virtio::contract_suite!(super::console_device, over super::Socket);
}

mod balloon {
    virtio::contract_suite!(super::balloon_device, over super::Socket);
}

mod vsock {
    virtio::contract_suite!(super::vsock_device, over super::Socket);
}

mod fs {
    virtio::contract_suite!(super::fs_device, over super::Socket);
}

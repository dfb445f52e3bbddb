//! The contract over a real connection, and what a monitor may do besides.

use std::io::{Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::sync::Arc;

use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VringConfigData};
use virtio::test_kit::{Buffer, Button, DATA, DriverQueue, Echo, Exchange, FaultRecorder, PATIENCE, Transport, ram};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::Server;
use crate::test_kit::Socket;

virtio::contract_suite!(Echo::subject, over Socket);

struct Bench {
    socket: Socket,
    queues: Vec<DriverQueue>,
    button: Button,
}

fn idle() -> Bench {
    let ram = ram();
    let (device, button) = Echo::new();
    let queues = vec![DriverQueue::new(&ram, 0, 256), DriverQueue::new(&ram, 1, 64)];
    Bench { socket: Socket::serve(Box::new(device), &ram), queues, button }
}

fn started() -> Bench {
    let mut bench = idle();
    bench.socket.start(0, &bench.queues);
    bench
}

fn one_byte() -> [Buffer; 1] {
    [Buffer::writable(DATA, 1)]
}

#[test]
fn watched_descriptor_wakes_the_device() {
    let Bench { socket, mut queues, mut button, .. } = started();
    let head = queues[1].send(&one_byte());
    button.write_all(b".").unwrap();
    let used = socket.next_used(1, &mut queues[1]);
    assert_eq!((used.head, used.length), (head, 1));
    assert_eq!(queues[1].read(DATA, 1), b"!");
}

#[test]
fn configuration_is_read_from_any_offset() {
    let mut bench = idle();
    assert_eq!(bench.socket.config(0, 6), [1, 2, 3, 4, 0, 0]);
    assert_eq!(bench.socket.config(3, 2), [4, 0]);
}

#[test]
fn stopped_ring_says_how_far_it_got_and_goes_on_from_there() {
    let mut bench = started();
    for _ in 0..3 {
        bench.socket.exchange(0, &mut bench.queues[0], &one_byte());
    }
    assert_eq!(bench.socket.frontend().get_vring_base(0).unwrap(), 3);
    let head = bench.queues[0].send(&one_byte());
    let kick = EventFd::new(EFD_NONBLOCK).unwrap();
    bench.socket.frontend().set_vring_kick(0, &kick).unwrap();
    assert_eq!(bench.socket.next_used(0, &mut bench.queues[0]).head, head);
}

#[test]
fn disabled_ring_is_served_when_it_is_enabled() {
    let mut bench = started();
    bench.socket.frontend().set_vring_enable(0, false).unwrap();
    let head = bench.queues[0].send(&one_byte());
    bench.socket.kick(0);
    // Answered after the kick could have been served.
    bench.socket.frontend().set_vring_enable(1, false).unwrap();
    assert_eq!(bench.queues[0].device_used_index(), 0);
    bench.socket.frontend().set_vring_enable(0, true).unwrap();
    assert_eq!(bench.socket.next_used(0, &mut bench.queues[0]).head, head);
}

#[test]
fn new_memory_table_does_not_disturb_a_running_device() {
    let mut bench = started();
    bench.socket.exchange(0, &mut bench.queues[0], &one_byte());
    bench.socket.share_memory();
    bench.socket.exchange(0, &mut bench.queues[0], &one_byte());
    assert_eq!(bench.socket.faults(), [""; 0]);
}

#[test]
fn broken_ring_is_reported_on_the_error_line() {
    let mut bench = started();
    bench.queues[0].jump(u16::MAX);
    bench.socket.kick(0);
    assert!(virtio::test_kit::ready_within(bench.socket.error_line(0), PATIENCE));
    // The session itself lives on.
    assert_eq!(bench.socket.config(0, 1), [1]);
}

#[test]
fn features_nobody_offered_are_left_out_without_a_refusal() {
    let mut bench = idle();
    bench.socket.start(1 << 35 | 1 << 40, &bench.queues);
    bench.socket.exchange(0, &mut bench.queues[0], &one_byte());
}

#[test]
fn impossible_rings_are_refused_and_the_next_good_one_is_taken() {
    let mut bench = idle();
    let outside = VringConfigData {
        queue_max_size: 256,
        queue_size: 256,
        flags: 0,
        desc_table_addr: 0x1000,
        used_ring_addr: 0x2000,
        avail_ring_addr: 0x3000,
        log_addr: None,
    };
    let kick = EventFd::new(EFD_NONBLOCK).unwrap();
    let frontend = bench.socket.frontend();
    for size in [0, 3, 2048, u16::MAX] {
        assert!(frontend.set_vring_num(0, size).is_err(), "size {size}");
    }
    frontend.set_vring_addr(0, &outside).unwrap();
    frontend.set_vring_kick(0, &kick).unwrap();
    assert!(frontend.set_vring_enable(0, true).is_err());
    bench.socket.start(0, &bench.queues);
    bench.socket.exchange(0, &mut bench.queues[0], &one_byte());
}

#[test]
fn monitor_that_hangs_up_ends_the_device() {
    let Bench { socket, mut button, .. } = started();
    let Socket { frontend, server, .. } = socket;
    drop(frontend);
    // The device's end of the doorbell closes when the device is dropped.
    assert_eq!(button.read(&mut [0]).unwrap(), 0);
    drop(server);
}

#[test]
fn dropped_server_ends_the_device_and_the_connection() {
    let (device, mut button) = Echo::new();
    let (server, end) = Server::start(Box::new(device), Arc::new(FaultRecorder::default())).unwrap();
    drop(server);
    assert_eq!(button.read(&mut [0]).unwrap(), 0);
    assert_eq!(UnixStream::from(end).read(&mut [0]).unwrap(), 0);
}

#[test]
fn two_devices_of_one_name_do_not_meet() {
    let (one, mut other) = (started(), started());
    drop(one.socket);
    other.socket.exchange(0, &mut other.queues[0], &one_byte());
}

#[test]
fn garbage_ends_the_connection_and_nothing_else() {
    let (device, mut button) = Echo::new();
    let (_server, end) = Server::start(Box::new(device), Arc::new(FaultRecorder::default())).unwrap();
    let mut end = UnixStream::from(end);
    end.write_all(&[0xff; 4096]).unwrap();
    assert_eq!(button.read(&mut [0]).unwrap(), 0);
}

#[test]
fn monitor_may_connect_by_itself_and_enable_rings_before_it_passes_features() {
    let (device, _button) = Echo::new();
    let (server, name) = Server::start_listening(Box::new(device), Arc::new(FaultRecorder::default())).unwrap();
    let mut stream = UnixStream::connect_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    let enable_ring_0: [u32; 5] = [18, 1, 8, 0, 1];
    stream.write_all(&enable_ring_0.map(u32::to_ne_bytes).concat()).unwrap();

    let frontend = Frontend::from_stream(stream, 2);
    frontend.set_owner().unwrap();
    assert_ne!(frontend.get_features().unwrap(), 0);
    drop(server);
    assert!(frontend.get_features().is_err());
}

#[test]
fn server_that_nobody_connects_to_ends() {
    let (device, _button) = Echo::new();
    let (server, name) = Server::start_listening(Box::new(device), Arc::new(FaultRecorder::default())).unwrap();
    drop(server);
    assert!(UnixStream::connect_addr(&SocketAddr::from_abstract_name(&name).unwrap()).is_err());
}

//! The worker's promises, kept with a device that answers everything, and with one that does not behave.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use super::*;
use crate::test_kit::{
    Buffer, DATA, DriverQueue, Echo, Exchange, FaultRecorder, InterruptRecorder, Local, PATIENCE, Transport, ram,
    ready_within,
};

crate::contract_suite!(Echo::subject);

fn served((device, button): (Echo, UnixStream)) -> (Local, Vec<DriverQueue>, UnixStream) {
    let ram = ram();
    let queues = vec![DriverQueue::new(&ram, 0, 256), DriverQueue::new(&ram, 1, 64)];
    let mut local = Local::serve(Box::new(device), &ram);
    local.start(0, &queues);
    (local, queues, button)
}

#[test]
fn watched_descriptor_wakes_the_device() {
    let (local, mut queues, mut button) = served(Echo::new());
    let driver = &mut queues[1];
    let head = driver.send(&[Buffer::writable(DATA, 1)]);
    button.write_all(b"!").unwrap();
    assert_eq!(local.next_used(1, driver).head, head);
    assert_eq!(driver.read(DATA, 1), b"!");
}

#[test]
fn requests_made_available_before_the_start_are_served_without_a_kick() {
    let ram = ram();
    let mut queues = vec![DriverQueue::new(&ram, 0, 256), DriverQueue::new(&ram, 1, 64)];
    let head = queues[0].send(&[Buffer::writable(DATA, 1)]);
    let (device, _button) = Echo::new();
    let mut local = Local::serve(Box::new(device), &ram);
    local.start(0, &queues);
    assert_eq!(local.next_used(0, &mut queues[0]).head, head);
}

#[test]
fn driver_that_wants_no_interrupts_gets_none() {
    const NO_INTERRUPT: [u8; 2] = [1, 0];
    let (mut local, mut queues, _button) = served(Echo::new());
    let driver = &mut queues[0];
    let [_, avail, _] = driver.addresses();
    driver.write(avail, &NO_INTERRUPT);
    driver.send(&[Buffer::writable(DATA, 1)]);
    local.kick(0);
    let done = std::iter::from_fn(|| Some(driver.used())).find_map(|used| used);
    assert!(done.is_some());
    // Answered after the turn is over and its interrupts are sent.
    local.reset();
    assert!(local.interrupts().used_fd(0).read().is_err());
}

#[test]
fn panicking_device_is_reported_and_its_worker_ends() {
    let (local, mut queues, _button) = served(Echo::panicking());
    queues[0].send(&[Buffer::writable(DATA, 1)]);
    local.kick(0);
    assert!(local.faulted(PATIENCE));
    assert_eq!(local.faults().len(), 1);
}

#[derive(Debug)]
struct Unconfinable(FaultRecorder);

impl Supervisor for Unconfinable {
    fn confine(&self, _thread: ThreadKind) -> io::Result<()> {
        Err(io::ErrorKind::PermissionDenied.into())
    }

    fn faulted(&self, fault: &Fault) {
        self.0.faulted(fault);
    }
}

#[test]
fn device_that_cannot_be_confined_is_never_served() {
    let supervisor = Arc::new(Unconfinable(FaultRecorder::default()));
    let worker = Worker::spawn(Box::new(Echo::new().0), supervisor.clone()).unwrap();
    assert!(ready_within(supervisor.0.bell(), PATIENCE));
    assert!(worker.reset().is_err());
}

#[test]
fn worker_reads_each_kick_once() {
    let (local, mut queues, _button) = served(Echo::new());
    for _ in 0..1000 {
        local.exchange(0, &mut queues[0], &[Buffer::writable(DATA, 1)]);
    }
    assert_eq!(local.faults(), [""; 0]);
}

#[test]
fn stopped_queue_keeps_its_place_and_is_left_alone() {
    let ram = ram();
    let (device, _button) = Echo::new();
    let faults = Arc::new(FaultRecorder::default());
    let worker = Worker::spawn(Box::new(device), faults.clone()).unwrap();
    let interrupts = Arc::new(InterruptRecorder::new(2));
    let rings = LocalRings::new(ram.clone(), vec![Queue::default(), Queue::default()], interrupts.clone());
    worker.start(Activation { features: 0, rings, kicks: Vec::new() }).unwrap();
    let mut driver = DriverQueue::new(&ram, 0, 256);
    let kick = EventFd::new(EFD_NONBLOCK).unwrap();
    driver.send(&[Buffer::writable(DATA, 1)]);
    worker.start_queue(0, driver.device_side(false), kick.try_clone().unwrap()).unwrap();
    assert!(ready_within(interrupts.used_fd(0), PATIENCE));

    let queue = worker.stop_queue(0).unwrap().unwrap();
    driver.send(&[Buffer::writable(DATA, 1)]);
    kick.write(1).unwrap();

    assert_eq!(virtio_queue::QueueT::next_avail(&queue), 1);
    assert!(worker.stop_queue(0).unwrap().is_none());
    assert_eq!(driver.device_used_index(), 1);
    worker.start_queue(0, queue, kick).unwrap();
    worker.stop_queue(0).unwrap();
    assert_eq!(driver.device_used_index(), 2);
    assert_eq!(faults.texts(), [""; 0]);
}

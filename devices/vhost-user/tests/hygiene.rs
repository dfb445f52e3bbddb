//! Servers come and go without a trace. A test binary of its own: other tests would disturb the counts.

use std::fs;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use vhost_user_server::Server;
use vhost_user_server::test_kit::Socket;
use virtio::test_kit::{Buffer, DATA, DriverQueue, Echo, Exchange, FaultRecorder, Transport, ram};

fn descriptors_and_threads() -> (usize, usize) {
    let count = |directory| fs::read_dir(directory).expect("procfs").count();
    (count("/proc/self/fd"), count("/proc/self/task"))
}

fn serve_once() {
    let ram = ram();
    let (device, _button) = Echo::new();
    let mut socket = Socket::serve(Box::new(device), &ram);
    let mut queues = [DriverQueue::new(&ram, 0, 256), DriverQueue::new(&ram, 1, 64)];
    socket.start(0, &queues);
    socket.exchange(0, &mut queues[0], &[Buffer::writable(DATA, 1)]);
}

#[test]
fn twenty_servers_leave_no_descriptor_and_no_thread() {
    serve_once();
    let before = descriptors_and_threads();
    for _ in 0..20 {
        serve_once();
    }
    assert_eq!(descriptors_and_threads(), before);

    // A monitor that never says a word does not delay the end; best of some tries, as a busy host delays any thread.
    let quickest = (0..5).map(|_| time_to_drop()).min().unwrap();
    assert!(quickest < Duration::from_millis(100), "{quickest:?}");
    assert_eq!(descriptors_and_threads(), before);
}

fn time_to_drop() -> Duration {
    let (device, _button) = Echo::new();
    let (server, end) = Server::start(Box::new(device), Arc::new(FaultRecorder::default())).expect("threads");
    let _end = UnixStream::from(end);
    let begin = Instant::now();
    drop(server);
    begin.elapsed()
}

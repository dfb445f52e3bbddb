//! Whatever a monitor sends: the session ends or goes on, and always comes to an end when it is dropped.
#![no_main]

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use vhost_user_server::Server;
use virtio::test_kit::{Echo, FaultRecorder};

fuzz_target!(|messages: &[u8]| {
    let (device, _button) = Echo::new();
    let (server, end) = Server::start(Box::new(device), Arc::new(FaultRecorder::default())).expect("threads");
    let mut monitor = UnixStream::from(end);
    // Fails when the session ended at an earlier message.
    let _ = monitor.write_all(messages);
    drop(monitor);
    drop(server);
});

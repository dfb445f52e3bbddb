//! The console against any driver, with a host that types and never reads.
#![no_main]

use std::io::Write;
use std::os::unix::net::UnixStream;

use devices::console::Console;
use libfuzzer_sys::fuzz_target;
use virtio::test_kit::{Subject, play};

fuzz_target!(|script: &[u8]| {
    let (mut host, far) = UnixStream::pair().expect("a socket pair");
    host.write_all(b"typed before anything else\n").expect("an empty socket takes it");
    let (console, handle) = Console::new(far.into()).expect("a console");
    play(Subject::new(console, &[1]).keeping((handle, host)), script);
});

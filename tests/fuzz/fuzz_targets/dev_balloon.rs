//! The balloon against any driver, with a host that wants memory.
#![no_main]

use devices::balloon::Balloon;
use libfuzzer_sys::fuzz_target;
use virtio::test_kit::{Subject, play};

fuzz_target!(|script: &[u8]| {
    let (balloon, handle) = Balloon::new().expect("a balloon");
    handle.set_target(1 << 20).expect("an eventfd takes a count");
    play(Subject::new(balloon, &[0, 1, 3, 4]).keeping(handle), script);
});

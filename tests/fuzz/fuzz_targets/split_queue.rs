//! The rings and the test device: nothing but the queue code is interesting here.
#![no_main]

use libfuzzer_sys::fuzz_target;
use virtio::test_kit::{Echo, play};

fuzz_target!(|script: &[u8]| play(Echo::subject(), script));

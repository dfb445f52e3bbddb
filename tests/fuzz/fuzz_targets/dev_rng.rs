//! The entropy device against any driver.
#![no_main]

use devices::rng::Rng;
use libfuzzer_sys::fuzz_target;
use virtio::test_kit::{Subject, play};

fuzz_target!(|script: &[u8]| play(Subject::new(Rng::new(), &[0]), script));

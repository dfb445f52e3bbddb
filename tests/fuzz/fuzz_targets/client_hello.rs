//! The first bytes of a stream that rests on a name, cut into pieces.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| netstack::fuzz::client_hello(bytes));

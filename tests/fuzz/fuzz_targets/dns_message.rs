//! DNS messages of a guest and of a resolver.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| netstack::fuzz::dns_message(bytes));

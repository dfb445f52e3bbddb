//! PID 1 of the guest.
#![forbid(unsafe_code)]
fn main() {}

//! The `vmm` command.
#![forbid(unsafe_code)]
fn main() {}

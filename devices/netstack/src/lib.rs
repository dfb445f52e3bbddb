//! Userspace gateway: decides every flow, resolves every name, relays bytes.
#![forbid(unsafe_code)]

//! Virtio devices, one folder each, on the contract of the `virtio` package.
#![forbid(unsafe_code)]

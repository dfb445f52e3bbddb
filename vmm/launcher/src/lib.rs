//! Projects, images and sessions on top of the `vmm` library.
#![forbid(unsafe_code)]

//! The guest's console, `hvc0` (virtio 1.2, section 5.3), on one bidirectional host descriptor.
//!
//! The host side is a socket or a terminal, never a plain file. Neither direction makes the host grow: output nobody
//! reads is kept up to [`MAX_PENDING`] bytes and dropped beyond (waiting instead would hang the guest's kernel, which
//! prints with a spinning CPU), and input is left in the host's own buffer until the guest has room for it.

mod config;
mod device;
mod port;
#[cfg(test)]
mod tests;

pub use config::{ConsoleHandle, WindowSize};
pub use device::Console;
pub use port::MAX_PENDING;

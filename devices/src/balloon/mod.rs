//! Memory the guest does not need (virtio 1.2, section 5.5) goes back to the host.
//!
//! Two ways: the host sets a target and the guest hands over pages until it is reached; and, without any target, the
//! guest reports pages as they become free. Both end in [`virtio::release`]; such pages read as zeroes when the guest
//! takes them back. Which pages is the guest's word, and it can only hurt itself with it: nothing outside guest RAM is
//! ever released, and the work for one request is bounded.

mod config;
mod device;
mod pages;
mod statistics;
#[cfg(test)]
mod tests;

pub use config::BalloonHandle;
pub use device::Balloon;
pub use statistics::Statistics;

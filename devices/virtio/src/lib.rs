//! The contract between virtio devices and the transports that serve them.
//!
//! A device is a passive state machine ([`VirtioDevice`]); a transport (PCI registers in the kvm engine, a vhost-user
//! socket in the qemu engine, in-memory rings in tests) owns queues, notifications and the worker thread. Callers are
//! the `devices` package on one side and `vmm` and `vhost-user-server` on the other. Everything that comes out of a
//! ring is guest-controlled and is not trusted here.

mod device;
mod fault;
pub mod frame;
mod local;
mod request;
mod rings;

pub use device::{ConfigSpace, DeviceInfo, NoConfig, VirtioDevice, Watch};
pub use fault::Fault;
pub use local::{Interrupt, LocalRings, serve_event, serve_queue};
pub use request::Request;
pub use rings::Rings;

/// Guest RAM as both transports hold it.
pub type Ram = vm_memory::GuestMemoryAtomic<vm_memory::GuestMemoryMmap>;
/// A snapshot of [`Ram`] that stays valid while a request is being served.
pub type RamGuard = vm_memory::GuestMemoryLoadGuard<vm_memory::GuestMemoryMmap>;

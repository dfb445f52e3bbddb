//! The contract between virtio devices and the transports that serve them.
//!
//! A device is a passive state machine ([`VirtioDevice`]); a transport (PCI registers in the kvm engine, a vhost-user
//! socket in the qemu engine, in-memory rings in tests) owns queues, notifications and the worker thread. Callers are
//! the `devices` package on one side and `vmm` and `vhost-user-server` on the other. Everything that comes out of a
//! ring is guest-controlled and is not trusted here.

mod device;
mod eventfd;
mod fault;
mod file_handle;
pub mod frame;
mod local;
mod peek;
mod poller;
mod rate_limit;
mod reader;
mod release;
mod request;
mod ring_set;
mod rings;
mod segment;
#[cfg(any(test, feature = "test-kit"))]
pub mod test_kit;
mod turn;
mod worker;
mod writer;

pub use device::{ConfigSpace, DeviceInfo, NoConfig, Subtree, VirtioDevice, Watch, read_bytes};
pub use eventfd::eventfd_from;
pub use fault::Fault;
pub use file_handle::file_handle;
pub use local::LocalRings;
pub use peek::set_peek_offset;
pub use rate_limit::RateLimit;
pub use reader::Reader;
pub use release::release;
pub use request::{MAX_CHAIN, Malformed, Request};
pub use ring_set::{Interrupt, Queues, RingSet, serve_event, serve_pending, serve_queue};
pub use rings::Rings;
pub use worker::{Activation, Supervisor, ThreadKind, Worker};
pub use writer::Writer;

/// Guest RAM as both transports hold it.
pub type Ram = vm_memory::GuestMemoryAtomic<vm_memory::GuestMemoryMmap>;
/// A snapshot of [`Ram`] that stays valid while a request is being served.
pub type RamGuard = vm_memory::GuestMemoryLoadGuard<vm_memory::GuestMemoryMmap>;

//! What the transport needs of the engine below it.

use std::fmt::Debug;
use std::io;

use vmm_sys_util::eventfd::EventFd;

/// A message-signalled interrupt: writing `data` to `address` is what raises it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Message {
    pub(crate) address: u64,
    pub(crate) data: u32,
}

/// Implemented by the kvm engine, and by a recorder in tests.
pub(crate) trait Hypervisor: Send + Sync + Debug {
    /// Lets guest writes to `address` signal `kick` without leaving the host's kernel.
    fn add_doorbell(&self, address: u64, kick: &EventFd) -> io::Result<()>;
    /// Undoes [`Hypervisor::add_doorbell`].
    fn remove_doorbell(&self, address: u64, kick: &EventFd) -> io::Result<()>;
    /// Makes one interrupt vector; it costs nothing until it is programmed.
    fn vector(&self) -> io::Result<Box<dyn Vector>>;
    /// The host side of a device failed: what happens to the VM is the engine's policy.
    fn device_failed(&self, label: &str, error: &io::Error);
}

/// One interrupt of one device.
pub(crate) trait Vector: Send + Debug {
    /// Sets what a later [`Vector::raise`] sends.
    fn program(&mut self, message: Message) -> io::Result<()>;
    /// Sends the message.
    fn raise(&self);
}

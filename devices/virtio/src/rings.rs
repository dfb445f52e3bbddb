//! What a transport is to a device.

use crate::{Fault, Request};

/// The virtqueues as a device may see them; implemented once per transport.
pub trait Rings {
    /// Takes the next available request of `queue`, if there is one.
    fn pop(&mut self, queue: u16) -> Result<Option<Request>, Fault>;
    /// Puts back the request popped last from `queue`, as if it had not been taken.
    fn undo_pop(&mut self, queue: u16);
    /// Returns a request to the driver with `written` bytes in its device-writable part. The transport batches
    /// the interrupt.
    fn finish(&mut self, queue: u16, head: u16, written: u32) -> Result<(), Fault>;
    /// Tells the driver that the configuration space changed.
    fn config_changed(&mut self);
}

//! What a transport is to a device.

use crate::{Fault, Request};

/// The virtqueues as a device may see them; implemented once per transport.
pub trait Rings {
    /// Takes the next available request of `queue`, if there is one; if not, the driver is asked to kick with its next.
    fn pop(&mut self, queue: u16) -> Result<Option<Request>, Fault>;
    /// Likewise, but the driver need not tell of its next request: the device looks for it of its own accord.
    fn pop_quietly(&mut self, queue: u16) -> Result<Option<Request>, Fault>;
    /// Puts back the request popped last from `queue`, as if it had not been taken.
    fn undo_pop(&mut self, queue: u16);
    /// Returns a request to the driver with `written` bytes in its device-writable part. The transport batches
    /// the interrupt.
    fn finish(&mut self, queue: u16, head: u16, written: u32) -> Result<(), Fault>;
    /// Returns requests in this order, each with the bytes written to it. The driver sees all of them or none.
    fn finish_all(&mut self, queue: u16, requests: &[(u16, u32)]) -> Result<(), Fault>;
    /// Has the queue served once more, as if the driver had kicked it, after whatever else waits.
    fn call_again(&mut self, queue: u16);
    /// Tells the driver that the configuration space changed.
    fn config_changed(&mut self);
}

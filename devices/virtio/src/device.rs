//! What a device is to a transport.

use std::fmt::Debug;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use vmm_sys_util::epoll::EventSet;

use crate::{Fault, Ram, Rings};

/// Everything a transport needs to know before the driver shows up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceInfo {
    /// Virtio device ID (virtio 1.2, section 5).
    pub kind: u32,
    /// Name in logs, unique within a VM.
    pub label: String,
    /// Maximum size of each queue, in descriptors; their number is the number of queues.
    pub queue_sizes: Vec<u16>,
    /// Device feature bits only. Transports own the ring and protocol bits (24 to 41).
    pub features: u64,
}

/// Configuration space, read from vCPU threads while a worker owns the device.
pub trait ConfigSpace: Send + Sync + Debug {
    /// Fills `data` from `offset` (bytes); what lies past the end reads as zero.
    fn read(&self, offset: u64, data: &mut [u8]);
    /// Takes a driver's write; most fields are read-only and ignore it.
    fn write(&self, _offset: u64, _data: &[u8]) {}
}

/// Reads a configuration space that is the given bytes: what lies past them is zero.
pub fn read_bytes(bytes: &[u8], offset: u64, data: &mut [u8]) {
    let there = usize::try_from(offset).ok().and_then(|offset| bytes.get(offset..)).unwrap_or_default();
    data.fill(0);
    for (to, from) in data.iter_mut().zip(there) {
        *to = *from;
    }
}

/// The configuration space of a device that has none.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoConfig;

impl ConfigSpace for NoConfig {
    fn read(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }
}

/// Host-side file descriptors a device wants its worker to wait on.
pub trait Watch {
    /// From now on `on_event(token)` is called when `fd` has one of `events`.
    fn add(&mut self, fd: BorrowedFd<'_>, token: u16, events: EventSet) -> io::Result<()>;
    /// Changes the events waited for on an `fd` that was added before.
    fn modify(&mut self, fd: BorrowedFd<'_>, token: u16, events: EventSet) -> io::Result<()>;
    /// Stops waiting on `fd`; must be called before the descriptor is closed.
    fn remove(&mut self, fd: BorrowedFd<'_>, token: u16) -> io::Result<()>;
}

/// A directory or file of the host that a device opens files in at the guest's word.
#[derive(Debug)]
pub struct Subtree {
    /// It or its root, opened with `O_PATH`.
    pub root: OwnedFd,
    /// Whether the device changes anything in it.
    pub is_writable: bool,
}

/// A passive state machine: no thread, no eventfd, no interrupt, no sleep, no blocking call.
///
/// One worker owns it, so every method has `&mut self` and none is ever called concurrently.
///
/// ```text
/// new -> start -> (on_queue | on_event)* -> reset -> start -> ...
/// ```
pub trait VirtioDevice: Send {
    /// What the device is; constant over its life.
    fn info(&self) -> &DeviceInfo;
    /// The configuration space, shared with vCPU threads.
    fn config(&self) -> Arc<dyn ConfigSpace>;
    /// Where it opens host files: all that a monitor which confines its threads needs to leave them.
    fn subtrees(&self) -> io::Result<Vec<Subtree>> {
        Ok(Vec::new())
    }
    /// The driver set DRIVER_OK with the negotiated `features` (device and ring bits).
    fn start(&mut self, features: u64, ram: &Ram, watch: &mut dyn Watch) -> Result<(), Fault>;
    /// The driver kicked `queue`: take requests until the queue is empty or the device cannot go on.
    fn on_queue(&mut self, queue: u16, rings: &mut dyn Rings, watch: &mut dyn Watch) -> Result<(), Fault>;
    /// A watched descriptor is ready.
    fn on_event(&mut self, token: u16, rings: &mut dyn Rings, watch: &mut dyn Watch) -> Result<(), Fault>;
    /// Back to the state before `start`: descriptors unwatched, requests in flight forgotten. Idempotent.
    fn reset(&mut self, watch: &mut dyn Watch);
}

//! One request taken from a virtqueue.

use virtio_queue::{DescriptorChain, Reader, Writer};

use crate::{Fault, RamGuard};

/// A descriptor chain: device-readable bytes first, device-writable bytes after.
#[derive(Debug)]
pub struct Request {
    queue: u16,
    chain: DescriptorChain<RamGuard>,
    ram: RamGuard,
}

impl Request {
    /// Wraps a chain popped from `queue`. Called by transports.
    pub fn new(queue: u16, chain: DescriptorChain<RamGuard>, ram: RamGuard) -> Self {
        Self { queue, chain, ram }
    }

    /// Index of the chain's first descriptor, the name by which it is finished.
    pub fn head(&self) -> u16 {
        self.chain.head_index()
    }

    /// The device-readable bytes; an error means a malformed chain (finish it with length 0).
    pub fn reader(&self) -> Result<Reader<'_>, Fault> {
        self.chain.clone().reader(&*self.ram).map_err(|source| Fault::Ring { queue: self.queue, source })
    }

    /// The device-writable bytes; an error means a malformed chain (finish it with length 0).
    pub fn writer(&self) -> Result<Writer<'_>, Fault> {
        self.chain.clone().writer(&*self.ram).map_err(|source| Fault::Ring { queue: self.queue, source })
    }
}

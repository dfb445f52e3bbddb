//! What the driver writes about one queue before it enables it.

use virtio_queue::{Queue, QueueState, QueueT};
use vm_memory::GuestMemoryMmap;

use super::registers::NO_VECTOR;

/// The registers of one queue.
#[derive(Debug, Clone, Copy)]
pub(super) struct QueueRegisters {
    pub(super) max_size: u16,
    pub(super) size: u16,
    pub(super) vector: u16,
    pub(super) enabled: bool,
    pub(super) descriptors: u64,
    pub(super) driver: u64,
    pub(super) device: u64,
}

impl QueueRegisters {
    /// After a reset.
    pub(super) fn new(max_size: u16) -> Self {
        Self { max_size, size: max_size, vector: NO_VECTOR, enabled: false, descriptors: 0, driver: 0, device: 0 }
    }

    /// Sets the size, if it is one (virtio 1.2, 4.1.4.3.2: a power of two, at most what was offered).
    pub(super) fn set_size(&mut self, size: u16) {
        if size.is_power_of_two() && size <= self.max_size {
            self.size = size;
        }
    }

    /// The queue as the device will see it; an error if one that is enabled does not lie in guest memory.
    pub(super) fn build(&self, event_idx_enabled: bool, memory: &GuestMemoryMmap) -> Result<Queue, &'static str> {
        let state = QueueState {
            max_size: self.max_size,
            next_avail: 0,
            next_used: 0,
            event_idx_enabled,
            size: self.size,
            ready: self.enabled,
            desc_table: self.descriptors,
            avail_ring: self.driver,
            used_ring: self.device,
        };
        let queue = Queue::try_from(state).map_err(|_| "a queue is misaligned")?;
        if self.enabled && !queue.is_valid(memory) {
            return Err("a queue lies outside of memory");
        }
        Ok(queue)
    }
}

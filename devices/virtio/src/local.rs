//! Rings in this process's memory: the kvm engine's transport and the unit tests of devices use them.

use virtio_queue::Queue;

use crate::{Queues, RingSet};

/// The virtqueues of a device that is served in the process that owns the queues.
pub type LocalRings = RingSet<Vec<Queue>>;

impl Queues for Vec<Queue> {
    fn count(&self) -> u16 {
        u16::try_from(self.len()).unwrap_or(u16::MAX)
    }

    fn with<T>(&mut self, index: u16, act: impl FnOnce(&mut Queue) -> T) -> Option<T> {
        self.get_mut(usize::from(index)).map(act)
    }
}

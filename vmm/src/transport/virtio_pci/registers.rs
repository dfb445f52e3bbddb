//! The common configuration structure (virtio 1.2, 4.1.4.3): negotiation, status, queues.
//!
//! A pure state machine: it says what is to be done, and touches nothing. Registers that would change a running
//! device's queues are frozen from DRIVER_OK on, whatever the driver writes.

use virtio_bindings::bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use virtio_queue::Queue;
use vm_memory::GuestMemoryMmap;

use super::queue::QueueRegisters;

/// "No vector": what a refused vector reads back as.
pub(super) const NO_VECTOR: u16 = 0xffff;
/// Feature bits that are the transport's: offered for every device.
const RING_FEATURES: u64 = 1 << VIRTIO_F_VERSION_1 | 1 << VIRTIO_RING_F_EVENT_IDX | 1 << VIRTIO_RING_F_INDIRECT_DESC;
/// Bits 24 to 41 are not the device's to offer.
const RESERVED_FEATURES: u64 = 0x3ff_ff00_0000;

/// Device status (virtio 1.2, 2.1).
const ACKNOWLEDGE: u8 = 1;
const DRIVER: u8 = 2;
const DRIVER_OK: u8 = 4;
const FEATURES_OK: u8 = 8;
const NEEDS_RESET: u8 = 64;
const FAILED: u8 = 128;

/// What a write asks of the function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    None,
    /// DRIVER_OK: the device is to start.
    Start,
    /// Status zero: the device is to be reset, then these registers by [`Registers::reset`].
    Reset,
}

/// The parts of the structure that change without the driver.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Live {
    pub(super) needs_reset: bool,
    pub(super) generation: u8,
}

/// The structure's state.
#[derive(Debug)]
pub(super) struct Registers {
    offered: u64,
    accepted: u64,
    offered_select: u32,
    accepted_select: u32,
    status: u8,
    config_vector: u16,
    queue_select: u16,
    queues: Vec<QueueRegisters>,
    /// MSI-X vectors there are.
    vectors: u16,
}

impl Registers {
    /// For a device with these features and queues and a table of `vectors`.
    pub(super) fn new(device_features: u64, queue_sizes: &[u16], vectors: u16) -> Self {
        Self {
            offered: device_features & !RESERVED_FEATURES | RING_FEATURES,
            accepted: 0,
            offered_select: 0,
            accepted_select: 0,
            status: 0,
            config_vector: NO_VECTOR,
            queue_select: 0,
            queues: queue_sizes.iter().map(|size| QueueRegisters::new(*size)).collect(),
            vectors,
        }
    }

    /// Back to the state after power-on.
    pub(super) fn reset(&mut self) {
        let sizes: Vec<u16> = self.queues.iter().map(|queue| queue.max_size).collect();
        *self = Self::new(self.offered, &sizes, self.vectors);
    }

    /// The negotiated features.
    pub(super) fn features(&self) -> u64 {
        self.accepted
    }

    /// Vector of configuration changes.
    pub(super) fn config_vector(&self) -> u16 {
        self.config_vector
    }

    /// Vectors of the queues, in their order.
    pub(super) fn queue_vectors(&self) -> Vec<u16> {
        self.queues.iter().map(|queue| queue.vector).collect()
    }

    /// The queues for the device; an error if the driver put one where it cannot be.
    pub(super) fn build_queues(&self, memory: &GuestMemoryMmap) -> Result<Vec<Queue>, &'static str> {
        let event_idx = self.accepted & 1 << VIRTIO_RING_F_EVENT_IDX != 0;
        self.queues.iter().map(|queue| queue.build(event_idx, memory)).collect()
    }

    /// Whether the driver said DRIVER_OK.
    pub(super) fn is_running(&self) -> bool {
        self.status & DRIVER_OK != 0
    }

    /// Reads at any offset and width.
    pub(super) fn read(&self, offset: u64, data: &mut [u8], live: Live) {
        let image = self.image(live);
        for (byte, at) in data.iter_mut().zip(offset..=u64::MAX) {
            *byte = usize::try_from(at).ok().and_then(|at| image.get(at)).copied().unwrap_or_default();
        }
    }

    /// The whole structure as bytes, field by field.
    fn image(&self, live: Live) -> Vec<u8> {
        let absent = QueueRegisters { size: 0, ..QueueRegisters::new(0) };
        let queue = self.queues.get(usize::from(self.queue_select)).unwrap_or(&absent);
        let status = if live.needs_reset && self.status != 0 { self.status | NEEDS_RESET } else { self.status };
        let count = u16::try_from(self.queues.len()).unwrap_or(u16::MAX);
        let mut image = Vec::with_capacity(0x40);
        image.extend(self.offered_select.to_le_bytes());
        image.extend(half(self.offered, self.offered_select).to_le_bytes());
        image.extend(self.accepted_select.to_le_bytes());
        image.extend(half(self.accepted, self.accepted_select).to_le_bytes());
        image.extend(self.config_vector.to_le_bytes());
        image.extend(count.to_le_bytes());
        image.extend([status, live.generation]);
        image.extend(self.queue_select.to_le_bytes());
        image.extend(queue.size.to_le_bytes());
        image.extend(queue.vector.to_le_bytes());
        image.extend(u16::from(queue.enabled).to_le_bytes());
        // The doorbell of queue n is at n times the multiplier of the notify capability.
        image.extend(self.queue_select.min(count).to_le_bytes());
        image.extend(queue.descriptors.to_le_bytes());
        image.extend(queue.driver.to_le_bytes());
        image.extend(queue.device.to_le_bytes());
        image
    }

    /// Takes a write; one that is not exactly one field (or half of a 64-bit one) does nothing.
    pub(super) fn write(&mut self, offset: u64, data: &[u8]) -> Action {
        match *data {
            [value] if offset == 0x14 => return self.write_status(value),
            [a, b] => self.write_u16(offset, u16::from_le_bytes([a, b])),
            [a, b, c, d] => self.write_u32(offset, u32::from_le_bytes([a, b, c, d])),
            _ => {}
        }
        Action::None
    }

    fn write_status(&mut self, value: u8) -> Action {
        if value == 0 {
            return Action::Reset;
        }
        // Bits are only ever added; what does not follow from what is set already is refused.
        let mut added = value & !self.status & (ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK | FAILED);
        let would_be = |added| self.status | added;
        if would_be(added) & DRIVER == 0 || !self.features_are_acceptable() {
            added &= !FEATURES_OK;
        }
        if would_be(added) & FEATURES_OK == 0 {
            added &= !DRIVER_OK;
        }
        self.status |= added;
        if added & DRIVER_OK != 0 { Action::Start } else { Action::None }
    }

    fn features_are_acceptable(&self) -> bool {
        self.accepted & !self.offered == 0 && self.accepted & 1 << VIRTIO_F_VERSION_1 != 0
    }

    fn write_u32(&mut self, offset: u64, value: u32) {
        match offset {
            0x00 => self.offered_select = value,
            0x08 => self.accepted_select = value,
            0x0c if self.status & FEATURES_OK == 0 => set_half(&mut self.accepted, self.accepted_select, value),
            0x20 | 0x24 => self.change_queue(|queue| set_half(&mut queue.descriptors, upper(offset), value)),
            0x28 | 0x2c => self.change_queue(|queue| set_half(&mut queue.driver, upper(offset), value)),
            0x30 | 0x34 => self.change_queue(|queue| set_half(&mut queue.device, upper(offset), value)),
            _ => {}
        }
    }

    fn write_u16(&mut self, offset: u64, value: u16) {
        let vector = if value < self.vectors { value } else { NO_VECTOR };
        match offset {
            0x10 => self.config_vector = vector,
            0x16 => self.queue_select = value,
            0x18 => self.change_queue(|queue| queue.set_size(value)),
            0x1a => self.change_queue(|queue| queue.vector = vector),
            // Writing zero is forbidden (4.1.4.3.2): only a reset disables a queue.
            0x1c if value == 1 => self.change_queue(|queue| queue.enabled = true),
            _ => {}
        }
    }

    /// Changes the selected queue, if it may be changed now: between FEATURES_OK and its being enabled.
    fn change_queue(&mut self, change: impl FnOnce(&mut QueueRegisters)) {
        let open = self.status & (FEATURES_OK | DRIVER_OK) == FEATURES_OK;
        if let Some(queue) = self.queues.get_mut(usize::from(self.queue_select)).filter(|queue| open && !queue.enabled)
        {
            change(queue);
        }
    }
}

/// The half of `value` that a select register names; there is nothing past the second.
fn half(value: u64, select: u32) -> u32 {
    let bytes = value.to_le_bytes();
    let [a, b, c, d, e, f, g, h] = bytes;
    match select {
        0 => u32::from_le_bytes([a, b, c, d]),
        1 => u32::from_le_bytes([e, f, g, h]),
        _ => 0,
    }
}

fn set_half(value: &mut u64, select: u32, new: u32) {
    match select {
        0 => *value = *value & !u64::from(u32::MAX) | u64::from(new),
        1 => *value = *value & u64::from(u32::MAX) | u64::from(new) << 32,
        _ => {}
    }
}

/// Which half of a 64-bit register `offset` is.
fn upper(offset: u64) -> u32 {
    u32::from(offset & 4 != 0)
}

#[cfg(test)]
mod tests;

//! Rings in this process's memory: the kvm engine's transport and the unit tests of devices use them.

use std::fmt;
use std::sync::Arc;

use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::GuestAddressSpace;

use crate::{Fault, Ram, Request, Rings, VirtioDevice, Watch};

/// Raises guest interrupts: an irqfd under KVM, a recorder in tests.
pub trait Interrupt: Send + Sync + fmt::Debug {
    /// Used buffers were added to `queue`.
    fn used(&self, queue: u16);
    /// The configuration space changed.
    fn config(&self);
}

/// The virtqueues of one started device.
#[derive(Debug)]
pub struct LocalRings {
    ram: Ram,
    queues: Vec<Queue>,
    interrupt: Arc<dyn Interrupt>,
    /// Queues that earned an interrupt since the last flush.
    touched: Vec<bool>,
    /// Queues the device found empty since the last settling: only these need the driver's next kick. A device may
    /// leave requests in a queue (receive buffers nobody has data for), and comes back to those on its own.
    drained: Vec<bool>,
}

impl LocalRings {
    /// Takes over `queues`, whose geometry is frozen from here on.
    pub fn new(ram: Ram, queues: Vec<Queue>, interrupt: Arc<dyn Interrupt>) -> Self {
        let (touched, drained) = (vec![false; queues.len()], vec![false; queues.len()]);
        Self { ram, queues, interrupt, touched, drained }
    }

    /// The queues, given back by a worker that stops.
    pub fn into_queues(self) -> Vec<Queue> {
        self.queues
    }

    fn queue(&mut self, queue: u16) -> Result<&mut Queue, Fault> {
        self.queues.get_mut(usize::from(queue)).ok_or(Fault::Guest { queue, what: "no such queue" })
    }

    fn disable_notification(&mut self, queue: u16) -> Result<(), Fault> {
        let ram = self.ram.memory();
        self.queue(queue)?.disable_notification(&*ram).map_err(|source| Fault::Ring { queue, source })
    }

    /// Asks for kicks on the queues the device emptied; a queue that filled up meanwhile is returned for another turn.
    fn settle(&mut self) -> Result<Option<u16>, Fault> {
        let ram = self.ram.memory();
        for (index, (queue, drained)) in (0u16..).zip(self.queues.iter_mut().zip(self.drained.iter_mut())) {
            if std::mem::take(drained)
                && queue.enable_notification(&*ram).map_err(|source| Fault::Ring { queue: index, source })?
            {
                return Ok(Some(index));
            }
        }
        Ok(None)
    }

    /// Sends the interrupts the device earned, honouring EVENT_IDX and NO_INTERRUPT.
    fn flush(&mut self) -> Result<(), Fault> {
        let ram = self.ram.memory();
        for (index, (queue, touched)) in (0u16..).zip(self.queues.iter_mut().zip(self.touched.iter_mut())) {
            if std::mem::take(touched)
                && queue.needs_notification(&*ram).map_err(|source| Fault::Ring { queue: index, source })?
            {
                self.interrupt.used(index);
            }
        }
        Ok(())
    }
}

impl Rings for LocalRings {
    fn pop(&mut self, queue: u16) -> Result<Option<Request>, Fault> {
        let ram = self.ram.memory();
        let ring = self.queue(queue)?;
        // `iter`, not `pop_descriptor_chain`: the latter logs and swallows a bad available index.
        let chain = ring.iter(ram.clone()).map_err(|source| Fault::Ring { queue, source })?.next();
        if chain.is_none()
            && let Some(drained) = self.drained.get_mut(usize::from(queue))
        {
            *drained = true;
        }
        Ok(chain.map(|chain| Request::new(queue, chain, ram)))
    }

    fn undo_pop(&mut self, queue: u16) {
        if let Ok(ring) = self.queue(queue) {
            ring.go_to_previous_position();
        }
    }

    fn finish(&mut self, queue: u16, head: u16, written: u32) -> Result<(), Fault> {
        let ram = self.ram.memory();
        self.queue(queue)?.add_used(&*ram, head, written).map_err(|source| Fault::Ring { queue, source })?;
        if let Some(touched) = self.touched.get_mut(usize::from(queue)) {
            *touched = true;
        }
        Ok(())
    }

    fn config_changed(&mut self) {
        self.interrupt.config();
    }
}

/// Serves one kick of `queue` to completion; devices never see the notification dance.
pub fn serve_queue(
    device: &mut dyn VirtioDevice,
    rings: &mut LocalRings,
    queue: u16,
    watch: &mut dyn Watch,
) -> Result<(), Fault> {
    let mut turn = Some(queue);
    while let Some(queue) = turn {
        rings.disable_notification(queue)?;
        device.on_queue(queue, rings, watch)?;
        rings.flush()?;
        turn = rings.settle()?;
    }
    Ok(())
}

/// Serves one ready descriptor that the device watches.
pub fn serve_event(
    device: &mut dyn VirtioDevice,
    rings: &mut LocalRings,
    token: u16,
    watch: &mut dyn Watch,
) -> Result<(), Fault> {
    device.on_event(token, rings, watch)?;
    rings.flush()?;
    match rings.settle()? {
        Some(queue) => serve_queue(device, rings, queue, watch),
        None => Ok(()),
    }
}

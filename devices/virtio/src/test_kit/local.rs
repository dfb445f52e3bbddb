//! The in-process transport without a bus: a worker on rings in this process's memory.

use std::sync::Arc;
use std::time::Duration;

use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::{DriverQueue, FaultRecorder, InterruptRecorder, Transport, ready_within};
use crate::{Activation, ConfigSpace, LocalRings, Ram, VirtioDevice, Worker};

/// A device served by a [`Worker`].
#[derive(Debug)]
pub struct Local {
    worker: Worker,
    config: Arc<dyn ConfigSpace>,
    interrupts: Arc<InterruptRecorder>,
    faults: Arc<FaultRecorder>,
    ram: Ram,
    kicks: Vec<EventFd>,
}

impl Local {
    /// Writes configuration space.
    pub fn write_config(&self, offset: u64, data: &[u8]) {
        self.config.write(offset, data);
    }

    /// Interrupts the device raised.
    pub fn interrupts(&self) -> &InterruptRecorder {
        &self.interrupts
    }
}

impl Transport for Local {
    fn serve(device: Box<dyn VirtioDevice>, ram: &Ram) -> Self {
        let queues = device.info().queue_sizes.len();
        let config = device.config();
        let faults = Arc::new(FaultRecorder::default());
        let worker = Worker::spawn(device, faults.clone()).expect("a thread");
        let interrupts = Arc::new(InterruptRecorder::new(queues));
        Self { worker, config, interrupts, faults, ram: ram.clone(), kicks: Vec::new() }
    }

    fn start(&mut self, features: u64, queues: &[DriverQueue]) {
        let event_idx = features & (1 << VIRTIO_RING_F_EVENT_IDX) != 0;
        let device_side = queues.iter().map(|queue| queue.device_side(event_idx)).collect();
        let rings = LocalRings::new(self.ram.clone(), device_side, self.interrupts.clone());
        self.kicks = queues.iter().map(|_| EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK).expect("an eventfd")).collect();
        let kicks = self.kicks.iter().map(|kick| kick.try_clone().expect("a descriptor")).collect();
        self.worker.start(Activation { features, rings, kicks }).expect("the worker lives");
    }

    fn kick(&self, queue: u16) {
        let kick = self.kicks.get(usize::from(queue)).expect("a queue of the device");
        kick.write(1).expect("an eventfd takes a count");
    }

    fn reset(&mut self) {
        self.worker.reset().expect("the worker lives");
    }

    fn config(&mut self, offset: u32, length: u32) -> Vec<u8> {
        let mut data = vec![0xaa; usize::try_from(length).expect("64-bit host")];
        self.config.read(u64::from(offset), &mut data);
        data
    }

    fn interrupted(&self, queue: u16, patience: Duration) -> bool {
        let fd = self.interrupts.used_fd(queue);
        let interrupted = ready_within(fd, patience);
        if interrupted {
            fd.read().expect("it was ready");
        }
        interrupted
    }

    fn faulted(&self, patience: Duration) -> bool {
        ready_within(self.faults.bell(), patience)
    }

    fn faults(&self) -> Vec<String> {
        self.faults.texts()
    }
}

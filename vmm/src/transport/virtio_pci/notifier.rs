//! From a device's worker to the driver: interrupts, configuration changes, and the news that the device broke.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use virtio::{Fault, Interrupt, Supervisor, ThreadKind};

use super::registers::{Live, NO_VECTOR};
use crate::sandbox::Profile;
use crate::transport::Hypervisor;
use crate::transport::pci::Msix;

/// ISR status bits, for a driver that polls because it has no MSI-X.
const ISR_QUEUE: u8 = 1;
const ISR_CONFIG: u8 = 2;

/// Shared by the function's registers (vCPU threads) and its worker. Its lock is never held while waiting for the
/// worker, so that a worker about to raise an interrupt can always be stopped.
pub(super) struct Notifier {
    label: String,
    hypervisor: Arc<dyn Hypervisor>,
    msix: Mutex<Msix>,
    config_vector: AtomicU16,
    queue_vectors: Vec<AtomicU16>,
    isr: AtomicU8,
    generation: AtomicU8,
    needs_reset: AtomicBool,
    /// What the worker is left with.
    profile: Profile,
}

impl fmt::Debug for Notifier {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Notifier").field("label", &self.label).finish_non_exhaustive()
    }
}

impl Notifier {
    /// For a device with `queues` queues and a vector more than that.
    pub(super) fn new(
        label: String,
        queues: usize,
        hypervisor: Arc<dyn Hypervisor>,
        profile: Profile,
    ) -> io::Result<Self> {
        let vectors = (0..=queues).map(|_| hypervisor.vector()).collect::<io::Result<Vec<_>>>()?;
        Ok(Self {
            label,
            hypervisor,
            msix: Mutex::new(Msix::new(vectors)),
            config_vector: AtomicU16::new(NO_VECTOR),
            queue_vectors: (0..queues).map(|_| AtomicU16::new(NO_VECTOR)).collect(),
            isr: AtomicU8::new(0),
            generation: AtomicU8::new(0),
            needs_reset: AtomicBool::new(false),
            profile,
        })
    }

    /// The MSI-X table.
    pub(super) fn msix(&self) -> MutexGuard<'_, Msix> {
        self.msix.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the vector of configuration changes.
    pub(super) fn set_config_vector(&self, vector: u16) {
        self.config_vector.store(vector, SeqCst);
    }

    /// Sets the vectors of the queues, which stay until the next start.
    pub(super) fn set_queue_vectors(&self, vectors: &[u16]) {
        for (ours, new) in self.queue_vectors.iter().zip(vectors) {
            ours.store(*new, SeqCst);
        }
    }

    /// What the common configuration structure shows of this.
    pub(super) fn live(&self) -> Live {
        Live { needs_reset: self.needs_reset.load(SeqCst), generation: self.generation.load(SeqCst) }
    }

    /// Reads the ISR status, which clears it.
    pub(super) fn take_isr(&self) -> u8 {
        self.isr.swap(0, SeqCst)
    }

    /// The device cannot go on until its next reset (virtio 1.2, 2.1.1).
    pub(super) fn fail(&self) {
        self.needs_reset.store(true, SeqCst);
        self.raise(self.config_vector.load(SeqCst), ISR_CONFIG);
    }

    /// The device was reset: nothing of before counts any more.
    pub(super) fn clear(&self) {
        self.needs_reset.store(false, SeqCst);
        self.isr.store(0, SeqCst);
        self.set_config_vector(NO_VECTOR);
        self.queue_vectors.iter().for_each(|vector| vector.store(NO_VECTOR, SeqCst));
    }

    fn raise(&self, vector: u16, isr: u8) {
        let mut msix = self.msix();
        if msix.is_enabled() {
            msix.raise(vector);
        } else {
            self.isr.fetch_or(isr, SeqCst);
        }
    }
}

impl Interrupt for Notifier {
    fn used(&self, queue: u16) {
        let vector = self.queue_vectors.get(usize::from(queue)).map_or(NO_VECTOR, |vector| vector.load(SeqCst));
        self.raise(vector, ISR_QUEUE);
    }

    fn config(&self) {
        self.generation.fetch_add(1, SeqCst);
        self.raise(self.config_vector.load(SeqCst), ISR_CONFIG);
    }
}

impl Supervisor for Notifier {
    fn confine(&self, thread: ThreadKind) -> io::Result<()> {
        self.profile.confine(thread)
    }

    fn faulted(&self, fault: &Fault) {
        if let Fault::Host(error) = fault {
            self.hypervisor.device_failed(&self.label, error);
        }
        self.fail();
    }
}

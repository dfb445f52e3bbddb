//! A device whose queues a monitor starts and stops one by one.
//!
//! Ring states follow the vhost-user specification: a ring is served once it has addresses, a kick descriptor and is
//! enabled, until its position is asked for. The device starts with its first ring and is reset with its last.

use std::fs::File;
use std::io;
use std::sync::Arc;

use vhost::vhost_user::message::{VhostUserMemoryRegion, VhostUserVirtioFeatures};
use virtio::{Activation, ConfigSpace, DeviceInfo, LocalRings, Worker};
use virtio_bindings::bindings::virtio_config::{VIRTIO_F_NOTIFY_ON_EMPTY, VIRTIO_F_VERSION_1};
use virtio_bindings::bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use virtio_bindings::virtio_ids::{VIRTIO_ID_FS, VIRTIO_ID_NET};
use virtio_queue::{Queue, QueueT};
use vmm_sys_util::eventfd::EventFd;

use crate::memory::Memory;
use crate::notifier::Notifier;
use crate::ring::{Ring, invalid};

/// Bits of the transport, besides the device's own. QEMU hands the guest's choice on unmasked and stops on a refusal,
/// so everything it may negotiate by itself is offered.
const TRANSPORT_FEATURES: u64 = 1 << VIRTIO_F_NOTIFY_ON_EMPTY
    | 1 << VIRTIO_RING_F_INDIRECT_DESC
    | 1 << VIRTIO_RING_F_EVENT_IDX
    | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits()
    | 1 << VIRTIO_F_VERSION_1;

/// The device, its rings, and the memory they lie in.
#[derive(Debug)]
pub(crate) struct Served {
    info: DeviceInfo,
    pub(crate) config: Arc<dyn ConfigSpace>,
    pub(crate) notifier: Arc<Notifier>,
    worker: Worker,
    memory: Memory,
    rings: Vec<Ring>,
    features: u64,
    /// Rings are enabled with the features.
    enables_early: bool,
}

impl Served {
    pub(crate) fn new(info: DeviceInfo, config: Arc<dyn ConfigSpace>, worker: Worker, notifier: Arc<Notifier>) -> Self {
        let rings = info.queue_sizes.iter().map(|size| Ring::new(*size)).collect();
        Self { info, config, notifier, worker, memory: Memory::new(), rings, features: 0, enables_early: false }
    }

    pub(crate) fn offered(&self) -> u64 {
        self.info.features | TRANSPORT_FEATURES
    }

    /// Whether the monitor asks us for the configuration space. QEMU warns of devices that offer it where there is
    /// none, and of file systems and network cards, whose tag and address it is told on its own command line.
    pub(crate) fn has_config(&self) -> bool {
        let mut bytes = [0; 64];
        self.config.read(0, &mut bytes);
        !matches!(self.info.kind, VIRTIO_ID_FS | VIRTIO_ID_NET) && bytes != [0; 64]
    }

    pub(crate) fn ring_count(&self) -> u16 {
        u16::try_from(self.rings.len()).unwrap_or(u16::MAX)
    }

    pub(crate) fn ring(&mut self, index: u16) -> io::Result<&mut Ring> {
        self.rings.get_mut(usize::from(index)).ok_or_else(|| invalid("ring index"))
    }

    /// Takes the negotiated features. Without protocol features there is no enabling, and all rings are.
    pub(crate) fn set_features(&mut self, features: u64) -> io::Result<()> {
        let unknown = features & !self.offered();
        if unknown != 0 {
            tracing::debug!(device = self.info.label, "Features {unknown:#x} were not offered and are left out");
        }
        self.features = features & self.offered() & !VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
        if self.enables_early || features & VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits() == 0 {
            (0..self.ring_count()).try_for_each(|index| self.set_enabled(index, true))?;
        }
        Ok(())
    }

    /// The monitor enabled a ring before it passed the features: all rings are enabled once it has.
    pub(crate) fn enable_early(&mut self) {
        self.enables_early = true;
    }

    pub(crate) fn set_memory(&mut self, regions: &[VhostUserMemoryRegion], files: Vec<File>) -> io::Result<()> {
        self.memory.replace(regions, files)
    }

    pub(crate) fn set_addresses(&mut self, index: u16, addresses: [u64; 3]) -> io::Result<()> {
        self.ring(index)?.set_addresses(addresses);
        self.update(index)
    }

    pub(crate) fn set_enabled(&mut self, index: u16, enabled: bool) -> io::Result<()> {
        self.ring(index)?.enabled = enabled;
        self.update(index)
    }

    /// Takes a kick descriptor. A ring that is set up again without having been stopped starts anew from where the
    /// monitor says.
    pub(crate) fn set_kick(&mut self, index: u16, kick: Option<EventFd>) -> io::Result<()> {
        let base = self.ring(index)?.base;
        self.stop(index)?;
        let ring = self.ring(index)?;
        (ring.base, ring.kick) = (base, kick);
        self.update(index)
    }

    /// Stops a ring until it gets a new kick descriptor; says how far it got.
    pub(crate) fn take_position(&mut self, index: u16) -> io::Result<u16> {
        self.stop(index)?;
        let ring = self.ring(index)?;
        ring.kick = None;
        Ok(ring.base)
    }

    /// Back to before the first message about any ring.
    pub(crate) fn reset(&mut self) -> io::Result<()> {
        (0..self.ring_count()).try_for_each(|index| {
            self.take_position(index)?;
            self.ring(index)?.enabled = false;
            Ok(())
        })
    }

    /// Starts or stops serving a ring, whichever its state asks for.
    fn update(&mut self, index: u16) -> io::Result<()> {
        let ring = self.ring(index)?;
        match (ring.running, ring.is_complete()) {
            (false, true) => self.start(index),
            (true, false) => self.stop(index),
            _ => Ok(()),
        }
    }

    fn start(&mut self, index: u16) -> io::Result<()> {
        let event_idx = self.features & (1 << VIRTIO_RING_F_EVENT_IDX) != 0;
        let ring = self.rings.get(usize::from(index)).ok_or_else(|| invalid("ring index"))?;
        let queue = ring.queue(&self.memory, event_idx)?;
        let kick = ring.kick.as_ref().ok_or_else(|| invalid("ring without kick descriptor"))?.try_clone()?;
        if !self.rings.iter().any(|ring| ring.running) {
            let idle = self.rings.iter().map(|_| Queue::default()).collect();
            let rings = LocalRings::new(self.memory.ram().clone(), idle, self.notifier.clone());
            self.worker.start(Activation { features: self.features, rings, kicks: Vec::new() })?;
        }
        self.worker.start_queue(index, queue, kick)?;
        self.ring(index)?.running = true;
        Ok(())
    }

    fn stop(&mut self, index: u16) -> io::Result<()> {
        let ring = self.ring(index)?;
        if !std::mem::take(&mut ring.running) {
            return Ok(());
        }
        // Nothing comes back from a device that stopped on a fault, or from one that is gone.
        if let Ok(Some(queue)) = self.worker.stop_queue(index) {
            self.ring(index)?.base = queue.next_avail();
        }
        if !self.rings.iter().any(|ring| ring.running) {
            // A worker that is gone does nothing any more either.
            let _ = self.worker.reset();
        }
        Ok(())
    }
}

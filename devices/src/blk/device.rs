//! The state machine: requests in, statuses out.

use std::io;
use std::sync::Arc;

use virtio::{ConfigSpace, DeviceInfo, Fault, Ram, RateLimit, Rings, VirtioDevice, Watch};
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX,
    VIRTIO_BLK_F_SIZE_MAX, VIRTIO_BLK_F_WRITE_ZEROES,
};
use virtio_bindings::virtio_ids::VIRTIO_ID_BLOCK;

use super::config::{QUEUE_SIZE, Space};
use super::disk::Disk;
use super::request::{Negotiated, Service};

/// A disk of the guest.
#[derive(Debug)]
pub struct Blk {
    info: DeviceInfo,
    disk: Disk,
    negotiated: Negotiated,
    warnings: RateLimit,
}

impl Blk {
    /// A device that serves `disk`. The guest reads the first 20 bytes of `label` as the disk's serial number, by which
    /// it tells its disks apart.
    pub fn new(disk: Disk, label: &str) -> Self {
        let always = [VIRTIO_BLK_F_SIZE_MAX, VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_BLK_SIZE];
        let by_access: &[u32] = if disk.is_writable() {
            &[VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_WRITE_ZEROES]
        } else {
            &[VIRTIO_BLK_F_RO]
        };
        let features = always.iter().chain(by_access).fold(0, |features, bit| features | 1 << bit);
        let info = DeviceInfo { kind: VIRTIO_ID_BLOCK, label: label.into(), queue_sizes: vec![QUEUE_SIZE], features };
        Self { info, disk, negotiated: Negotiated::default(), warnings: RateLimit::default() }
    }

    fn complain(&mut self, error: &io::Error) {
        if self.warnings.allow() {
            tracing::warn!(disk = self.info.label, %error, "Disk request failed; the guest sees an I/O error");
        }
    }
}

impl VirtioDevice for Blk {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn config(&self) -> Arc<dyn ConfigSpace> {
        Arc::new(Space::new(self.disk.sectors()))
    }

    fn start(&mut self, features: u64, _ram: &Ram, _watch: &mut dyn Watch) -> Result<(), Fault> {
        let has = |bit: u32| features & self.info.features & (1 << bit) != 0;
        self.negotiated = Negotiated {
            flush: has(VIRTIO_BLK_F_FLUSH),
            discard: has(VIRTIO_BLK_F_DISCARD),
            write_zeroes: has(VIRTIO_BLK_F_WRITE_ZEROES),
        };
        Ok(())
    }

    fn on_queue(&mut self, queue: u16, rings: &mut dyn Rings, _watch: &mut dyn Watch) -> Result<(), Fault> {
        while let Some(request) = rings.pop(queue)? {
            let serial = self.info.label.as_bytes();
            let service = Service { disk: &self.disk, serial, negotiated: self.negotiated };
            let outcome = service.serve(&request);
            if let Some(error) = outcome.error {
                self.complain(&error);
            }
            rings.finish(queue, request.head(), outcome.written)?;
        }
        Ok(())
    }

    fn on_event(&mut self, _token: u16, _rings: &mut dyn Rings, _watch: &mut dyn Watch) -> Result<(), Fault> {
        Ok(())
    }

    fn reset(&mut self, _watch: &mut dyn Watch) {
        self.negotiated = Negotiated::default();
    }
}

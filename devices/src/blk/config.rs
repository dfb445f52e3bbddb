//! The device's configuration space (virtio 1.2, section 5.2.4).

use virtio::ConfigSpace;

use super::disk::SECTOR;

/// Descriptors in the queue.
pub(super) const QUEUE_SIZE: u16 = 256;
/// Data segments in one request: the queue's descriptors less header and status.
const SEG_MAX: u32 = 254;
/// Bytes in one data segment.
const SIZE_MAX: u32 = 128 << 10;
/// Data bytes in one request: what an honest driver can reach, so that one request never keeps the worker for long.
pub(super) const MAX_DATA: usize = 254 * (128 << 10);
/// Ranges in one discard or write-zeroes request.
pub(super) const MAX_RANGES: usize = 16;
/// Sectors in one discarded range: 1 GiB.
pub(super) const MAX_DISCARD_SECTORS: u32 = 1 << 21;
/// Sectors in one zeroed range: 32 MiB, because on some file systems zeroes must be written.
pub(super) const MAX_ZEROES_SECTORS: u32 = 1 << 16;
/// Sectors in the host's pages and file system blocks, where holes start and end.
const DISCARD_ALIGNMENT: u32 = 8;

/// The 60 bytes, which never change.
#[derive(Debug)]
pub(super) struct Space {
    bytes: Vec<u8>,
}

impl Space {
    pub(super) fn new(sectors: u64) -> Self {
        let sector = u32::try_from(SECTOR).unwrap_or(512);
        let ranges = u32::try_from(MAX_RANGES).unwrap_or(1);
        let mut bytes = Vec::with_capacity(60);
        bytes.extend(sectors.to_le_bytes());
        bytes.extend(SIZE_MAX.to_le_bytes());
        bytes.extend(SEG_MAX.to_le_bytes());
        // Geometry: none.
        bytes.extend([0; 4]);
        bytes.extend(sector.to_le_bytes());
        // Topology, write-back mode and number of queues: not offered.
        bytes.extend([0; 12]);
        for limit in [MAX_DISCARD_SECTORS, ranges, DISCARD_ALIGNMENT, MAX_ZEROES_SECTORS, ranges] {
            bytes.extend(limit.to_le_bytes());
        }
        // Zeroing may deallocate, when the driver allows it.
        bytes.extend([1, 0, 0, 0]);
        Self { bytes }
    }
}

impl ConfigSpace for Space {
    fn read(&self, offset: u64, data: &mut [u8]) {
        virtio::read_bytes(&self.bytes, offset, data);
    }
}

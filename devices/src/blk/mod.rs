//! Disks (virtio 1.2, section 5.2) on raw image files or host block devices.
//!
//! The image is always raw: its contents are the guest's, so no format is ever guessed from them and no header can name
//! another host file. Data moves between the file and guest RAM without a copy in between; discarded ranges are punched
//! out of the file, so a sparse image shrinks again. Requests are served in order on the device's worker; reading and
//! writing block it for as long as the host's page cache does.

mod config;
mod device;
mod disk;
mod request;
#[cfg(test)]
mod tests;

pub use device::Blk;
pub use disk::{Access, Disk, DiskError};

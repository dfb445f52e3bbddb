//! The second wall around threads that open host files for the guest.
//!
//! The file server confines itself by how it opens files. Should that ever fail, the host's kernel refuses what the
//! server has no business with: files outside the shares ([`landlock`]), and system calls that neither serve files nor
//! keep a thread alive ([`system_calls`]). Both work without privileges and hold for threads the confined one starts.
//! Called on a device's worker before it serves; where the host's kernel lacks one of the walls, it says so and the
//! other one stands.

mod landlock;
mod system_calls;
#[cfg(test)]
mod tests;

use std::io;

use virtio::{Subtree, ThreadKind, VirtioDevice};
use virtio_bindings::virtio_ids::VIRTIO_ID_FS;

pub use self::landlock::LandlockReport;

/// What the threads of one device are left with.
#[derive(Debug)]
pub(crate) enum Profile {
    /// Everything: the device opens nothing at the guest's word.
    Free,
    /// Files in these subtrees.
    Files(Vec<Subtree>),
}

impl Profile {
    /// What a device needs.
    pub(crate) fn of(device: &dyn VirtioDevice) -> io::Result<Self> {
        match device.info().kind {
            VIRTIO_ID_FS => Ok(Self::Files(device.subtrees()?)),
            _ => Ok(Self::Free),
        }
    }

    /// Confines the calling thread, for good.
    pub(crate) fn confine(&self, thread: ThreadKind) -> io::Result<()> {
        match (self, thread) {
            (Self::Files(subtrees), ThreadKind::Worker) => {
                landlock::restrict(subtrees)?;
                system_calls::restrict()
            }
            (Self::Files(_), ThreadKind::Session) | (Self::Free, _) => Ok(()),
        }
    }
}

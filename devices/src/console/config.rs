//! The window size, which the host changes while the guest runs (virtio 1.2, section 5.3.4).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::{io, mem};

use rustix::event::{EventfdFlags, eventfd};
use virtio::ConfigSpace;

/// Characters that fit on the host's terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WindowSize {
    /// Characters in a line.
    pub columns: u16,
    /// Lines.
    pub rows: u16,
}

/// Tells a console the size of its window; may be cloned and outlives resets.
#[derive(Debug, Clone)]
pub struct ConsoleHandle {
    shared: Arc<Shared>,
}

impl ConsoleHandle {
    pub(super) fn new() -> io::Result<Self> {
        let changed = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { shared: Arc::new(Shared { size: AtomicU32::new(0), changed }) })
    }

    /// The window has this size now. A guest that did not negotiate sizes does not notice.
    pub fn resize(&self, size: WindowSize) -> io::Result<()> {
        let packed = u32::from(size.columns) | u32::from(size.rows) << 16;
        if self.shared.size.swap(packed, Ordering::AcqRel) != packed {
            rustix::io::write(&self.shared.changed, &1u64.to_ne_bytes())?;
        }
        Ok(())
    }

    pub(super) fn space(&self) -> Arc<dyn ConfigSpace> {
        self.shared.clone()
    }

    /// Readable once the size changed.
    pub(super) fn changed(&self) -> BorrowedFd<'_> {
        self.shared.changed.as_fd()
    }

    /// Makes [`Self::changed`] wait for the next change.
    pub(super) fn clear_changed(&self) {
        // Fails only when there was no change.
        let _ = rustix::io::read(&self.shared.changed, &mut [0; mem::size_of::<u64>()]);
    }
}

#[derive(Debug)]
struct Shared {
    /// Columns in the low half, rows in the high half, as the guest reads them.
    size: AtomicU32,
    changed: OwnedFd,
}

impl ConfigSpace for Shared {
    fn read(&self, offset: u64, data: &mut [u8]) {
        virtio::read_bytes(&self.size.load(Ordering::Acquire).to_le_bytes(), offset, data);
    }
}

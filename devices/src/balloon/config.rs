//! What the host wants and what it knows, shared with the device (virtio 1.2, section 5.5.4).

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::event::{EventfdFlags, eventfd};
use virtio::ConfigSpace;

use super::pages::PAGE_SIZE;
use super::statistics::Statistics;

/// Offset of `actual`, the one field the driver writes.
const ACTUAL: u64 = 4;

/// The host's hand on a balloon; may be cloned and outlives resets.
#[derive(Debug, Clone)]
pub struct BalloonHandle {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    target: AtomicU32,
    actual: AtomicU32,
    asked_for_statistics: AtomicBool,
    statistics: Mutex<Option<Statistics>>,
    bell: OwnedFd,
}

impl BalloonHandle {
    pub(super) fn new() -> io::Result<Self> {
        let shared = Shared {
            target: AtomicU32::new(0),
            actual: AtomicU32::new(0),
            asked_for_statistics: AtomicBool::new(false),
            statistics: Mutex::new(None),
            bell: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Asks the guest to hand over this many bytes in all, whole pages of them. It does so as far and as fast as it
    /// can.
    pub fn set_target(&self, bytes: u64) -> io::Result<()> {
        let pages = u32::try_from(bytes / PAGE_SIZE).unwrap_or(u32::MAX);
        self.shared.target.store(pages, Ordering::Release);
        self.ring()
    }

    /// Bytes the guest says it handed over.
    pub fn actual(&self) -> u64 {
        u64::from(self.shared.actual.load(Ordering::Acquire)) * PAGE_SIZE
    }

    /// Asks the guest for fresh statistics; they arrive in [`Self::statistics`] when it answers.
    pub fn ask_for_statistics(&self) -> io::Result<()> {
        self.shared.asked_for_statistics.store(true, Ordering::Release);
        self.ring()
    }

    /// What the guest said last about its memory.
    pub fn statistics(&self) -> Option<Statistics> {
        *self.shared.statistics.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_statistics(&self, statistics: Statistics) {
        *self.shared.statistics.lock().unwrap_or_else(PoisonError::into_inner) = Some(statistics);
    }

    pub(super) fn take_question(&self) -> bool {
        self.shared.asked_for_statistics.swap(false, Ordering::AcqRel)
    }

    pub(super) fn space(&self) -> Arc<dyn ConfigSpace> {
        self.shared.clone()
    }

    /// Forgets what the last driver said.
    pub(super) fn forget_driver(&self) {
        self.shared.actual.store(0, Ordering::Release);
        *self.shared.statistics.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Readable once the host wants something.
    pub(super) fn bell(&self) -> BorrowedFd<'_> {
        self.shared.bell.as_fd()
    }

    /// Makes [`Self::bell`] wait for the next wish.
    pub(super) fn silence(&self) {
        // Fails only when it did not ring.
        let _ = rustix::io::read(&self.shared.bell, &mut [0; 8]);
    }

    fn ring(&self) -> io::Result<()> {
        rustix::io::write(&self.shared.bell, &1u64.to_ne_bytes())?;
        Ok(())
    }
}

impl ConfigSpace for Shared {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let target = self.target.load(Ordering::Acquire).to_le_bytes();
        let actual = self.actual.load(Ordering::Acquire).to_le_bytes();
        virtio::read_bytes(&[target, actual].concat(), offset, data);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if let (ACTUAL, Ok(bytes)) = (offset, <[u8; 4]>::try_from(data)) {
            self.actual.store(u32::from_le_bytes(bytes), Ordering::Release);
        }
    }
}

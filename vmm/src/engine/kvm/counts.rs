//! How often, and why, the guest left for user space. Relaxed counters: nobody orders anything by them.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::Counts;

/// Counters shared by all vCPU threads.
#[derive(Debug, Default)]
pub(super) struct Counters {
    port_reads: AtomicU64,
    port_writes: AtomicU64,
    memory_reads: AtomicU64,
    memory_writes: AtomicU64,
    others: AtomicU64,
}

impl Counters {
    pub(super) fn port_read(&self) {
        self.port_reads.fetch_add(1, Relaxed);
    }

    pub(super) fn port_write(&self) {
        self.port_writes.fetch_add(1, Relaxed);
    }

    pub(super) fn memory_read(&self) {
        self.memory_reads.fetch_add(1, Relaxed);
    }

    pub(super) fn memory_write(&self) {
        self.memory_writes.fetch_add(1, Relaxed);
    }

    pub(super) fn other(&self) {
        self.others.fetch_add(1, Relaxed);
    }

    /// What was counted so far.
    pub(super) fn read(&self) -> Counts {
        Counts {
            port_reads: self.port_reads.load(Relaxed),
            port_writes: self.port_writes.load(Relaxed),
            memory_reads: self.memory_reads.load(Relaxed),
            memory_writes: self.memory_writes.load(Relaxed),
            others: self.others.load(Relaxed),
        }
    }
}

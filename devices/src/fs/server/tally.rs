//! How many requests there were: what a guest's kernel really sends is the first question about any slowness.

use std::sync::atomic::{AtomicU64, Ordering};

/// Kinds of requests counted, by opcode; there are no others yet.
pub(super) const KINDS: usize = 64;

/// The counters.
#[derive(Debug)]
pub(super) struct Tally {
    by_opcode: [AtomicU64; KINDS],
    handed_over: AtomicU64,
}

/// Requests so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requests {
    /// By opcode (Linux's `enum fuse_opcode`); kinds that nobody knows are not counted.
    pub by_opcode: [u64; KINDS],
    /// How many of all were handed over to another thread, because they may take long.
    pub handed_over: u64,
}

impl Tally {
    pub(super) fn new() -> Self {
        Self { by_opcode: [const { AtomicU64::new(0) }; KINDS], handed_over: AtomicU64::new(0) }
    }

    pub(super) fn count(&self, opcode: u32) {
        if let Some(counter) = usize::try_from(opcode).ok().and_then(|opcode| self.by_opcode.get(opcode)) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn count_handed_over(&self) {
        self.handed_over.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn read(&self) -> Requests {
        Requests {
            by_opcode: self.by_opcode.each_ref().map(|counter| counter.load(Ordering::Relaxed)),
            handed_over: self.handed_over.load(Ordering::Relaxed),
        }
    }
}

//! Boot marks, for `--timings` and the benches.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// One moment of a start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// What happened, e.g. `engine ready`.
    pub name: &'static str,
    /// How long after the timeline's origin.
    pub at: Duration,
}

/// Marks in the order they were set; clones share them.
#[derive(Debug, Clone)]
pub struct Timeline {
    origin: Instant,
    marks: Arc<Mutex<Vec<Mark>>>,
}

impl Timeline {
    /// Starts at `origin`, which may lie before this call (the start of the process).
    pub fn since(origin: Instant) -> Self {
        Self { origin, marks: Arc::default() }
    }

    /// Sets a mark now.
    pub fn mark(&self, name: &'static str) {
        let mark = Mark { name, at: self.origin.elapsed() };
        self.marks.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(mark);
    }

    /// The marks so far.
    pub fn marks(&self) -> Vec<Mark> {
        self.marks.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }
}

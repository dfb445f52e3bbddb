//! Log lines a guest can cause must not fill the host's disk.

use std::time::{Duration, Instant};

/// One line per this time at most.
const PERIOD: Duration = Duration::from_secs(10);

/// Says when a repeated complaint may be logged again.
#[derive(Debug, Clone, Copy, Default)]
pub struct RateLimit {
    last: Option<Instant>,
}

impl RateLimit {
    /// True the first time, then at most once in ten seconds.
    pub fn allow(&mut self) -> bool {
        let now = Instant::now();
        let allowed = self.last.is_none_or(|last| now.duration_since(last) >= PERIOD);
        if allowed {
            self.last = Some(now);
        }
        allowed
    }
}

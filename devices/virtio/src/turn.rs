//! How long a device may serve before the worker looks up.

use std::time::{Duration, Instant};

/// Requests in one turn. A guest can refill a ring as fast as it is emptied; the worker must still see its stop signal
/// and the device's other queues.
const MAX_REQUESTS: u32 = 256;
/// Wall time of one turn, checked every few requests.
const MAX_TIME: Duration = Duration::from_millis(10);
const BETWEEN_CHECKS: u32 = 8;

/// The budget of one call into a device.
#[derive(Debug)]
pub(crate) struct Turn {
    left: u32,
    until: Instant,
}

impl Turn {
    pub(crate) fn new() -> Self {
        Self { left: MAX_REQUESTS, until: Instant::now() + MAX_TIME }
    }

    /// Whether one more request may be taken now.
    pub(crate) fn take(&mut self) -> bool {
        if self.left.is_multiple_of(BETWEEN_CHECKS) && Instant::now() >= self.until {
            self.left = 0;
        }
        let allowed = self.left > 0;
        self.left = self.left.saturating_sub(1);
        allowed
    }
}

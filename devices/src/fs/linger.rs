//! How long the worker looks for the guest's next request before it goes to sleep.
//!
//! Most requests come one by one: the guest waits for an answer, works with it for a moment and asks again. To put the
//! worker to sleep in between, and to have it woken by a kick, takes longer than most requests themselves. So while
//! requests keep coming at such a pace the worker stays awake, and the guest is spared its kicks; as soon as they do
//! not, it sleeps at once. On a host with one CPU it always does: there it would keep the guest from asking. Our own
//! kernel looks for answers in the same manner ([`feature::ANSWERS_SOON`](super::wire::feature)).

use std::thread;
use std::time::{Duration, Instant};

/// Longest time awake without a request: a guest whose CPUs are emulated needs half of it from an answer to its next
/// request (measured: longer gains nothing), one with CPUs of the host's a tenth.
const LONGEST: Duration = Duration::from_micros(300);
/// Requests in time after which it is worth to stay awake; misses count as much.
const TRUST: u8 = 4;
const MOST_TRUST: u8 = 16;

/// What the pace of requests has been.
#[derive(Debug)]
pub(super) struct Linger {
    /// When the last request was answered.
    last: Option<Instant>,
    trust: u8,
    /// The guest runs meanwhile.
    has_company: bool,
}

/// Whether the guest runs while the worker stays awake: with one CPU it does not.
pub(super) fn has_company() -> bool {
    // Who cannot count them most likely has several.
    thread::available_parallelism().map_or(true, |cpus| cpus.get() > 1)
}

impl Linger {
    pub(super) fn new() -> Self {
        Self::with(has_company())
    }

    fn with(has_company: bool) -> Self {
        Self { last: None, trust: 0, has_company }
    }

    /// Requests were found in a queue, and answered by now.
    pub(super) fn served(&mut self, found: Instant, now: Instant) {
        let is_soon = self.last.is_some_and(|last| found.saturating_duration_since(last) <= LONGEST);
        self.trust = if is_soon { self.trust.saturating_add(1).min(MOST_TRUST) } else { self.trust.saturating_sub(1) };
        self.last = Some(now);
    }

    /// Whether to look once more instead of going to sleep.
    pub(super) fn goes_on(&self, now: Instant) -> bool {
        self.has_company
            && self.trust >= TRUST
            && self.last.is_some_and(|last| now.saturating_duration_since(last) <= LONGEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_micros(20);
    const LATER: Duration = Duration::from_millis(5);

    /// After so many requests, each so long after the last answer; and the moment of that.
    fn after(requests: u32, gap: Duration) -> (Linger, Instant) {
        after_with(true, requests, gap)
    }

    fn after_with(has_company: bool, requests: u32, gap: Duration) -> (Linger, Instant) {
        let mut linger = Linger::with(has_company);
        let mut now = Instant::now();
        for _ in 0..requests {
            now += gap;
            linger.served(now, now);
        }
        (linger, now)
    }

    #[test]
    fn stays_awake_for_requests_that_keep_coming_and_not_for_long() {
        let (linger, now) = after(10, SOON);
        assert!(linger.goes_on(now + SOON));
        assert!(!linger.goes_on(now + LATER));
    }

    #[test]
    fn sleeps_at_once_where_requests_are_few_or_far_between() {
        for (linger, now) in [after(0, SOON), after(1, SOON), after(100, LATER)] {
            assert!(!linger.goes_on(now));
        }
    }

    #[test]
    fn leaves_the_only_cpu_to_the_guest() {
        let (linger, now) = after_with(false, 1000, SOON);
        assert!(!linger.goes_on(now));
    }

    #[test]
    fn stops_to_stay_awake_when_requests_stop_to_come_soon() {
        let (mut linger, mut now) = after(1000, SOON);
        for _ in 0..MOST_TRUST {
            now += LATER;
            linger.served(now, now);
        }
        assert!(!linger.goes_on(now));
    }
}

//! How fast this host's time stamp counter runs.
//!
//! An emulated CPU shows the guest the host's counter. A Linux guest on the microvm board cannot measure it well: an
//! emulated timer is too coarse, it gives up in most starts and then has no working clock. So it is told.

use std::arch::x86_64::_rdtsc;
use std::hint::spin_loop;
use std::time::{Duration, Instant};

/// A reading pair is good to some 50 ns; over this window that is 17 parts in a million, better than most crystals.
const MIN_WINDOW: Duration = Duration::from_millis(3);
/// Of this many readings the one that took least counts: the others were interrupted.
const READINGS: usize = 5;

/// A measurement that has begun.
#[derive(Debug, Clone, Copy)]
pub(super) struct TscClock {
    begin: Reading,
}

#[derive(Debug, Clone, Copy)]
struct Reading {
    ticks: u64,
    at: Instant,
}

impl TscClock {
    /// Begins to measure; the work of starting a VM fills most of the window.
    pub(super) fn start() -> Self {
        Self { begin: Reading::take() }
    }

    /// The frequency in kHz; waits for what is left of the window.
    pub(super) fn khz(self) -> u64 {
        while self.begin.at.elapsed() < MIN_WINDOW {
            spin_loop();
        }
        let end = Reading::take();
        let ticks = u128::from(end.ticks.saturating_sub(self.begin.ticks));
        let nanos = end.at.duration_since(self.begin.at).as_nanos().max(1);
        u64::try_from(ticks * 1_000_000 / nanos).unwrap_or(u64::MAX)
    }
}

impl Reading {
    fn take() -> Self {
        let mut best: Option<(u64, Self)> = None;
        for _ in 0..READINGS {
            let before = rdtsc();
            let at = Instant::now();
            let took = rdtsc().saturating_sub(before);
            if best.is_none_or(|(least, _)| took < least) {
                best = Some((took, Self { ticks: before.saturating_add(took / 2), at }));
            }
        }
        best.map_or_else(|| Self { ticks: rdtsc(), at: Instant::now() }, |(_, reading)| reading)
    }
}

fn rdtsc() -> u64 {
    // SAFETY: every x86-64 CPU has the instruction; where a process may not use it the kernel sends a signal, it does
    // not corrupt anything.
    unsafe { _rdtsc() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_measurements_agree() {
        let (first, second) = (TscClock::start().khz(), TscClock::start().khz());
        // A hundredth, where the guest's own clock would drift: the test machine may be busy.
        assert!(first.abs_diff(second) < first / 100, "{first} {second}");
    }

    #[test]
    fn frequency_is_that_of_a_cpu() {
        let khz = TscClock::start().khz();
        assert!((400_000..10_000_000).contains(&khz), "{khz}");
    }
}

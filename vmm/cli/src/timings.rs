//! The phases of a start, for people.

use std::io::{self, Write};
use std::time::Duration;

use vmm::Timeline;

/// Prints each mark with the time since the start and since the mark before.
pub fn print(timeline: &Timeline) {
    let mut out = io::stderr().lock();
    let mut before = Duration::ZERO;
    for mark in timeline.marks() {
        let (at, step) = (milliseconds(mark.at), milliseconds(mark.at.saturating_sub(before)));
        let _ = writeln!(out, "==> {at:9.1} ms  +{step:8.1}  {}", mark.name);
        before = mark.at;
    }
}

/// A duration as the benches print it.
pub fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

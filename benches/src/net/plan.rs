//! What is measured, and what makes one stack better than another.

use crate::table::Metric;

pub const UP: Metric = Metric::rate("bulk, guest to host", "MB/s");
pub const DOWN: Metric = Metric::rate("bulk, host to guest", "MB/s");
pub const MEDIAN: Metric = Metric::time("request and answer, p50", "us");
pub const TAIL: Metric = Metric::time("request and answer, p99", "us");
pub const CONNECT: Metric = Metric::rate("connections, 1 thread", "/s");
pub const CONNECT_16: Metric = Metric::rate("connections, 16 threads", "/s");
/// Right before the idle connections are opened, and while they are open.
pub const ALONE: [Metric; 2] =
    [Metric::rate("bulk alone, guest to host", "MB/s"), Metric::rate("bulk alone, host to guest", "MB/s")];
pub const CROWDED: [Metric; 2] = [
    Metric::rate("bulk among idle flows, guest to host", "MB/s"),
    Metric::rate("bulk among idle flows, host to guest", "MB/s"),
];
/// Anonymous memory that one idle connection costs its stack.
pub const PER_FLOW: Metric = Metric::time("memory of an idle flow", "KiB");

/// What is asked of a guest in each round, and the quantities that its answer holds.
pub fn round(seconds: u64, requests: u64) -> Vec<(String, Vec<Metric>)> {
    vec![
        (format!("up {seconds}"), vec![UP]),
        (format!("down {seconds}"), vec![DOWN]),
        (format!("rr {requests}"), vec![MEDIAN, TAIL]),
        (format!("connect 1 {seconds}"), vec![CONNECT]),
        (format!("connect 16 {seconds}"), vec![CONNECT_16]),
    ]
}

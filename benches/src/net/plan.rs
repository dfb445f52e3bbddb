//! What is measured, and what makes one stack better than another.

/// One quantity.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    pub name: &'static str,
    pub unit: &'static str,
    /// Whether more is better.
    pub is_rate: bool,
}

const fn rate(name: &'static str, unit: &'static str) -> Metric {
    Metric { name, unit, is_rate: true }
}

const fn time(name: &'static str, unit: &'static str) -> Metric {
    Metric { name, unit, is_rate: false }
}

/// What is asked of a guest in each round, and the quantities that its answer holds.
pub fn round(seconds: u64, requests: u64) -> Vec<(String, Vec<Metric>)> {
    vec![
        (format!("up {seconds}"), vec![rate("bulk, guest to host", "MB/s")]),
        (format!("down {seconds}"), vec![rate("bulk, host to guest", "MB/s")]),
        (format!("rr {requests}"), vec![time("request and answer, p50", "us"), time("request and answer, p99", "us")]),
        (format!("connect 1 {seconds}"), vec![rate("connections, 1 thread", "/s")]),
        (format!("connect 16 {seconds}"), vec![rate("connections, 16 threads", "/s")]),
    ]
}

/// What is asked while the idle connections are open.
pub fn crowded(seconds: u64) -> Vec<(String, Vec<Metric>)> {
    vec![
        (format!("up {seconds}"), vec![rate("bulk among idle flows, guest to host", "MB/s")]),
        (format!("down {seconds}"), vec![rate("bulk among idle flows, host to guest", "MB/s")]),
    ]
}

/// Anonymous memory that one idle connection costs its stack.
pub const PER_FLOW: Metric = time("memory of an idle flow", "KiB");

//! An end for cases that do not end: what they wait for is shown, then what they started is killed.

use std::fs;
use std::process;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use crate::progress::Progress;
use crate::{lab, leftovers};

/// More than twice what the longest case of `make test` takes in the lab beside other work.
pub(crate) const LIMIT: Duration = Duration::from_secs(1200);
/// How long a case may take to fail once nothing of what it started is left.
const GRACE: Duration = Duration::from_secs(60);

/// Watches a case until it is dropped.
pub(crate) struct Watch {
    _ends: Sender<()>,
}

impl Watch {
    /// Begins to watch a case, which has so long.
    pub(crate) fn over(case: &'static str, limit: Duration, progress: Progress) -> Self {
        let (sender, ends) = channel();
        thread::spawn(move || {
            if ends.recv_timeout(limit) != Err(RecvTimeoutError::Timeout) {
                return;
            }
            println!("\n{case} has not ended after {} s. What it started, and waits for:", limit.as_secs());
            leftovers::descendants().into_iter().for_each(|pid| show(&pid.as_raw_nonzero().to_string()));
            show(&process::id().to_string());
            // What is left is in the error, and shown above.
            let _ = leftovers::no_processes();
            if ends.recv_timeout(GRACE) == Err(RecvTimeoutError::Timeout) {
                println!("FAILED: it does not end with them");
                // The exit says it as well.
                let _ = progress.note("failed", case);
                process::exit(lab::MACHINE_FAILED);
            }
        });
        Self { _ends: sender }
    }
}

/// Shows what the threads of a process do in the kernel.
fn show(pid: &str) {
    println!("  {pid} {}", leftovers::command_line(pid));
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    for thread in threads {
        let read = |name: &str| fs::read_to_string(thread.path().join(name)).unwrap_or_default();
        let status = read("status");
        let state = status.lines().find_map(|line| line.strip_prefix("State:\t")).unwrap_or_default();
        println!("    {} {state}", read("comm").trim_end());
        read("stack").lines().for_each(|line| println!("      {line}"));
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::Instant;

    use super::*;

    #[test]
    fn what_a_case_started_is_killed_past_its_limit_and_not_before() {
        let start = || Command::new("sleep").arg("30").spawn().unwrap();
        let (mut patient, begun) = (start(), Instant::now());
        drop(Watch::over("in::time", Duration::from_millis(200), Progress::default()));
        thread::sleep(Duration::from_millis(400));
        assert!(patient.try_wait().unwrap().is_none());
        let _watch = Watch::over("too::late", Duration::ZERO, Progress::default());
        // The watch may have reaped it.
        assert!(!patient.wait().is_ok_and(|status| status.success()));
        assert!(begun.elapsed() < Duration::from_secs(25));
    }
}

//! An end for cases that do not end: what they wait for is shown, then what they started is killed.

use std::fs;
use std::process;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use crate::progress::Progress;
use crate::{lab, leftovers};

/// Longer than any case of `make test` takes in the lab beside other work, with its own limits added up.
const LIMIT: Duration = Duration::from_secs(1200);
/// How long a case may take to fail once nothing of what it started is left.
const GRACE: Duration = Duration::from_secs(60);

/// Watches a case until it is dropped.
pub(crate) struct Watch {
    _ends: Sender<()>,
}

impl Watch {
    /// Begins to watch a case.
    pub(crate) fn over(case: &'static str, progress: Progress) -> Self {
        let (sender, ends) = channel();
        thread::spawn(move || {
            if ends.recv_timeout(LIMIT) != Err(RecvTimeoutError::Timeout) {
                return;
            }
            println!("\n{case} has not ended after {} s. What it started, and waits for:", LIMIT.as_secs());
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

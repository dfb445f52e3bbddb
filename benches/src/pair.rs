//! Two commands in turns: a noisy machine is noisy for both, so their ratio per round says more than their times.

use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, bail};
use serde::Serialize;

use crate::stats::Summary;

/// What to compare.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Rounds that count; one more warms the caches
    #[arg(short = 'n', long, default_value_t = 10)]
    rounds: u16,
    /// Shell command that is measured
    ours: String,
    /// Shell command it is compared with
    peer: String,
    /// Exit with status 1 if the median ratio of `ours` to `peer` exceeds this
    #[arg(long, value_name = "RATIO")]
    at_most: Option<f64>,
}

#[derive(Debug, Serialize)]
struct Report {
    rounds: u16,
    ours_ms: Summary,
    peer_ms: Summary,
    /// Of each round, ours divided by the peer's.
    ratio: Summary,
}

/// Measures, prints, and answers whether `--at-most` holds.
pub fn run(args: &Args) -> anyhow::Result<bool> {
    let (mut ours, mut peer, mut ratio) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..=args.rounds {
        let (a, b) = (time(&args.ours)?, time(&args.peer)?);
        if round > 0 {
            ours.push(a);
            peer.push(b);
            ratio.push(a / b);
        }
    }
    let sum_up = |samples| Summary::of(samples).context("no rounds were asked for");
    let report = Report { rounds: args.rounds, ours_ms: sum_up(ours)?, peer_ms: sum_up(peer)?, ratio: sum_up(ratio)? };
    println!("{}", serde_json::to_string_pretty(&report)?);
    Ok(args.at_most.is_none_or(|limit| report.ratio.median <= limit))
}

/// Wall time of one run, in milliseconds.
fn time(command: &str) -> anyhow::Result<f64> {
    let start = Instant::now();
    let output = Command::new("sh").args(["-c", command]).stdin(Stdio::null()).output()?;
    let took = start.elapsed().as_secs_f64() * 1e3;
    if !output.status.success() {
        bail!("`{command}` failed ({}): {}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(took)
}

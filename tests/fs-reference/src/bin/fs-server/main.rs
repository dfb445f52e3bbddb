//! What one request costs each file server, without a guest: all of them behind the same queue, measured in turns.
//!
//! Only the time between a request's being there and its answer's being there counts, not the driver's part. See the
//! script `benches/fs-server`.

mod clock;
mod metric;
mod report;

use std::process::ExitCode;

use clap::Parser;
use fs_reference::servers::Kind;

use crate::clock::Clock;
use crate::metric::{Arm, METRICS};
use crate::report::Samples;

/// Measures the cost of requests to our file server, virtiofsd's and fuse-backend-rs's.
#[derive(Debug, Parser)]
struct Arguments {
    /// Rounds that count; one more warms up
    #[arg(short = 'n', long, default_value_t = 15)]
    rounds: usize,
    /// Only metrics whose names contain this
    #[arg(short, long, default_value = "")]
    metric: String,
    /// Only these servers, by name
    #[arg(short, long)]
    server: Vec<String>,
    /// Print JSON
    #[arg(short, long)]
    json: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let kinds = Kind::ALL
        .into_iter()
        .filter(|kind| arguments.server.is_empty() || arguments.server.iter().any(|server| server == kind.name()));
    let mut arms: Vec<Arm> = kinds.map(Arm::new).collect();
    let mut samples = Samples::default();
    for round in 0..=arguments.rounds {
        for metric in METRICS.iter().filter(|metric| metric.name.contains(&arguments.metric)) {
            for turn in 0..arms.len() {
                let at = (turn + round) % arms.len();
                let cost = (metric.measure)(&mut arms[at]);
                if round > 0 {
                    samples.add(metric, arms[at].kind.name(), cost);
                }
            }
        }
        eprintln!("==> round {round} of {}", arguments.rounds);
    }
    samples.print(arguments.json);
    ExitCode::SUCCESS
}

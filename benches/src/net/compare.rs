//! Takes the guests through the same measurements in turns, and compares.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{Context, bail};
use serde::Serialize;

use super::guest::Guest;
use super::peer::{self, port};
use super::plan::{self, Metric};
use crate::stats::Summary;

/// What to compare.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Address that the guests reach this program at
    address: IpAddr,
    /// The stacks, the one that the others are compared with first
    #[arg(required = true)]
    arms: Vec<String>,
    /// Rounds that count; one more warms up
    #[arg(short = 'n', long, default_value_t = 5)]
    rounds: u16,
    /// Seconds of each bulk and connection measurement
    #[arg(short, long, default_value_t = 2)]
    seconds: u64,
    /// Requests of each latency measurement
    #[arg(short, long, default_value_t = 3000)]
    requests: u64,
    /// Idle connections of the last measurement; 0 leaves it out
    #[arg(short, long, default_value_t = 10_000)]
    idle: u64,
    /// Folder with the file ARM.pid per stack, whose memory is looked at
    #[arg(long)]
    pids: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Samples by metric, in the order in which they were first taken, and by arm.
#[derive(Debug, Default)]
struct Samples(Vec<(Metric, BTreeMap<String, Vec<f64>>)>);

impl Samples {
    fn add(&mut self, metric: Metric, arm: &str, sample: f64) {
        let at = self.0.iter().position(|(known, _)| known.name == metric.name).unwrap_or(self.0.len());
        if at == self.0.len() {
            self.0.push((metric, BTreeMap::new()));
        }
        if let Some((_, by_arm)) = self.0.get_mut(at) {
            by_arm.entry(arm.to_owned()).or_default().push(sample);
        }
    }
}

#[derive(Debug, Serialize)]
struct Row {
    metric: &'static str,
    unit: &'static str,
    more_is_better: bool,
    arms: BTreeMap<String, Summary>,
    /// Of each round: the arm divided by the first one.
    ratio: BTreeMap<String, Summary>,
}

/// Measures and prints.
pub fn run(args: &Args) -> anyhow::Result<bool> {
    let control = peer::listen(args.address, port::CONTROL)?;
    peer::serve(args.address)?;
    let mut guests = Guest::gather(&control, &args.arms)?;
    let mut samples = Samples::default();
    for round in 0..=args.rounds {
        for (command, metrics) in plan::round(args.seconds, args.requests) {
            measure(args, &mut guests, &command, &metrics, round, &mut samples)?;
        }
        eprintln!("==> round {round} of {}", args.rounds);
    }
    if args.idle > 0 {
        let before = memory(args)?;
        for (arm, guest) in &mut guests {
            guest.ask(&format!("open {}", args.idle)).with_context(|| arm.clone())?;
        }
        for (arm, after) in memory(args)? {
            let grown = after.saturating_sub(before.get(&arm).copied().unwrap_or(after));
            samples.add(plan::PER_FLOW, &arm, to_f64(grown) / to_f64(args.idle));
        }
        for round in 0..=args.rounds {
            for (command, metrics) in plan::crowded(args.seconds) {
                measure(args, &mut guests, &command, &metrics, round, &mut samples)?;
            }
        }
    }
    print(args, samples)?;
    Ok(true)
}

/// One command to every guest, in an order that changes with the round.
fn measure(
    args: &Args,
    guests: &mut BTreeMap<String, Guest>,
    command: &str,
    metrics: &[Metric],
    round: u16,
    samples: &mut Samples,
) -> anyhow::Result<()> {
    let count = args.arms.len();
    for turn in 0..count {
        let Some(arm) = args.arms.get((turn + usize::from(round)) % count) else { continue };
        let guest = guests.get_mut(arm).with_context(|| format!("no guest {arm}"))?;
        let numbers = guest.ask(command).with_context(|| arm.clone())?;
        if numbers.len() != metrics.len() {
            bail!("{arm}: {} numbers in answer to {command:?}", numbers.len());
        }
        for (metric, number) in metrics.iter().zip(numbers).filter(|_| round > 0) {
            samples.add(*metric, arm, if metric.unit == "MB/s" { number / 1e6 } else { number });
        }
    }
    Ok(())
}

/// KiB of anonymous memory of every stack whose process is known.
fn memory(args: &Args) -> anyhow::Result<BTreeMap<String, u64>> {
    let Some(folder) = &args.pids else { return Ok(BTreeMap::new()) };
    let mut all = BTreeMap::new();
    for arm in &args.arms {
        let pid = fs::read_to_string(folder.join(format!("{arm}.pid"))).with_context(|| format!("{arm}.pid"))?;
        let status = fs::read_to_string(format!("/proc/{}/status", pid.trim())).with_context(|| arm.clone())?;
        let anonymous = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        let kib = anonymous.and_then(|value| value.split_whitespace().next()).and_then(|kib| kib.parse().ok());
        all.insert(arm.clone(), kib.context("no RssAnon in its status")?);
    }
    Ok(all)
}

fn print(args: &Args, samples: Samples) -> anyhow::Result<()> {
    let mut rows = Vec::new();
    for (metric, by_arm) in samples.0 {
        let first = args.arms.first().and_then(|arm| by_arm.get(arm)).cloned().unwrap_or_default();
        let ratios = |own: &[f64]| own.iter().zip(&first).map(|(own, first)| own / first).collect::<Vec<_>>();
        rows.push(Row {
            metric: metric.name,
            unit: metric.unit,
            more_is_better: metric.is_rate,
            arms: by_arm.iter().filter_map(|(arm, own)| Some((arm.clone(), Summary::of(own.clone())?))).collect(),
            ratio: by_arm.iter().filter_map(|(arm, own)| Some((arm.clone(), Summary::of(ratios(own))?))).collect(),
        });
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&rows)?);
        return Ok(());
    }
    for row in &rows {
        println!("{} ({}), median [ratio to {}]", row.metric, row.unit, args.arms.first().map_or("", String::as_str));
        for arm in &args.arms {
            let (Some(own), Some(ratio)) = (row.arms.get(arm), row.ratio.get(arm)) else { continue };
            println!("    {arm:12} {:10.1}   [{:.2}; {:.2} to {:.2}]", own.median, ratio.median, ratio.min, ratio.max);
        }
    }
    Ok(())
}

fn to_f64(count: u64) -> f64 {
    // KiB and connections: far below 2^53.
    std::time::Duration::from_micros(count).as_secs_f64() * 1e6
}

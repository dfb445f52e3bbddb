//! Takes the guests through the same measurements in turns, and compares.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::PoisonError;

use anyhow::{Context, bail};
use serde::Serialize;

use super::goal::{self, Goal};
use super::guest::{Guest, Refusal};
use super::peer::{self, port};
use super::plan;
use crate::table::{self, Metric, Row, Samples};

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
    /// Rounds with idle connections
    #[arg(long, default_value_t = 3)]
    idle_rounds: u16,
    /// Folder with the file ARM.pid per stack, whose memory is looked at
    #[arg(long)]
    pids: Option<PathBuf>,
    /// Print JSON; the goals come as a table all the same, on standard error
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    measured: Vec<Row>,
    goals: Vec<Goal>,
}

/// Measures and prints.
pub fn run(args: &Args) -> anyhow::Result<bool> {
    let control = peer::listen(args.address, port::CONTROL)?;
    let held = peer::serve(args.address)?;
    let mut guests = Guest::gather(&control, &args.arms)?;
    eprintln!("==> all guests are there");
    let mut samples = Samples::default();
    for round in 0..=args.rounds {
        for (command, metrics) in plan::round(args.seconds, args.requests) {
            let numbers: Result<Vec<_>, _> =
                turns(args, round).map(|arm| Ok((arm, measure(&mut guests, arm, &command, &metrics)?))).collect();
            match numbers {
                // The first round warms up.
                Ok(_) if round == 0 => {}
                Ok(numbers) => numbers.iter().for_each(|(arm, numbers)| samples.add_all(arm, numbers)),
                Err(error) => give_up(error)?,
            }
        }
        eprintln!("==> round {round} of {}", args.rounds);
    }
    for round in 1..=if args.idle > 0 { args.idle_rounds } else { 0 } {
        for arm in turns(args, round) {
            match crowd(args, &mut guests, arm) {
                Ok(mut numbers) => {
                    // Later rounds use again what the first one took.
                    numbers.retain(|(metric, _)| round == 1 || *metric != plan::PER_FLOW);
                    samples.add_all(arm, &numbers);
                }
                Err(error) => give_up(error)?,
            }
            measure(&mut guests, arm, "close", &[])?;
            held.lock().unwrap_or_else(PoisonError::into_inner).clear();
        }
        eprintln!("==> round {round} of {} with {} idle connections", args.idle_rounds, args.idle);
    }
    print(args, &samples)?;
    Ok(true)
}

/// What a guest could not measure is left out of all arms, so that rounds stay comparable; a guest that is gone ends
/// it.
fn give_up(error: anyhow::Error) -> anyhow::Result<()> {
    if !error.is::<Refusal>() {
        return Err(error);
    }
    eprintln!("==> left out: {error:#}");
    Ok(())
}

/// Bulk alone, and bulk among idle connections, which are open afterwards, and what one of those costs.
fn crowd(args: &Args, guests: &mut BTreeMap<String, Guest>, arm: &str) -> anyhow::Result<Vec<(Metric, f64)>> {
    let mut numbers = bulk(args, guests, arm, plan::ALONE)?;
    let before = memory(args, arm)?;
    measure(guests, arm, &format!("open {}", args.idle), &[])?;
    if let (Some(before), Some(after)) = (before, memory(args, arm)?) {
        numbers.push((plan::PER_FLOW, to_f64(after.saturating_sub(before)) / to_f64(args.idle)));
    }
    numbers.extend(bulk(args, guests, arm, plan::CROWDED)?);
    Ok(numbers)
}

/// The arms in an order that changes with the round.
fn turns(args: &Args, round: u16) -> impl Iterator<Item = &String> {
    let skip = usize::from(round) % args.arms.len().max(1);
    args.arms.iter().cycle().skip(skip).take(args.arms.len())
}

fn bulk(
    args: &Args,
    guests: &mut BTreeMap<String, Guest>,
    arm: &str,
    [up, down]: [Metric; 2],
) -> anyhow::Result<Vec<(Metric, f64)>> {
    let mut numbers = measure(guests, arm, &format!("up {}", args.seconds), &[up])?;
    numbers.extend(measure(guests, arm, &format!("down {}", args.seconds), &[down])?);
    Ok(numbers)
}

/// One command to one guest.
fn measure(
    guests: &mut BTreeMap<String, Guest>,
    arm: &str,
    command: &str,
    metrics: &[Metric],
) -> anyhow::Result<Vec<(Metric, f64)>> {
    let guest = guests.get_mut(arm).with_context(|| format!("no guest {arm}"))?;
    let numbers = guest.ask(command).with_context(|| arm.to_owned())?;
    if numbers.len() != metrics.len() {
        bail!("{arm}: {} numbers in answer to {command:?}", numbers.len());
    }
    let in_unit = |metric: Metric, number: f64| if metric.unit == "MB/s" { number / 1e6 } else { number };
    Ok(metrics.iter().zip(numbers).map(|(metric, number)| (*metric, in_unit(*metric, number))).collect())
}

/// KiB of anonymous memory of a stack, if its process is known.
fn memory(args: &Args, arm: &str) -> anyhow::Result<Option<u64>> {
    let Some(folder) = &args.pids else { return Ok(None) };
    let pid = fs::read_to_string(folder.join(format!("{arm}.pid"))).with_context(|| format!("{arm}.pid"))?;
    let status = fs::read_to_string(format!("/proc/{}/status", pid.trim())).with_context(|| arm.to_owned())?;
    let anonymous = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = anonymous.and_then(|value| value.split_whitespace().next()).and_then(|kib| kib.parse().ok());
    Ok(Some(kib.context("no RssAnon in its status")?))
}

fn print(args: &Args, samples: &Samples) -> anyhow::Result<()> {
    let report = Report { measured: samples.rows(&args.arms), goals: goal::goals(&args.arms, samples) };
    let goals = goal::table(&report.goals);
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
        eprintln!("{goals}");
    } else {
        table::print(&report.measured, &args.arms);
        println!("\n{goals}");
    }
    Ok(())
}

fn to_f64(count: u64) -> f64 {
    // KiB and connections: far below 2^53.
    std::time::Duration::from_micros(count).as_secs_f64() * 1e6
}

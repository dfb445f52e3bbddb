//! `vmm bench boot`: how long a start takes, by phase.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::Instant;

use launcher::{Attention, Command, Dirs, Error, Stdio};
use serde::Serialize;
use vmm::{Mark, Timeline};

use crate::args::BenchBootArgs;
use crate::timings::milliseconds;
use crate::{plan, report, signals};

/// The mark that ends a whole start.
const WHOLE_START: &str = "command started";

#[derive(Debug, Serialize)]
struct Report {
    runs: u16,
    phases: Vec<Phase>,
}

/// Time from the start of a run to one mark, in milliseconds.
#[derive(Debug, Serialize)]
struct Phase {
    name: &'static str,
    median_ms: f64,
    min_ms: f64,
    max_ms: f64,
}

/// Starts `true` again and again; status 1 if the median exceeds `--max-ms`.
pub fn boot(args: &BenchBootArgs) -> Result<u8, Error> {
    let dirs = Dirs::from_env()?;
    let folder = tempfile::tempdir().map_err(|source| Error::Host { doing: "Creating a temporary folder", source })?;
    let plan = plan::for_project(&args.vm, folder.path(), &dirs)?;
    let attention = Attention::default();
    signals::pass_to(&attention).map_err(|source| Error::Host { doing: "Taking over signals", source })?;
    let mut samples: BTreeMap<usize, (&'static str, Vec<f64>)> = BTreeMap::new();
    for run in 1..=args.runs {
        let marks = one_start(&plan, &dirs, &attention)?;
        for (index, mark) in marks.iter().enumerate() {
            samples.entry(index).or_insert((mark.name, Vec::new())).1.push(milliseconds(mark.at));
        }
        if !args.json {
            report::note(&format!("start {run} of {}", args.runs));
        }
    }
    let phases: Vec<Phase> = samples.into_values().map(|(name, times)| Phase::from_samples(name, times)).collect();
    let whole = phases.iter().find(|phase| phase.name == WHOLE_START).map_or(f64::INFINITY, |phase| phase.median_ms);
    print(&Report { runs: args.runs, phases }, args.json)
        .map_err(|source| Error::Host { doing: "Printing the result", source })?;
    let is_too_slow = args.max_ms.is_some_and(|limit| whole > milliseconds(std::time::Duration::from_millis(limit)));
    Ok(u8::from(is_too_slow))
}

fn one_start(plan: &launcher::Plan, dirs: &Dirs, attention: &Attention) -> Result<Vec<Mark>, Error> {
    let timeline = Timeline::since(Instant::now());
    let mut session = plan.start(dirs, &timeline, attention)?;
    let command = Command {
        words: vec!["/bin/true".into()],
        env: Vec::new(),
        workdir: plan.project.guest.clone(),
        user: "root".into(),
        terminal: None,
    };
    session.run(command, Stdio { stdin: None, stdout: io::sink(), stderr: io::stderr() })?;
    timeline.mark("command ended");
    session.stop();
    timeline.mark("guest stopped");
    Ok(timeline.marks())
}

impl Phase {
    fn from_samples(name: &'static str, mut times: Vec<f64>) -> Self {
        times.sort_by(f64::total_cmp);
        let at = |index: usize| times.get(index).copied().unwrap_or(f64::NAN);
        let (low, high) = ((times.len().saturating_sub(1)) / 2, times.len() / 2);
        Self {
            name,
            median_ms: f64::midpoint(at(low), at(high)),
            min_ms: at(0),
            max_ms: at(times.len().saturating_sub(1)),
        }
    }
}

fn print(report: &Report, is_json: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if is_json {
        return writeln!(out, "{}", serde_json::to_string_pretty(report)?);
    }
    writeln!(
        out,
        "{:18} {:>10} {:>10} {:>10}   ms after the start, {} starts",
        "", "median", "min", "max", report.runs
    )?;
    for phase in &report.phases {
        let Phase { name, median_ms, min_ms, max_ms } = phase;
        writeln!(out, "{name:18} {median_ms:10.1} {min_ms:10.1} {max_ms:10.1}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_of_an_even_number_lies_between_the_two_in_the_middle() {
        let phase = Phase::from_samples("x", vec![4.0, 1.0, 2.0, 100.0]);
        assert_eq!((phase.median_ms, phase.min_ms, phase.max_ms), (3.0, 1.0, 100.0));
    }

    #[test]
    fn median_of_one_is_itself() {
        assert_eq!(Phase::from_samples("x", vec![7.0]).median_ms, 7.0);
    }
}

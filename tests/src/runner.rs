//! Runs cases and reports on them in the words of cargo's own test runner.

use std::any::Any;
use std::env;
use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};

use crate::progress::{Past, Progress};
use crate::stage::{Engine, Host, Stage};
use crate::watch::{self, Watch};
use crate::{lab, leftovers};

/// One thing the whole system must do.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    /// `module::behaviour`.
    pub name: &'static str,
    /// Both halves of the test; an error is a failure.
    pub run: fn(&Stage) -> Result<()>,
}

/// The program: runs the cases whose names contain one of the arguments; `--list` names them. Without arguments it runs
/// all, but in the lab not those whose names begin with one of `slow`: it says so, and how to run them, too.
pub fn main(cases: &[Case], slow: &[&str]) -> ExitCode {
    let words: Vec<String> = env::args().skip(1).collect();
    if words.iter().any(|word| word == "--list") {
        cases.iter().for_each(|case| println!("{}: test", case.name));
        return ExitCode::SUCCESS;
    }
    let outcome = Engine::from_env().and_then(|engine| {
        if engine == Engine::Kvm && !lab::is_here() {
            return lab::run_self(&words);
        }
        let is_slow = |case: &Case| slow.iter().any(|start| case.name.starts_with(start));
        let is_short = words.is_empty() && lab::is_emulated();
        if is_short {
            println!("\nLEFT OUT IN THE LAB, which takes many minutes for them (`cargo test ... -- ::` runs all):");
            cases.iter().filter(|case| is_slow(case)).for_each(|case| println!("    {}", case.name));
        }
        let is_named = |case: &Case| words.is_empty() || words.iter().any(|word| case.name.contains(word.as_str()));
        let wanted = |case: &&Case| is_named(case) && !(is_short && is_slow(case));
        let chosen = Part::from_env()?.of(cases.iter().filter(wanted).copied());
        run(&chosen, cases.len() - chosen.len(), engine, words.is_empty())
    });
    outcome.unwrap_or_else(|error| {
        eprintln!("The system tests cannot run: {error:#}");
        ExitCode::FAILURE
    })
}

/// Which of the cases, where several of these programs share them: `VMM_TEST_PART` is `2/3` for the second of three.
struct Part {
    number: usize,
    count: usize,
}

impl Part {
    fn from_env() -> Result<Self> {
        let Some(text) = env::var_os("VMM_TEST_PART") else { return Ok(Self { number: 1, count: 1 }) };
        let numbers = text.to_str().and_then(|text| text.split_once('/'));
        let part =
            numbers.and_then(|(number, count)| Some(Self { number: number.parse().ok()?, count: count.parse().ok()? }));
        part.filter(|part| (1..=part.count).contains(&part.number))
            .with_context(|| format!("VMM_TEST_PART must be a part such as 1/2, it is {text:?}"))
    }

    /// Neighbours go to different parts: cases of a kind take about as long.
    fn of(&self, cases: impl Iterator<Item = Case>) -> Vec<Case> {
        cases.skip(self.number - 1).step_by(self.count).collect()
    }
}

/// Runs cases, but for those that a machine before this one ended; with a limit for each if they are `watched`.
fn run(cases: &[Case], filtered_out: usize, engine: Engine, watched: bool) -> Result<ExitCode> {
    leftovers::adopt_orphans()?;
    let host = Host::find(engine)?;
    let progress = Progress::from_env()?;
    let begun = Instant::now();
    println!("\nrunning {} tests with the {engine} engine", cases.len());
    let mut failures = Vec::new();
    for case in cases {
        match progress.past(case.name) {
            Some(Past::Passed) => continue,
            Some(Past::Failed) => {
                failures.push(case.name);
                continue;
            }
            Some(Past::Lost) => {
                println!("test {} ... FAILED: the machine ended each time that it ran", case.name);
                failures.push(case.name);
                continue;
            }
            None => progress.note("begun", case.name)?,
        }
        print!("test {} ... ", case.name);
        io::stdout().flush()?;
        let at = Instant::now();
        let watch = watched.then(|| Watch::over(case.name, watch::LIMIT, progress.clone()));
        let outcome = run_one(case, &host);
        drop(watch);
        progress.note(if outcome.is_ok() { "passed" } else { "failed" }, case.name)?;
        match outcome {
            Ok(()) => println!("ok ({:.1} s)", at.elapsed().as_secs_f64()),
            Err(error) => {
                println!("FAILED ({:.1} s)\n{error:#}\n", at.elapsed().as_secs_f64());
                failures.push(case.name);
            }
        }
    }
    report(cases.len(), filtered_out, &failures, begun.elapsed());
    Ok(if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn run_one(case: &Case, host: &Host) -> Result<()> {
    let stage = Stage::set(host)?;
    let outcome =
        catch_unwind(AssertUnwindSafe(|| (case.run)(&stage))).unwrap_or_else(|panic| Err(from_panic(&*panic)));
    // What a failed case left is the failure's fault, and must not hit the next case.
    let clean = stage.clear();
    outcome.and(clean.context("The case passed, but left something behind"))
}

fn from_panic(panic: &(dyn Any + Send)) -> anyhow::Error {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    anyhow!("panicked: {}", text.unwrap_or("with something that is not text"))
}

fn report(ran: usize, filtered_out: usize, failures: &[&str], took: Duration) {
    if !failures.is_empty() {
        println!("\nfailures:");
        failures.iter().for_each(|name| println!("    {name}"));
    }
    println!(
        "\ntest result: {}. {} passed; {} failed; 0 ignored; 0 measured; {filtered_out} filtered out; finished in {:.2}s\n",
        if failures.is_empty() { "ok" } else { "FAILED" },
        ran - failures.len(),
        failures.len(),
        took.as_secs_f64()
    );
}

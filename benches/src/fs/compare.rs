//! Takes the arms through the same steps in turns, and compares.

use std::collections::BTreeMap;

use anyhow::{Context, bail};

use super::plan::{Before, EDIT, OPERATIONS, PROGRAMS, Step, UNDO_EDITS};
use super::worker::Worker;
use crate::table::{self, Samples};

/// What to compare.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A place where work is done: NAME=SHELL-COMMAND; the one called `host` is this machine
    #[arg(long = "worker", required = true, value_parser = worker)]
    workers: Vec<(String, String)>,
    /// A folder there: NAME=WORKER:FOLDER[:FOLDER ON THE HOST]; the others are compared with the first
    #[arg(long = "arm", required = true, value_parser = arm)]
    arms: Vec<(String, Place)>,
    /// Where arms find what is not in each of their folders: WORKER:FOLDER
    #[arg(long = "shared", value_parser = pair)]
    shared: Vec<(String, String)>,
    /// Rounds of single operations that count; one more warms up
    #[arg(short = 'n', long, default_value_t = 5)]
    rounds: u16,
    /// Rounds of programs that count; one more warms up
    #[arg(short, long, default_value_t = 3)]
    programs: u16,
    /// Leave out steps whose names contain this (repeatable)
    #[arg(long)]
    without: Vec<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// A folder as a worker knows it, and as the host does.
#[derive(Debug, Clone)]
struct Place {
    worker: String,
    folder: String,
    on_host: Option<String>,
}

const HOST: &str = "host";

fn worker(text: &str) -> Result<(String, String), String> {
    text.split_once('=').map(|(name, command)| (name.into(), command.into())).ok_or_else(|| "NAME=COMMAND".into())
}

fn pair(text: &str) -> Result<(String, String), String> {
    text.split_once(':').map(|(name, folder)| (name.into(), folder.into())).ok_or_else(|| "WORKER:FOLDER".into())
}

fn arm(text: &str) -> Result<(String, Place), String> {
    let (name, place) = text.split_once('=').ok_or("NAME=WORKER:FOLDER")?;
    let mut parts = place.split(':').map(str::to_owned);
    let (Some(worker), Some(folder)) = (parts.next(), parts.next()) else { return Err("NAME=WORKER:FOLDER".into()) };
    Ok((name.into(), Place { worker, folder, on_host: parts.next() }))
}

/// Measures and prints.
pub fn run(args: &Args) -> anyhow::Result<bool> {
    let mut bench = Bench { args, workers: BTreeMap::new(), samples: Samples::default() };
    for (name, command) in &args.workers {
        let worker = Worker::start(command).with_context(|| format!("worker {name}"))?;
        bench.workers.insert(name.clone(), worker);
    }
    for (rounds, steps) in [(args.rounds, OPERATIONS), (args.programs, PROGRAMS)] {
        if rounds == 0 {
            continue;
        }
        for round in 0..=rounds {
            for step in steps.iter().filter(|step| !args.without.iter().any(|word| step.metric.name.contains(word))) {
                bench.measure(step, round)?;
            }
            eprintln!("==> round {round} of {rounds}");
        }
    }
    let arms: Vec<String> = args.arms.iter().map(|(name, _)| name.clone()).collect();
    let rows = bench.samples.rows(&arms);
    if args.json {
        println!("{}", serde_json::to_string_pretty(&rows)?);
    } else {
        table::print(&rows, &arms);
    }
    Ok(true)
}

#[derive(Debug)]
struct Bench<'a> {
    args: &'a Args,
    workers: BTreeMap<String, Worker>,
    samples: Samples,
}

impl Bench<'_> {
    /// One step in every arm, in an order that changes with the round.
    fn measure(&mut self, step: &Step, round: u16) -> anyhow::Result<()> {
        let arms = &self.args.arms;
        for turn in 0..arms.len() {
            let Some((name, place)) = arms.get((turn + usize::from(round)) % arms.len()) else { continue };
            let numbers = match self.perform(step, place) {
                Ok(numbers) => numbers,
                // A program that is not installed there, for one.
                Err(error) => {
                    eprintln!("==> {name} leaves out {:?}: {error:#}", step.metric.name);
                    continue;
                }
            };
            let &[number] = numbers.as_slice() else {
                bail!("{name}: {} numbers for {:?}", numbers.len(), step.command)
            };
            if round > 0 {
                self.samples.add(step.metric, name, number);
            }
        }
        Ok(())
    }

    fn perform(&mut self, step: &Step, place: &Place) -> anyhow::Result<Vec<f64>> {
        match step.before {
            Before::Nothing => {}
            // The host's caches are warm for everybody.
            Before::Cold if place.worker == HOST => {}
            Before::Cold => drop(self.ask(&place.worker, "drop", &place.folder)?),
            Before::Do(command) => drop(self.ask(&place.worker, command, &place.folder)?),
            Before::Edits => drop(self.edit(EDIT, place)?),
            Before::Meanwhile(command) => return self.together(command, step.command, place),
        }
        let numbers = self.ask(&place.worker, step.command, &place.folder)?;
        if step.before == Before::Edits {
            self.edit(UNDO_EDITS, place)?;
            // Git looks into files that changed in the same second as its index.
            std::thread::sleep(std::time::Duration::from_millis(1100));
        }
        Ok(numbers)
    }

    fn edit(&mut self, command: &str, place: &Place) -> anyhow::Result<Vec<f64>> {
        match &place.on_host {
            Some(folder) => self.ask(HOST, command, folder),
            None => self.ask(&place.worker, command, &place.folder),
        }
    }

    /// The host's numbers for a command of its own, while the guest does another.
    fn together(&mut self, guests: &str, hosts: &str, place: &Place) -> anyhow::Result<Vec<f64>> {
        let folder = place.on_host.as_ref().filter(|_| place.worker != HOST).context("nobody else is there")?;
        let command = self.tell(&place.worker, guests, &place.folder)?;
        let numbers = self.ask(HOST, hosts, folder)?;
        self.worker(&place.worker)?.hear(&command)?;
        Ok(numbers)
    }

    fn ask(&mut self, worker: &str, command: &str, folder: &str) -> anyhow::Result<Vec<f64>> {
        let command = self.tell(worker, command, folder)?;
        self.worker(worker)?.hear(&command)
    }

    /// Gives a command to a worker, and says how it read there.
    fn tell(&mut self, worker: &str, command: &str, folder: &str) -> anyhow::Result<String> {
        let shared = self.args.shared.iter().find(|(name, _)| name == worker).map_or(folder, |(_, folder)| folder);
        let command = command.replace("@@", shared).replace('@', folder);
        self.worker(worker)?.tell(&command)?;
        Ok(command)
    }

    fn worker(&mut self, name: &str) -> anyhow::Result<&mut Worker> {
        self.workers.get_mut(name).with_context(|| format!("no worker {name}"))
    }
}

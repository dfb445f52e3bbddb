//! The `vmm` command: arguments, terminal, exit status. Everything else is the `launcher` package's.
#![forbid(unsafe_code)]

mod args;
mod bench;
mod doctor;
mod log;
mod network;
mod plan;
mod policy;
mod ports;
mod report;
mod run;
mod signals;
mod status;
mod terminal;
mod timings;
mod which;

use std::process::ExitCode;
use std::time::Instant;
use std::{env, io};

use clap::Parser;
use clap::error::ErrorKind;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer as _, fmt};

use crate::args::{BenchCommand, Cli, Command};

fn main() -> ExitCode {
    let origin = Instant::now();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Nothing is left to tell the user if even this cannot be printed.
            let _ = error.print();
            let is_help = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            return ExitCode::from(if is_help { 0 } else { report::FAILED });
        }
    };
    start_log();
    let outcome = match cli.command {
        Command::Run(args) => run::run(&args, origin).map_err(|error| report::command_failure(&error)),
        Command::Policy(args) => policy::run(&args).map_err(|error| report::failure(&error)),
        Command::Status(args) => status::run(&args).map_err(|error| report::failure(&error)),
        Command::Port(args) => ports::run(&args).map_err(|error| report::failure(&error)),
        Command::Log(args) => log::run(&args).map_err(|error| report::failure(&error)),
        Command::Doctor(args) => doctor::run(&args).map_err(|error| report::failure(&error)),
        Command::Bench(BenchCommand::Boot(args)) => bench::boot(&args).map_err(|error| report::failure(&error)),
    };
    ExitCode::from(outcome.unwrap_or(report::FAILED))
}

/// `VMM_LOG` takes a filter such as `debug` or `vmm=trace`; by default only what the user should act on is shown.
fn start_log() {
    let asked = env::var("VMM_LOG").ok();
    let parsed = asked.as_deref().map(str::parse::<Targets>);
    let is_wrong = matches!(parsed, Some(Err(_)));
    let filter = parsed.and_then(Result::ok).unwrap_or_else(|| Targets::new().with_default(LevelFilter::WARN));
    let lines = fmt::layer().with_writer(io::stderr).without_time();
    tracing_subscriber::registry().with(lines.with_filter(filter)).init();
    if is_wrong {
        let asked = asked.unwrap_or_default();
        tracing::warn!(
            "VMM_LOG={asked} is no filter and counts for nothing; right would be: VMM_LOG=debug, VMM_LOG=warn,vmm=trace"
        );
    }
}

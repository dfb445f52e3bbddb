//! `bench`: the measuring half of the scripts in this folder. They set things up; this times, compares and prints.
#![forbid(unsafe_code)]

mod overhead;
mod pair;
mod stats;

use std::process::ExitCode;

use clap::Parser;

/// Measures commands and processes, and prints JSON.
#[derive(Debug, Parser)]
enum Bench {
    /// Run two commands in turns and compare their wall times
    Pair(pair::Args),
    /// Memory of a running VM's processes beside the guest's RAM
    Overhead(overhead::Args),
}

fn main() -> ExitCode {
    let outcome = match Bench::parse() {
        Bench::Pair(args) => pair::run(&args),
        Bench::Overhead(args) => overhead::run(&args),
    };
    match outcome {
        Ok(is_within) if is_within => ExitCode::SUCCESS,
        Ok(_) => ExitCode::from(1),
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::from(2)
        }
    }
}

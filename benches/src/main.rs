//! `bench`: the measuring half of the scripts in this folder. They set things up; this times, compares and prints.
#![forbid(unsafe_code)]

mod fs;
mod net;
mod overhead;
mod pair;
mod stats;
mod table;

use std::process::ExitCode;

use clap::Parser;

/// Measures commands and processes, and prints JSON.
#[derive(Debug, Parser)]
enum Bench {
    /// Run two commands in turns and compare their wall times
    Pair(pair::Args),
    /// Memory of a running VM's processes beside the guest's RAM
    Overhead(overhead::Args),
    /// Measure folders that are shared in different ways in turns; see the script benches/fs
    Fs(fs::Args),
    /// Measure guests behind different network stacks in turns; see the script benches/net
    Net(net::CompareArgs),
    /// Run a guest behind our network stack, for the command above
    NetVm(net::VmArgs),
    /// Succeed if guest kernels run on the hardware here, under KVM
    Kvm,
}

fn main() -> ExitCode {
    let outcome = match Bench::parse() {
        Bench::Pair(args) => pair::run(&args),
        Bench::Overhead(args) => overhead::run(&args),
        Bench::Fs(args) => fs::run(&args),
        Bench::Net(args) => net::compare(&args),
        Bench::NetVm(args) => net::run_vm(&args),
        Bench::Kvm => Ok(vmm::probe().kvm.is_usable()),
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

//! The command line: every flag that exists, and nothing that does not work.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use launcher::parse_size as size;

use crate::network::NetworkArgs;
use crate::policy::PolicyArgs;

use crate::log::LogArgs;
use crate::ports::{PortArgs, PublishArgs};
use crate::status::StatusArgs;

/// Boots a micro-VM around your project and runs a command in it.
#[derive(Debug, Parser)]
#[command(name = "vmm", version, max_term_width = 110)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a command in the project's VM
    Run(Box<RunArgs>),
    /// Show running VMs: engine, shares, network, ports
    Status(StatusArgs),
    /// Show, publish and free ports of a running VM
    Port(PortArgs),
    /// Show what a VM tried to reach, and what became of it
    Log(LogArgs),
    /// What the guest may reach: show it, explain one destination, test a table of them
    Policy(PolicyArgs),
    /// Check what this machine offers: engine, KVM, QEMU, image
    Doctor(DoctorArgs),
    /// Measure how long starts take
    #[command(subcommand)]
    Bench(BenchCommand),
}

#[derive(Debug, Args)]
#[command(override_usage = "vmm run [OPTIONS] [--] COMMAND [ARGS]...", after_long_help = RUN_HELP)]
pub struct RunArgs {
    #[command(flatten)]
    pub vm: VmArgs,
    #[command(flatten)]
    pub share: ShareArgs,
    #[command(flatten)]
    pub network: NetworkArgs,
    #[command(flatten)]
    pub ports: PublishArgs,
    #[command(flatten)]
    pub process: ProcessArgs,
    #[command(flatten)]
    pub output: OutputArgs,
    /// Command and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND", help_heading = "Command")]
    pub command: Vec<OsString>,
}

const RUN_HELP: &str = "\
Examples:
  vmm run -- claude                        the agent, in the current folder
  vmm run --project ~/src/app -- make test
  vmm run --no-network -- python3 untrusted.py
  vmm run --mount ~/data:/data:ro -- sh
  vmm run --publish 8080:80 -- ./serve     localhost:8080 is the guest's port 80
  git diff | vmm run -- sh -c 'wc -l'      pipes work

Options not given here come from the environment (VMM_ENGINE, VMM_CPUS, VMM_MEMORY, VMM_IMAGE), then from \
~/.config/vmm/config.toml (its [project.\"PATH\"] tables, then its top level), then from the defaults. A vmm.toml in the \
project can only narrow the network further. `vmm policy --help` tells more about both.

Exit status: the command's own; 125 when vmm itself failed, 126 when the command could not be started, 127 when it was \
not found, 128+N when signal N ended it.";

/// The library says which numbers are too many.
fn cpus(text: &str) -> Result<u8, String> {
    text.parse().map_err(|_| format!("`{text}` is no number of CPUs; write for example 4"))
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Virtual machine")]
pub struct VmArgs {
    /// Who runs the CPUs [default: auto]
    #[arg(long, value_enum, env = "VMM_ENGINE", hide_env = true)]
    pub engine: Option<EngineArg>,
    /// Virtual CPUs [default: 2]
    #[arg(long, value_name = "N", env = "VMM_CPUS", hide_env = true, value_parser = cpus)]
    pub cpus: Option<u8>,
    /// Memory ceiling; what the guest does not use stays with the host [default: 2G]
    #[arg(long, value_name = "SIZE", env = "VMM_MEMORY", hide_env = true, value_parser = size)]
    pub memory: Option<vmm::Mib>,
    /// Size of the guest's writable disk (sparse) [default: 20G]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub disk: Option<vmm::Mib>,
    /// Root image: a folder as `make image` leaves it, or an EROFS file
    #[arg(long, value_name = "PATH", env = "VMM_IMAGE", hide_env = true)]
    pub image: Option<PathBuf>,
    /// Kernel instead of the built-in one: vmlinux or bzImage
    #[arg(long, value_name = "PATH")]
    pub kernel: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Files")]
pub struct ShareArgs {
    /// Folder to share at its own path
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub project: PathBuf,
    /// Share another folder or file (repeatable)
    #[arg(long = "mount", value_name = "HOST[:GUEST][:ro]")]
    pub mounts: Vec<OsString>,
    /// Let the guest read this, not change it; PATH begins at the project (repeatable) [default for every project:
    /// what makes the host run code later, such as .git/hooks, .git/config, .envrc, .vscode]
    #[arg(long, value_name = "PATH")]
    pub protect: Vec<PathBuf>,
    /// Do not protect anything by default
    #[arg(long)]
    pub no_default_protect: bool,
    /// Do not let the guest see this; PATH begins at the project (repeatable)
    #[arg(long, value_name = "PATH")]
    pub hide: Vec<PathBuf>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Process")]
pub struct ProcessArgs {
    /// Environment variable for the command; without a value, the host's (repeatable)
    #[arg(long, value_name = "NAME[=VALUE]")]
    pub env: Vec<OsString>,
    /// Working folder in the guest [default: the current one if it lies in the project, else the project]
    #[arg(long, value_name = "DIR")]
    pub workdir: Option<PathBuf>,
    /// User in the guest, by name or number [default: root]
    #[arg(long, value_name = "USER")]
    pub user: Option<OsString>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Output")]
pub struct OutputArgs {
    /// Print the phases of the start and how long each took
    #[arg(long)]
    pub timings: bool,
    /// Print nothing of our own but errors
    #[arg(long, short, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Print the guest's console too
    #[arg(long, short)]
    pub verbose: bool,
    /// Check everything, print what would be started, start nothing
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Subcommand)]
pub enum BenchCommand {
    /// Boot again and again; median and spread of each phase
    Boot(BenchBootArgs),
}

#[derive(Debug, Args)]
pub struct BenchBootArgs {
    /// Starts to measure
    #[arg(short = 'n', long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..))]
    pub runs: u16,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Exit with status 1 if the median of a whole start exceeds this
    #[arg(long, value_name = "MS")]
    pub max_ms: Option<u64>,
    #[command(flatten)]
    pub vm: VmArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum EngineArg {
    /// kvm where it is real, else qemu
    Auto,
    /// Our VMM on /dev/kvm
    Kvm,
    /// CPUs emulated by a QEMU child
    Qemu,
}

impl From<EngineArg> for vmm::Engine {
    fn from(engine: EngineArg) -> Self {
        match engine {
            EngineArg::Auto => Self::Auto,
            EngineArg::Kvm => Self::Kvm,
            EngineArg::Qemu => Self::Qemu,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn definitions_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn everything_after_the_command_is_the_command_s() {
        let cli = Cli::try_parse_from(["vmm", "run", "--cpus", "1", "--", "ls", "--quiet"]).unwrap();
        let Command::Run(run) = cli.command else { panic!("not a run") };
        assert_eq!(run.command, ["ls", "--quiet"]);
        assert!(!run.output.quiet);
    }
}

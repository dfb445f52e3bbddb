//! `vmm log --egress`: what the network stack decided about a guest.

use std::io::{self, Write};

use clap::Args;
use launcher::{Dirs, Entry, Error, Followed, Tail};

use crate::{report, which};

#[derive(Debug, Args)]
#[command(after_help = "\
A line for every connection and name that was allowed or denied, with the rule that decided, and for every connection that \
ended, with its bytes. Lines about the same connection have the same number (#). A client of a published port has its own \
line: client -> port of this host -> port of the guest. The logs of the 32 VMs started last are kept, 16 MiB of each.")]
pub struct LogArgs {
    #[command(flatten)]
    which: which::WhichArgs,
    /// What the guest tried to reach
    #[arg(long, required = true)]
    egress: bool,
    /// Go on with what is written from now on, until Ctrl-C
    #[arg(long, short)]
    follow: bool,
    /// Print the lines as they are stored, one JSON object each
    #[arg(long)]
    json: bool,
    /// Also what earlier VMs of the project wrote
    #[arg(long)]
    all: bool,
}

/// Prints a VM's log.
pub fn run(args: &LogArgs) -> Result<u8, Error> {
    let dirs = Dirs::from_env()?;
    let (_, folder) = which::recorded(&dirs, args.which.vm.as_deref())?;
    let mut tail = Tail::open(&folder);
    let outcome = tail.read().and_then(|lines| {
        let lines = if args.all { lines } else { Tail::last_run(lines) };
        print(&lines, args.json)?;
        if !args.follow {
            return Ok(());
        }
        if tail.follow(|lines| print(&lines, args.json).map(|()| true))? == Followed::Gone {
            report::note("the log ends here: its files were removed");
        }
        Ok(())
    });
    match outcome {
        // Whoever read this has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(0),
        outcome => outcome.map(|()| 0).map_err(|source| Error::Host { doing: "Reading the egress log", source }),
    }
}

fn print(lines: &[(String, Entry)], json: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for (text, entry) in lines {
        if json {
            writeln!(out, "{text}")?;
        } else {
            writeln!(out, "{entry}")?;
        }
    }
    out.flush()
}

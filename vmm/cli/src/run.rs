//! `vmm run`: one VM, one command.

use std::ffi::OsString;
use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::Instant;

use launcher::{Attention, Command, Dirs, Error, Network, NetworkStatus, Plan, Session, ShareStatus, Stdio, printable};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use vmm::Timeline;

use crate::args::{OutputArgs, RunArgs};
use crate::{plan, ports, report, signals, terminal, timings};

/// What a shell adds to a signal's number in an exit status.
const SIGNALLED: u8 = 128;

/// Runs the command and returns the exit status to leave with.
pub fn run(args: &RunArgs, origin: Instant) -> Result<u8, Error> {
    raise_descriptor_limit();
    let dirs = Dirs::from_env()?;
    let asked = plan::for_run(args, &dirs)?;
    let plan = &asked.plan;
    let command = command(args, &asked);
    command.check()?;
    if args.output.dry_run {
        plan.check(&dirs)?;
        describe(plan);
        return Ok(0);
    }
    let attention = Attention::default();
    signals::pass_to(&attention).map_err(|source| Error::Host { doing: "Taking over signals", source })?;
    match start(args, &asked, command, &dirs, &attention, &Timeline::since(origin)) {
        Err(Error::Interrupted) => {
            report::note("interrupted; the command did not run, and nothing is left behind");
            Ok(status_of(attention.first_signal()))
        }
        outcome => outcome,
    }
}

/// Starts the VM, runs the command, stops the VM.
fn start(
    args: &RunArgs,
    asked: &plan::Run,
    command: Command,
    dirs: &Dirs,
    attention: &Attention,
    timeline: &Timeline,
) -> Result<u8, Error> {
    let plan = &asked.plan;
    let mut session = plan.start(dirs, timeline, attention)?;
    announce(&session, &args.output)?;
    if asked.auto_publish {
        let is_quiet = args.output.quiet;
        session.mirror_ports(move |notice| {
            if !is_quiet {
                report::aside(&notice.to_string());
            }
        })?;
    }
    let ended = execute(&mut session, command)?;
    session.stop();
    if let Some(refusal) = &ended.refusal {
        report::note(&format!("the command did not run: {}", printable(refusal)));
    }
    if args.output.timings {
        timings::print(timeline);
    }
    Ok(ended.status)
}

/// Every connection of the guest takes a descriptor, and so does many an open file of a share.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    // Nothing but fewer connections at a time if it stays.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}

fn command(args: &RunArgs, asked: &plan::Run) -> Command {
    let term = || std::env::var_os("TERM").unwrap_or_else(|| OsString::from("xterm-256color"));
    Command {
        words: args.command.clone(),
        env: plan::environment(&asked.env),
        workdir: plan::workdir(args.process.workdir.as_deref(), &asked.plan.project),
        user: asked.plan.user.clone(),
        terminal: terminal::is_interactive().then(|| (signals::window_size(), term())),
    }
}

fn execute(session: &mut Session, mut command: Command) -> Result<launcher::Ended, Error> {
    let stdin = io::stdin();
    let stdio = || Stdio { stdin: Some(stdin.as_fd()), stdout: io::stdout(), stderr: io::stderr() };
    let Some((size, _)) = &mut command.terminal else { return session.run(command, stdio()) };
    // It may have changed during the start.
    *size = signals::window_size();
    let raw = terminal::RawMode::enter()
        .map_err(|source| Error::Host { doing: "Switching the terminal to raw mode", source })?;
    let ended = session.run(command, stdio());
    drop(raw);
    ended
}

/// What is shared and which holes are open, as the file server and the network stack report it.
fn announce(session: &Session, output: &OutputArgs) -> Result<(), Error> {
    if output.quiet {
        return Ok(());
    }
    let shares = session.shares()?;
    share_lines(&shares).iter().for_each(|line| report::note(line));
    match session.network()? {
        None => report::note("no network"),
        Some(network) => announce_network(&network),
    }
    Ok(())
}

/// The project is named only if it is elsewhere in the guest; paths in it are told from its root on.
fn share_lines(shares: &[ShareStatus]) -> Vec<String> {
    let is_told = |(index, share): &(usize, &ShareStatus)| *index > 0 || share.host != share.guest;
    let mut lines: Vec<_> = shares
        .iter()
        .enumerate()
        .filter(is_told)
        .map(|(_, share)| {
            let mode = if share.read_only { ", read-only" } else { "" };
            format!("{} is {} in the guest{mode}", share.host.display(), share.guest.display())
        })
        .collect();
    let places = |of: fn(&ShareStatus) -> &Vec<PathBuf>| {
        let place = |index: usize, share: &ShareStatus, path: &PathBuf| match index {
            0 => path.display().to_string(),
            _ => share.guest.join(path).display().to_string(),
        };
        let all = shares.iter().enumerate();
        let places = all.flat_map(|(index, share)| of(share).iter().map(move |path| place(index, share, path)));
        places.collect::<Vec<_>>().join(", ")
    };
    for (what, places) in [
        ("read-only in the guest", places(|share| &share.protected)),
        ("hidden from the guest", places(|share| &share.hidden)),
    ] {
        if !places.is_empty() {
            lines.push(format!("{what}: {places}"));
        }
    }
    lines
}

/// Each open hole is a line.
fn announce_network(report: &NetworkStatus) {
    /// Longer lists are for `vmm policy show`.
    const MAX_LINES: usize = 12;
    let holes: Vec<_> = report.policy.iter().filter(|line| !line.starts_with("deny ")).collect();
    holes.iter().take(MAX_LINES).for_each(|line| report::note(&format!("network: {line}")));
    if let Some(more) = holes.len().checked_sub(MAX_LINES).filter(|more| *more > 0) {
        report::note(&format!("network: and {more} more; `vmm policy show` lists them"));
    }
    if holes.iter().any(|line| line.contains("host's loopback")) {
        report::note(&format!("network: the guest sees the host's loopback as {}", report.gateway));
    }
    report.ways.iter().for_each(|line| report::note(&format!("network: {line}")));
    ports::lines(&report.published).iter().for_each(|line| report::note(&format!("port {line}")));
}

fn describe(plan: &Plan) {
    report::note(&format!("a VM with {} and {} MiB would start", report::cpus(plan.cpus), plan.memory.0));
    for mount in plan.shares() {
        let mode = if mount.is_read_only { "read-only" } else { "read-write" };
        report::note(&format!("{} would be {} in the guest, {mode}", mount.host.display(), mount.guest.display()));
    }
    match &plan.network {
        Network::Absent => report::note("it would have no network"),
        Network::Policy(policy) => {
            policy.summary().iter().for_each(|line| report::note(&format!("it would reach: {line}")));
            plan.publish.iter().for_each(|port| report::note(&format!("it would be reached at: {port}")));
        }
    }
}

fn status_of(signal: Option<i32>) -> u8 {
    signal.and_then(|number| u8::try_from(number).ok()).map_or(report::FAILED, |number| SIGNALLED + number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(host: &str, guest: &str, read_only: bool) -> ShareStatus {
        ShareStatus { host: host.into(), guest: guest.into(), read_only, protected: Vec::new(), hidden: Vec::new() }
    }

    #[test]
    fn shares_and_what_holds_in_them_are_lines() {
        let project = ShareStatus { protected: vec![".git/config".into()], ..share("/src/app", "/src/app", false) };
        let data = ShareStatus {
            protected: vec!["kept".into()],
            hidden: vec!["secret".into()],
            ..share("/data", "/mnt/data", true)
        };
        assert_eq!(share_lines(std::slice::from_ref(&project)), ["read-only in the guest: .git/config"]);
        assert_eq!(
            share_lines(&[project, data]),
            [
                "/data is /mnt/data in the guest, read-only",
                "read-only in the guest: .git/config, /mnt/data/kept",
                "hidden from the guest: /mnt/data/secret",
            ]
        );
        assert_eq!(share_lines(&[share("/usr", "/workspace", false)]), ["/usr is /workspace in the guest"]);
    }
}

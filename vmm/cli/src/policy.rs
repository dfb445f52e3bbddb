//! `vmm policy`: what a guest would be allowed, without starting one.

use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::net::{IpAddr, ToSocketAddrs};
use std::path::PathBuf;

use clap::{Args, Subcommand};
use launcher::policy::{Action, HostAddresses};
use launcher::{Answer, Client, Dirs, Effective, Error, Mount, Origin, Question, Settings, TestTable, host_addresses};
use serde::Serialize;

use crate::network::NetworkArgs;
use crate::report;
use crate::which::{self, WhichArgs};

const HELP: &str = "\
The policy of a project is what the command line says, then ~/.config/vmm/config.toml, nearest first:

  [policy]
  egress = \"public\"                       # public, none or open
  deny = [\"pastebin.com\", \"10.20.0.0/16\"]
  lan = false                             # private networks
  host = [5432]                           # of this loopback, there 100.96.0.1

  [project.\"~/src/app\".policy]            # of this folder, before the above
  allow = [\"api.anthropic.com:443\", \"*.example.com\"]

An allow list without `egress` beside it is all that is allowed; an empty one is nothing. Rules are asked in this order: \
command line, project's table, top level; in each, deny before allow; the first that matches decides, else `egress`. \
A vmm.toml in the project (`network = false`, `[policy]`) can only take away.

A name opens the public addresses that the gateway's resolver gave for it, over TCP. *.example.com is every name below \
example.com, not example.com itself. Addresses of this machine, loopback and metadata services stay closed.

Exit status of `explain` and `test`: 0 allowed, or all as expected; 1 denied, or something is not; 125 when vmm failed.";

#[derive(Debug, Args)]
#[command(after_long_help = HELP)]
pub struct PolicyArgs {
    #[command(subcommand)]
    command: Option<PolicyCommand>,
    #[command(flatten)]
    scope: Scope,
}

#[derive(Debug, Subcommand)]
enum PolicyCommand {
    /// Print the policy that a VM of the project would get, and where each part of it comes from
    Show(ShowArgs),
    /// Put the project's policy, as settings and options say it now, in force in a running VM
    ///
    /// Open connections that it does not allow are cut.
    Apply(ApplyArgs),
    /// Tell whether a destination would be allowed, by which rule, and how to change that
    Explain(ExplainArgs),
    /// Compare a table of destinations with the policy, as in CI
    #[command(after_long_help = TEST_HELP)]
    Test(TestArgs),
}

const TEST_HELP: &str = "\
FILE is TOML with two lists of destinations, each as `explain` takes it:

  allow = [\"https://packages.example.com\", \"github.com:22\"]
  deny = [\"http://169.254.169.254\", \"https://pastebin.com\", \"10.0.0.5:22\"]";

/// Whose policy.
#[derive(Debug, Args)]
struct Scope {
    /// The project whose policy it is
    #[arg(long, value_name = "DIR", default_value = ".", global = true)]
    project: PathBuf,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Args)]
struct ShowArgs {
    /// Print what a running VM has in force instead, as its data plane reports it [default: that of the current folder]
    #[arg(long, value_name = "VM", num_args = 0..=1)]
    vm: Option<Option<OsString>>,
    #[command(flatten)]
    network: NetworkArgs,
}

#[derive(Debug, Args)]
struct ApplyArgs {
    #[command(flatten)]
    which: WhichArgs,
    #[command(flatten)]
    network: NetworkArgs,
}

#[derive(Debug, Args)]
struct ExplainArgs {
    /// URL, HOST:PORT or IP:PORT; port 443 if there is none, udp://HOST:PORT for datagrams
    #[arg(value_name = "DESTINATION")]
    destination: Question,
    /// Ask this machine's resolver for the addresses of a name, and judge those
    #[arg(long)]
    resolve: bool,
    #[command(flatten)]
    network: NetworkArgs,
}

#[derive(Debug, Args)]
struct TestArgs {
    /// Table of destinations and the verdicts they must get
    file: PathBuf,
    #[command(flatten)]
    network: NetworkArgs,
}

/// Answers, and returns the exit status to leave with.
pub fn run(args: &PolicyArgs) -> Result<u8, Error> {
    match &args.command {
        None => show(&args.scope, &NetworkArgs::default()),
        Some(PolicyCommand::Show(ShowArgs { vm: Some(vm), .. })) => show_running(&args.scope, vm.as_deref()),
        Some(PolicyCommand::Show(show_args)) => show(&args.scope, &show_args.network),
        Some(PolicyCommand::Apply(apply_args)) => apply(apply_args),
        Some(PolicyCommand::Explain(explain_args)) => explain(&args.scope, explain_args),
        Some(PolicyCommand::Test(test_args)) => test(&args.scope, test_args),
    }
}

impl Scope {
    fn effective(&self, network: &NetworkArgs) -> Result<Effective, Error> {
        let project = Mount::project(&self.project)?;
        network.effective(&Settings::load(&Dirs::from_env()?, &project.host)?)
    }
}

/// One part of a policy.
#[derive(Debug, Serialize)]
struct Part {
    key: &'static str,
    value: String,
    origin: String,
}

fn show(scope: &Scope, network: &NetworkArgs) -> Result<u8, Error> {
    let parts = parts(&scope.effective(network)?);
    let lines = parts.iter().map(|Part { key, value, origin }| format!("{key:8} {value:40} {origin}"));
    print(scope.json, &parts, lines)?;
    Ok(0)
}

/// What the data plane of a running VM reports.
fn show_running(scope: &Scope, words: Option<&OsStr>) -> Result<u8, Error> {
    let dirs = Dirs::from_env()?;
    let status = Client::connect(&dirs, &which::running(&dirs, words)?.id)?.status()?;
    let lines = status.network.map_or_else(|| vec!["no network".to_owned()], |network| network.policy);
    print(scope.json, &lines, lines.clone())?;
    Ok(0)
}

fn apply(args: &ApplyArgs) -> Result<u8, Error> {
    let dirs = Dirs::from_env()?;
    let card = which::running(&dirs, args.which.vm.as_deref())?;
    let effective = args.network.effective(&Settings::load(&dirs, &card.project)?)?;
    let mut client = Client::connect(&dirs, &card.id)?;
    client.set_policy(effective.table())?;
    let network = client.status()?.network;
    network.iter().flat_map(|network| &network.policy).for_each(|line| report::note(&format!("network: {line}")));
    Ok(0)
}

fn parts(effective: &Effective) -> Vec<Part> {
    let part = |key, value: String, origin: &Origin| Part { key, value, origin: origin.to_string() };
    if !effective.network.value {
        return vec![part("network", "none".into(), &effective.network.origin)];
    }
    let mut parts = vec![part("egress", effective.egress.value.to_string(), &effective.egress.origin)];
    for rule in &effective.rules {
        let key = match rule.value.action() {
            Action::Allow => "allow",
            Action::Deny => "deny",
        };
        let destination = rule.value.text().split_once(' ').map_or_else(String::new, |(_, rest)| rest.to_owned());
        parts.push(part(key, destination, &rule.origin));
    }
    let lan = if effective.lan.value { "open" } else { "closed" };
    parts.push(part("lan", lan.into(), &effective.lan.origin));
    if effective.host.is_empty() {
        parts.push(part("host", "closed".into(), &Origin::Default));
    }
    for port in &effective.host {
        let ports = port.value.map_or_else(|| "every port".into(), |port| port.to_string());
        parts.push(part("host", ports, &port.origin));
    }
    parts
}

fn explain(scope: &Scope, args: &ExplainArgs) -> Result<u8, Error> {
    let effective = scope.effective(&args.network)?;
    let resolved = match (args.resolve, args.destination.name()) {
        (true, Some(name)) => Some(resolve(name)?),
        _ => None,
    };
    let answer = Answer::to(&args.destination, &effective, &own()?, resolved.as_deref());
    print(scope.json, &answer, lines(&answer))?;
    Ok(u8::from(!answer.allow))
}

fn lines(answer: &Answer) -> Vec<String> {
    let mut lines = vec![format!("{}  {}", word(answer.allow), answer.destination)];
    let origin = answer.origin.as_ref().map(|origin| format!(" ({origin})")).unwrap_or_default();
    lines.push(format!("  rule     {}{origin}", answer.rule));
    lines.extend(answer.because.iter().map(|line| format!("  because  {line}")));
    for judged in &answer.addresses {
        lines.push(format!("  address  {} {}: {}", word(judged.allow), judged.address, judged.rule));
    }
    lines.push(format!("  change   {}", answer.change));
    lines
}

fn test(scope: &Scope, args: &TestArgs) -> Result<u8, Error> {
    #[derive(Debug, Serialize)]
    struct Row {
        line: usize,
        expected: bool,
        is_ok: bool,
        answer: Answer,
    }
    let effective = scope.effective(&args.network)?;
    let table = TestTable::read(&args.file)?;
    let own = own()?;
    let mut rows = Vec::new();
    for expectation in &table.expectations {
        let answer = Answer::to(&expectation.question, &effective, &own, None);
        let is_ok = answer.allow == expectation.allow;
        rows.push(Row { line: expectation.line, expected: expectation.allow, is_ok, answer });
    }
    let failed = rows.iter().filter(|row| !row.is_ok).count();
    let failures = rows.iter().filter(|row| !row.is_ok).map(|row| {
        let Answer { destination, allow, rule, change, .. } = &row.answer;
        let (expected, found) = (word(row.expected), word(*allow));
        let place = format!("{}:{}", args.file.display(), row.line);
        format!("{place}: {destination}: expected {expected}, got {found} by `{rule}`; to change it: {change}")
    });
    let summary = format!("{} as expected, {failed} not", rows.len() - failed);
    print(scope.json, &rows, failures.chain([summary]))?;
    Ok(u8::from(failed > 0))
}

fn word(allow: bool) -> &'static str {
    if allow { "allow" } else { "deny" }
}

fn own() -> Result<HostAddresses, Error> {
    host_addresses().map_err(|source| Error::Host { doing: "Asking for this machine's addresses", source })
}

fn resolve(name: &str) -> Result<Vec<IpAddr>, Error> {
    // With a dot at its end no search domain is tried: the gateway tries none either.
    let found = (format!("{name}."), 0)
        .to_socket_addrs()
        .map_err(|source| Error::Host { doing: "Asking this machine's resolver for the name", source })?;
    let mut addresses: Vec<IpAddr> = found.map(|address| address.ip()).collect();
    addresses.dedup();
    Ok(addresses)
}

fn print<T: Serialize>(is_json: bool, value: &T, lines: impl IntoIterator<Item = String>) -> Result<(), Error> {
    let mut out = io::stdout().lock();
    let print = || -> io::Result<()> {
        if is_json {
            return writeln!(out, "{}", serde_json::to_string_pretty(value)?);
        }
        lines.into_iter().try_for_each(|line| writeln!(out, "{}", line.trim_end()))
    };
    print().map_err(|source| Error::Host { doing: "Printing the result", source })
}

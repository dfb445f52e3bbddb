//! From an Exec message to a running process, or to the reason why not.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use agent_protocol::bytes::Text;
use agent_protocol::exec::{Exec, Refusal, ToHost};

use super::helper::{self, Order, Report, Stage};
use super::reaper::Started;
use super::session::Context;
use super::stdio::{self, Ours};
use super::user::{ETC, Identity};

/// Why a command was not started.
#[derive(Debug)]
pub(super) struct Refused {
    reason: Refusal,
    message: String,
}

impl Refused {
    fn new(reason: Refusal, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }

    pub(super) fn to_message(&self) -> ToHost {
        ToHost::Refused { reason: self.reason, message: Text::new(&self.message) }
    }
}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Self {
        Self::new(Refusal::Other, format!("Cannot start a command in the guest: {error}"))
    }
}

/// Starts a command; when this returns the program runs.
pub(super) fn spawn(exec: &Exec, context: &Context) -> Result<(Started, Ours), Refused> {
    let identity = Identity::find(&exec.user, Path::new(ETC))
        .ok_or_else(|| Refused::new(Refusal::NoSuchUser, format!("The guest has no user {}", exec.user)))?;
    let environment = environment(exec, context, &identity);
    let order = Order {
        has_terminal: exec.terminal.is_some(),
        uid: identity.uid,
        gid: identity.gid,
        groups: identity.groups.clone(),
        directory: directory(exec, &identity),
        command: exec.argv.words().iter().map(|word| word.as_os_str().to_owned()).collect(),
    };
    let (ours, theirs) = stdio::open(exec.terminal.as_ref())?;
    let (socket, helpers) = UnixStream::pair()?;
    let mut command = Command::new(&context.helper);
    command.arg0(helper::EXEC).args(order.to_words()).env_clear().envs(environment.iter().cloned());
    command.stdin(Stdio::from(std::os::fd::OwnedFd::from(helpers)));
    let started = context.reaper.spawn(&mut command).map_err(|error| match error.kind() {
        ErrorKind::ArgumentListTooLong => Refused::new(Refusal::NotExecutable, "Argument list too long"),
        _ => error.into(),
    })?;
    // Our copy of the helper's end goes with the command, so that its exec is the end of the conversation.
    drop(command);
    helper::send_stdio(&socket, [theirs.stdin.as_fd(), theirs.stdout.as_fd(), theirs.stderr.as_fd()])?;
    drop(theirs);
    match Report::read(&socket)? {
        None => Ok((started, ours)),
        Some(report) => Err(refusal(&report, &order, &environment)),
    }
}

/// Later ones override earlier ones: the user's, the guest's, the command's own.
fn environment(exec: &Exec, context: &Context, identity: &Identity) -> Vec<(OsString, OsString)> {
    let mut environment = identity.environment();
    if let Some(terminal) = &exec.terminal {
        environment.push(("TERM".into(), terminal.term.as_os_str().to_owned()));
    }
    let given = context.environment.iter().chain(&exec.env);
    environment
        .extend(given.map(|variable| (variable.name.as_os_str().to_owned(), variable.value.as_os_str().to_owned())));
    environment
}

/// The one asked for, or the user's home, or the root when there is none.
fn directory(exec: &Exec, identity: &Identity) -> OsString {
    match &exec.cwd {
        Some(cwd) => cwd.as_os_str().to_owned(),
        None if Path::new(OsStr::from_bytes(&identity.home)).is_dir() => OsStr::from_bytes(&identity.home).to_owned(),
        None => "/".into(),
    }
}

fn refusal(report: &Report, order: &Order, environment: &[(OsString, OsString)]) -> Refused {
    let program = order.command.first().map(OsString::as_os_str).unwrap_or_default();
    let error = &report.error;
    match report.stage {
        Stage::Session => Refused::new(Refusal::Other, format!("Cannot begin a session in the guest: {error}")),
        Stage::Directory => {
            let directory = order.directory.display();
            Refused::new(Refusal::BadDirectory, format!("Cannot enter {directory} in the guest: {error}"))
        }
        Stage::Program if error.kind() == ErrorKind::NotFound && !exists(program, environment) => {
            Refused::new(Refusal::NotFound, format!("{}: command not found in the guest", program.display()))
        }
        Stage::Program if error.kind() == ErrorKind::NotFound => {
            let message = format!("{}: its interpreter or loader is missing in the guest", program.display());
            Refused::new(Refusal::NotExecutable, message)
        }
        Stage::Program => {
            Refused::new(Refusal::NotExecutable, format!("{}: cannot be executed: {error}", program.display()))
        }
    }
}

/// Whether there is such a program at all, so that what was not found must be its interpreter.
fn exists(program: &OsStr, environment: &[(OsString, OsString)]) -> bool {
    if program.as_bytes().contains(&b'/') {
        return fs::symlink_metadata(program).is_ok();
    }
    let path = environment.iter().rev().find(|(name, _)| name == "PATH").map(|(_, value)| value.as_os_str());
    std::env::split_paths(path.unwrap_or_default()).any(|directory| directory.join(program).is_file())
}

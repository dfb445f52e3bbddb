//! Commands in a running guest.

use std::ffi::OsString;
use std::fmt;
use std::io::Write;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use agent_protocol::bytes::{EnvVar, GuestPath, Word};
use agent_protocol::client;
use agent_protocol::control::ToGuest;
use agent_protocol::exec::{Argv, Exec, Terminal, WindowSize};
use agent_protocol::{EXEC_PORT, ProtocolError};
use devices::vsock::VsockHost;
use vmm::Timeline;

use crate::attention::Attention;
use crate::egress::Log;
use crate::error::Error;
use crate::files::Files;
use crate::guest::Guest;
use crate::instance::{Claim, VmId};
use crate::ports::{Board, Mailbox, Mirror, Notice};
use crate::remote::{NetworkStatus, Server, ShareStatus};
use crate::user;

/// How long a guest that has said it is ready may take to accept a connection.
pub(crate) const CONNECT_PATIENCE: Duration = Duration::from_secs(10);
/// How long processes in the guest get to end by themselves.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

/// A guest that takes commands. Dropping it kills the VM; [`Session::stop`] shuts it down.
///
/// The order of the fields is that of the end: first those that act on the guest from outside, then the guest, then its
/// network, then the log of what the network did, and the VM's name last.
#[derive(Debug)]
pub struct Session {
    /// Held for its end.
    pub(crate) _server: Server,
    pub(crate) mirror: Option<Mirror>,
    pub(crate) guest: Guest,
    pub(crate) vsock: VsockHost,
    pub(crate) attention: Attention,
    pub(crate) timeline: Timeline,
    pub(crate) files: Files,
    pub(crate) network: Option<Network>,
    pub(crate) log: Log,
    pub(crate) claim: Claim,
}

/// The network of a running guest.
#[derive(Debug)]
pub(crate) struct Network {
    pub(crate) board: Arc<Board>,
    pub(crate) mailbox: Arc<Mailbox>,
}

/// A command for the guest.
#[derive(Debug, Clone)]
pub struct Command {
    /// Program and arguments.
    pub words: Vec<OsString>,
    /// Environment on top of the guest's own.
    pub env: Vec<(OsString, OsString)>,
    /// Working folder in the guest.
    pub workdir: PathBuf,
    /// User in the guest, by name or number.
    pub user: OsString,
    /// A terminal of this size and type instead of pipes.
    pub terminal: Option<(WindowSize, OsString)>,
}

/// What to attach to a command's streams.
#[derive(Debug)]
pub struct Stdio<'a, O, E> {
    /// Read for standard input; end of file at once if absent.
    pub stdin: Option<BorrowedFd<'a>>,
    /// Takes standard output, or everything a terminal shows.
    pub stdout: O,
    /// Takes standard error.
    pub stderr: E,
}

/// What became of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// The exit status to pass on.
    pub status: u8,
    /// Why it was not started, if it was not.
    pub refusal: Option<String>,
}

impl Command {
    /// An error if no guest could run it: what is wrong in it is to be known before one is started.
    pub fn check(&self) -> Result<(), Error> {
        exec(self.clone()).map(drop)
    }
}

impl Session {
    /// What the network stack says is in force; nothing if there is no network.
    pub fn network(&self) -> Result<Option<NetworkStatus>, Error> {
        let Some(network) = &self.network else { return Ok(None) };
        NetworkStatus::ask(&network.board, &self.log.lost()).map(Some)
    }

    /// What the file server says is in force in each share, the project's first.
    pub fn shares(&self) -> Result<Vec<ShareStatus>, Error> {
        self.files.status()
    }

    /// Its name, by which other commands find it.
    pub fn id(&self) -> &VmId {
        &self.claim.card().id
    }

    /// From now on the host's loopback shows the ports that something in the guest listens on; `tell` hears of each that
    /// comes and goes. Nothing happens if there is no network.
    pub fn mirror_ports(&mut self, tell: impl Fn(&Notice) + Send + 'static) -> Result<(), Error> {
        let Some(network) = &self.network else { return Ok(()) };
        self.guest.say(&ToGuest::Watch)?;
        let mirror = Mirror::start(network.board.clone(), network.mailbox.clone(), tell);
        self.mirror = Some(mirror.map_err(|source| Error::host("Starting a thread", source))?);
        Ok(())
    }

    /// Runs `command` until it ends and its output is written. Signals go to it meanwhile.
    pub fn run<O: Write + Send, E: Write + Send>(
        &mut self,
        command: Command,
        stdio: Stdio<'_, O, E>,
    ) -> Result<Ended, Error> {
        let exec = exec(command)?;
        let outcome = self.exchange(exec, stdio);
        self.attention.follow(None);
        match outcome {
            Ok(client::Outcome::Ended(status)) => Ok(Ended { status: status.code(), refusal: None }),
            Ok(client::Outcome::Refused { reason, message }) => {
                Ok(Ended { status: reason.code(), refusal: Some(message.as_str().to_owned()) })
            }
            // The signal came when the command was on its way, but not yet there to take it.
            Err(ProtocolError::Closed | ProtocolError::Io(_)) if self.attention.is_cut_short() => {
                Err(Error::Interrupted)
            }
            // The connection ends with the VM: its end explains more than a broken stream does.
            Err(ProtocolError::Closed | ProtocolError::Io(_)) => {
                let reason = self.guest.end();
                Err(Error::Lost { reason, console: self.guest.last_words() })
            }
            Err(error) => Err(Error::Protocol(error)),
        }
    }

    fn exchange<O: Write + Send, E: Write + Send>(
        &self,
        exec: Exec,
        stdio: Stdio<'_, O, E>,
    ) -> Result<client::Outcome, ProtocolError> {
        let stream = self.vsock.connect(EXEC_PORT, CONNECT_PATIENCE)?;
        let running = client::Session::start(stream, exec)?;
        self.attention.follow(Some(running.handle()));
        let Stdio { stdin, stdout, stderr } = stdio;
        running.run(client::Stdio { stdin, stdout, stderr }, |_| self.timeline.mark("command started"))
    }

    /// Ends every process in the guest, syncs its disks and powers it off.
    pub fn stop(mut self) {
        // That its services end now is nobody's news.
        self.mirror = None;
        if let Some(network) = &self.network {
            network.mailbox.close();
        }
        self.guest.stop(STOP_PATIENCE);
    }
}

fn exec(command: Command) -> Result<Exec, Error> {
    let words = command.words.into_iter().map(OsString::into_vec);
    let argv = Argv::from_words(words).ok().flatten();
    let argv =
        argv.ok_or_else(|| wrong("command", &"it is empty, or too long for any program", "-- sh -c 'make test'"))?;
    let mut env = Vec::new();
    for (name, value) in command.env {
        let variable = EnvVar::new(name.into_vec(), value.into_vec());
        env.push(variable.map_err(|invalid| wrong("environment", &invalid, "--env CI=true"))?);
    }
    let terminal = match command.terminal {
        Some((size, term)) => {
            let term = Word::new(term.into_vec()).map_err(|invalid| wrong("TERM", &invalid, "TERM=xterm-256color"))?;
            Some(Terminal { size, term })
        }
        None => None,
    };
    let cwd = GuestPath::new(command.workdir.as_os_str().as_bytes());
    let cwd = Some(cwd.map_err(|invalid| wrong("working folder", &invalid, "--workdir /src/app"))?);
    let user = user::parse(command.user).map_err(|invalid| wrong("user", &invalid, "--user 1000"))?;
    Ok(Exec { argv, env, cwd, user, terminal })
}

fn wrong(option: &str, problem: &dyn fmt::Display, example: &'static str) -> Error {
    Error::Option { option: option.to_owned(), problem: problem.to_string(), example }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command() -> Command {
        let workdir = PathBuf::from("/src");
        Command { words: vec!["true".into()], env: Vec::new(), workdir, user: "root".into(), terminal: None }
    }

    #[test]
    fn what_no_guest_could_run_is_refused_with_its_name_and_a_right_example() {
        assert!(command().check().is_ok());
        for (wrong, name, example) in [
            (Command { words: Vec::new(), ..command() }, "command", "sh -c"),
            (Command { env: vec![("".into(), "x".into())], ..command() }, "environment", "CI=true"),
            (Command { workdir: "relative".into(), ..command() }, "working folder", "--workdir /"),
            (Command { user: "".into(), ..command() }, "user", "--user 1000"),
        ] {
            let text = wrong.check().unwrap_err().to_string();
            assert!(text.starts_with(name) && text.contains(example), "{text}");
        }
    }
}

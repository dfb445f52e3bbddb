//! This program as the last step before a command: what only the new process itself can do.
//!
//! Called by the agent under another name ([`EXEC`], [`CHROOT`]); does not return when all goes well. Its standard
//! input is a socket to the agent, on which it receives the command's descriptors, and on which it tells a failure as a
//! [`Stage`] and an error number; the socket closes when the command takes over.

use std::convert::Infallible;
use std::ffi::OsString;
use std::io::{self, ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use rustix::fs::{Gid, Uid};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use rustix::process::{chdir, chroot as change_root, ioctl_tiocsctty, setsid};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

/// Name under which the helper starts a command of an exec connection.
pub const EXEC: &str = "vmm-exec";
/// Name under which the helper runs a program of another root.
pub const CHROOT: &str = "vmm-chroot";

/// What the helper could not do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Begin a session, take the terminal, become the user.
    Session,
    /// Enter the working directory.
    Directory,
    /// Execute the program.
    Program,
}

impl Stage {
    const ALL: [Self; 3] = [Self::Session, Self::Directory, Self::Program];

    fn code(self) -> u8 {
        match self {
            Self::Session => 0,
            Self::Directory => 1,
            Self::Program => 2,
        }
    }
}

/// What the helper is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// Whether standard input is to be the controlling terminal.
    pub has_terminal: bool,
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Working directory.
    pub directory: OsString,
    /// The command line, at least the program.
    pub command: Vec<OsString>,
}

impl Order {
    /// The helper's arguments.
    pub fn to_words(&self) -> Vec<OsString> {
        let groups: Vec<String> = self.groups.iter().map(u32::to_string).collect();
        let numbers =
            [u8::from(self.has_terminal).to_string(), self.uid.to_string(), self.gid.to_string(), groups.join(",")];
        let words = numbers.into_iter().map(OsString::from).chain([self.directory.clone()]);
        words.chain(self.command.iter().cloned()).collect()
    }

    /// Reads the helper's arguments.
    pub fn from_words(words: Vec<OsString>) -> Option<Self> {
        let mut words = words.into_iter();
        let mut number = || words.next()?.into_string().ok();
        let has_terminal = number()? == "1";
        let (uid, gid) = (number()?.parse().ok()?, number()?.parse().ok()?);
        let groups = number()?;
        let groups = groups.split(',').filter(|group| !group.is_empty()).map(|group| group.parse().ok());
        let groups = groups.collect::<Option<Vec<u32>>>()?;
        let directory = words.next()?;
        let command: Vec<OsString> = words.collect();
        if command.is_empty() {
            return None;
        }
        Some(Self { has_terminal, uid, gid, groups, directory, command })
    }
}

/// What the agent reads when the command did not take over.
#[derive(Debug)]
pub struct Report {
    /// What could not be done.
    pub stage: Stage,
    /// Why.
    pub error: io::Error,
}

impl Report {
    /// Reads the helper's end of the conversation: nothing when the command took over.
    pub fn read(mut socket: &UnixStream) -> io::Result<Option<Self>> {
        let mut bytes = Vec::new();
        socket.read_to_end(&mut bytes)?;
        let Some(&[stage, a, b, c, d]) = bytes.first_chunk() else { return Ok(None) };
        let stage = Stage::ALL.into_iter().find(|known| known.code() == stage).unwrap_or(Stage::Session);
        Ok(Some(Self { stage, error: io::Error::from_raw_os_error(i32::from_le_bytes([a, b, c, d])) }))
    }
}

/// Becomes a command.
pub fn exec(words: Vec<OsString>) -> ExitCode {
    let Some(order) = Order::from_words(words) else { return ExitCode::FAILURE };
    // A copy that closes when the program takes over, as the original then becomes the command's standard input.
    let Ok(agent) = io::stdin().as_fd().try_clone_to_owned() else { return ExitCode::FAILURE };
    let mut agent = UnixStream::from(agent);
    let (stage, error) = match become_command(&order, &agent) {
        Ok(never) => match never {},
        Err(failure) => failure,
    };
    let [a, b, c, d] = error.raw_os_error().unwrap_or(0).to_le_bytes();
    // An agent that is gone does not want to know.
    let _ = agent.write_all(&[stage.code(), a, b, c, d]);
    ExitCode::FAILURE
}

fn become_command(order: &Order, agent: &UnixStream) -> Result<Infallible, (Stage, io::Error)> {
    let (stdin, stdout, stderr) = begin(order, agent).map_err(|error| (Stage::Session, error))?;
    chdir(order.directory.as_bytes()).map_err(|error| (Stage::Directory, error.into()))?;
    let mut words = order.command.iter();
    let program = words.next().ok_or((Stage::Program, ErrorKind::InvalidInput.into()))?;
    // Also gives the command the default signal dispositions that the Rust runtime changed.
    let error = Command::new(program).args(words).stdin(stdin).stdout(stdout).stderr(stderr).exec();
    Err((Stage::Program, error))
}

/// A session of its own, the terminal if there is one, and then the user.
fn begin(order: &Order, agent: &UnixStream) -> io::Result<(OwnedFd, OwnedFd, OwnedFd)> {
    let (stdin, stdout, stderr) = receive_stdio(agent)?;
    setsid()?;
    if order.has_terminal {
        ioctl_tiocsctty(&stdin)?;
    }
    let groups: Vec<Gid> = order.groups.iter().copied().map(Gid::from_raw).collect();
    let (uid, gid) = (Uid::from_raw(order.uid), Gid::from_raw(order.gid));
    // One thread, so this is the process. Who is not root can only stay who they are, which tests do.
    if rustix::process::geteuid().is_root() {
        set_thread_groups(&groups)?;
        set_thread_res_gid(gid, gid, gid)?;
        set_thread_res_uid(uid, uid, uid)?;
    }
    Ok((stdin, stdout, stderr))
}

/// Sends the helper the descriptors of its command.
pub fn send_stdio(helper: &UnixStream, stdio: [BorrowedFd<'_>; 3]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&stdio));
    sendmsg(helper, &[IoSlice::new(&[0])], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

fn receive_stdio(agent: &UnixStream) -> io::Result<(OwnedFd, OwnedFd, OwnedFd)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    recvmsg(agent, &mut [IoSliceMut::new(&mut [0])], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut fds = control.drain().flat_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => fds.collect::<Vec<OwnedFd>>(),
        _ => Vec::new(),
    });
    match (fds.next(), fds.next(), fds.next()) {
        (Some(stdin), Some(stdout), Some(stderr)) => Ok((stdin, stdout, stderr)),
        _ => Err(ErrorKind::UnexpectedEof.into()),
    }
}

/// Runs a program of another root: `ROOT PROGRAM ARGS`.
pub fn chroot(words: Vec<OsString>) -> ExitCode {
    let mut words = words.into_iter();
    let (Some(root), Some(program)) = (words.next(), words.next()) else { return ExitCode::FAILURE };
    let run = || -> io::Result<Infallible> {
        change_root(root.as_bytes())?;
        chdir("/")?;
        Err(Command::new(&program).args(words).exec())
    };
    match run() {
        Ok(never) => match never {},
        Err(error) => {
            eprintln!("{}: {error}", program.display());
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt;

    use super::Order;

    #[test]
    fn orders_survive_being_arguments() {
        let order = Order {
            has_terminal: true,
            uid: 1000,
            gid: u32::MAX,
            groups: vec![4, 1000],
            directory: OsString::from_vec(b"/a b/\xff\n".to_vec()),
            command: vec!["ls".into(), "".into(), OsString::from_vec(b"\xfe".to_vec())],
        };
        assert_eq!(Order::from_words(order.to_words()), Some(order));
    }

    #[test]
    fn an_order_without_a_program_is_none() {
        let words = ["0", "1", "2", "", "/"].map(OsString::from).to_vec();
        assert_eq!(Order::from_words(words), None);
    }
}

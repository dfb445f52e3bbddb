//! The descriptors between the agent and a command: three pipes, or a terminal.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use agent_protocol::exec::{Terminal, WindowSize};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

/// Room in each pipe: fewer turns for bulk data. The kernel takes memory only for what is in it.
const PIPE_SIZE: usize = 256 * 1024;

/// The agent's ends, all non-blocking.
#[derive(Debug)]
pub(super) struct Ours {
    pub(super) stdin: File,
    pub(super) stdout: File,
    /// None with a terminal.
    pub(super) stderr: Option<File>,
    /// The terminal, for its size and its foreground process group.
    pub(super) terminal: Option<OwnedFd>,
}

/// The command's ends.
#[derive(Debug)]
pub(super) struct Theirs {
    pub(super) stdin: OwnedFd,
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
}

/// Makes what a command needs.
pub(super) fn open(terminal: Option<&Terminal>) -> io::Result<(Ours, Theirs)> {
    match terminal {
        Some(terminal) => open_terminal(terminal),
        None => open_pipes(),
    }
}

fn open_pipes() -> io::Result<(Ours, Theirs)> {
    let (their_stdin, stdin) = pipe_with(PipeFlags::CLOEXEC)?;
    let (stdout, their_stdout) = pipe_with(PipeFlags::CLOEXEC)?;
    let (stderr, their_stderr) = pipe_with(PipeFlags::CLOEXEC)?;
    for pipe in [&stdin, &stdout, &stderr] {
        // A limit of the guest's user may forbid it; the default size does, more slowly.
        let _ = fcntl_setpipe_size(pipe, PIPE_SIZE);
        set_nonblocking(pipe)?;
    }
    let ours = Ours { stdin: stdin.into(), stdout: stdout.into(), stderr: Some(stderr.into()), terminal: None };
    Ok((ours, Theirs { stdin: their_stdin, stdout: their_stdout, stderr: their_stderr }))
}

fn open_terminal(wanted: &Terminal) -> io::Result<(Ours, Theirs)> {
    let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&terminal)?;
    unlockpt(&terminal)?;
    resize(&terminal, wanted.size)?;
    let stdin = ioctl_tiocgptpeer(&terminal, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    set_nonblocking(&terminal)?;
    let ours = Ours {
        stdin: terminal.try_clone()?.into(),
        stdout: terminal.try_clone()?.into(),
        stderr: None,
        terminal: Some(terminal),
    };
    Ok((ours, Theirs { stdout: stdin.try_clone()?, stderr: stdin.try_clone()?, stdin }))
}

/// Gives a terminal its size; its foreground process group gets SIGWINCH when it changed.
pub(super) fn resize(terminal: &OwnedFd, size: WindowSize) -> io::Result<()> {
    let size = Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
    Ok(tcsetwinsize(terminal, size)?)
}

pub(super) fn set_nonblocking(fd: &OwnedFd) -> io::Result<()> {
    Ok(fcntl_setfl(fd, fcntl_getfl(fd)? | OFlags::NONBLOCK)?)
}

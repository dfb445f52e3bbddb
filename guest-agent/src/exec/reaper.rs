//! Waits for every child of this process: the commands it started, and in PID 1 every orphan of the guest.
//!
//! There is one, because a wait for any child takes the status of all. Whoever started a command gets its status as two
//! bytes on a pipe, which can be polled; orphans are just removed.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use agent_protocol::exec::{Signal, Status};
use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions, WaitStatus, wait};

use crate::log;

/// The children of this process.
#[derive(Debug, Default)]
pub struct Reaper {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Where the status of each command goes.
    commands: BTreeMap<i32, PipeWriter>,
    /// There are no children at all.
    is_idle: bool,
}

/// A started child and the pipe on which its end is told.
#[derive(Debug)]
pub struct Started {
    /// Its process ID, valid until the end was read.
    pub pid: Pid,
    /// Becomes readable at its end; see [`read_status`].
    pub end: File,
}

impl Reaper {
    /// Starts the thread that waits.
    pub fn start() -> io::Result<Arc<Self>> {
        let reaper = Arc::new(Self::default());
        let ours = reaper.clone();
        thread::Builder::new().name("reaper".into()).stack_size(64 << 10).spawn(move || ours.run())?;
        Ok(reaper)
    }

    /// Starts a child. Starting and listing it are one step, so its end cannot be missed.
    pub fn spawn(&self, command: &mut Command) -> io::Result<Started> {
        let (end, tell): (PipeReader, PipeWriter) = io::pipe()?;
        let mut state = self.locked();
        let pid = pid_of(&command.spawn()?)?;
        state.commands.insert(pid.as_raw_nonzero().get(), tell);
        state.is_idle = false;
        self.changed.notify_all();
        Ok(Started { pid, end: File::from(OwnedFd::from(end)) })
    }

    /// Waits until no child is left; false when some are after `patience`.
    pub fn wait_until_idle(&self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        let mut state = self.locked();
        while !state.is_idle {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    fn run(&self) {
        loop {
            match wait(WaitOptions::empty()) {
                Ok(Some((pid, status))) => self.ended(pid, status),
                Ok(None) | Err(Errno::INTR) => {}
                Err(_) => self.wait_for_children(),
            }
        }
    }

    /// There are none now. A child started since is in the list already, because starting and listing are one step.
    fn wait_for_children(&self) {
        let mut state = self.locked();
        if state.commands.is_empty() {
            state.is_idle = true;
            self.changed.notify_all();
        }
        while state.is_idle {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn ended(&self, pid: Pid, status: WaitStatus) {
        let Some(mut tell) = self.locked().commands.remove(&pid.as_raw_nonzero().get()) else { return };
        let bytes = match (status.exit_status(), status.terminating_signal()) {
            (_, Some(signal)) => [1, u8::try_from(signal).unwrap_or(0)],
            (code, None) => [0, code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)],
        };
        // A session that is gone does not want to know.
        let _ = tell.write_all(&bytes);
    }

    fn locked(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn pid_of(child: &Child) -> io::Result<Pid> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    pid.ok_or_else(|| io::Error::other("Process ID out of range"))
}

/// The status told on the pipe of a [`Started`].
pub fn read_status(mut end: &File) -> Status {
    let mut bytes = [0; 2];
    match end.read_exact(&mut bytes).map(|()| bytes) {
        Ok([0, code]) => Status::Exited(code),
        Ok([_, number]) => Signal::new(i32::from(number)).map_or(Status::Exited(u8::MAX), Status::Signalled),
        Err(error) => {
            log::warn(&format!("Status of a command is lost: {error}"));
            Status::Exited(u8::MAX)
        }
    }
}

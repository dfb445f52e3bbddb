//! The host's half of a command: descriptors of this process attached to a command in the guest.
//!
//! Called by the launcher with a stream fresh from the vsock device. Input and outputs may be terminals or pipes shared
//! with other processes, so they are never made non-blocking: each output has a thread that writes, the input has one
//! that polls and reads, and the caller's thread takes the guest's messages. The guest is not trusted: what it sends
//! beyond its credit or out of order ends the session with an error.

use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use crate::bytes::Text;
use crate::credit::{ReceiveCredit, SendCredit};
use crate::exec::{DATA_HEADER_LEN, Exec, MAX_DATA, Refusal, Signal, Status, Stream, ToGuest, ToHost};
use crate::exec::{WindowSize, data_header};
use crate::frame::{FrameReader, ProtocolError, encode};

/// Sends signals and window sizes to a running command, from any thread.
#[derive(Debug, Clone)]
pub struct Handle {
    stream: Arc<Mutex<UnixStream>>,
}

impl Handle {
    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<(), ProtocolError> {
        self.send(&ToGuest::Signal(signal))
    }

    /// Tells the terminal's new size.
    pub fn resize(&self, size: WindowSize) -> Result<(), ProtocolError> {
        self.send(&ToGuest::Resize(size))
    }

    fn send(&self, message: &ToGuest) -> Result<(), ProtocolError> {
        self.write(&encode(message)?)
    }

    fn write(&self, frame: &[u8]) -> Result<(), ProtocolError> {
        Ok(locked(&self.stream).write_all(frame)?)
    }
}

/// When and as what the command started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Started {
    /// Process ID in the guest.
    pub pid: u32,
    /// Guest monotonic clock, nanoseconds.
    pub at_ns: u64,
}

/// What became of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It ran.
    Ended(Status),
    /// It did not start.
    Refused {
        /// Why, for the exit status.
        reason: Refusal,
        /// Why, for the user.
        message: Text,
    },
}

impl Outcome {
    /// The exit status to pass on.
    pub fn code(&self) -> u8 {
        match self {
            Self::Ended(status) => status.code(),
            Self::Refused { reason, .. } => reason.code(),
        }
    }
}

/// A command that was requested and whose streams are not attached yet.
#[derive(Debug)]
pub struct Session {
    stream: UnixStream,
    handle: Handle,
}

/// What to attach to a command's streams.
#[derive(Debug)]
pub struct Stdio<'a, O, E> {
    /// Read for standard input; the command reads end-of-file at once when absent.
    pub stdin: Option<BorrowedFd<'a>>,
    /// Takes standard output, or everything a terminal shows.
    pub stdout: O,
    /// Takes standard error.
    pub stderr: E,
}

impl Session {
    /// Requests `exec` on a stream connected to the agent's exec port.
    pub fn start(stream: UnixStream, exec: Exec) -> Result<Self, ProtocolError> {
        let handle = Handle { stream: Arc::new(Mutex::new(stream.try_clone()?)) };
        handle.send(&ToGuest::Exec(Box::new(exec)))?;
        Ok(Self { stream, handle })
    }

    /// What signals and resizes the command.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Blocks until the command has ended and its output is written; `on_started` is called at most once.
    pub fn run<O: Write + Send, E: Write + Send>(
        self,
        stdio: Stdio<'_, O, E>,
        on_started: impl FnOnce(Started),
    ) -> Result<Outcome, ProtocolError> {
        let Self { stream, handle } = self;
        let input = Input::new()?;
        let (stdout, stderr) = (Output::new(Stream::Stdout), Output::new(Stream::Stderr));
        thread::scope(|scope| {
            let (input, stdout, stderr, handle) = (&input, &stdout, &stderr, &handle);
            scope.spawn(move || stdout.pump(stdio.stdout, handle));
            scope.spawn(move || stderr.pump(stdio.stderr, handle));
            match stdio.stdin {
                Some(stdin) => {
                    scope.spawn(move || input.pump(stdin, handle));
                }
                // A guest that cannot be told has left, and may have said why.
                None => drop(handle.send(&ToGuest::CloseStdin)),
            }
            let outcome = receive(&stream, input, [stdout, stderr], on_started);
            // Ends the threads: the outputs' once everything received is written.
            input.stop();
            stdout.close();
            stderr.close();
            outcome
        })
    }
}

fn receive(
    stream: &UnixStream,
    input: &Input,
    [stdout, stderr]: [&Output; 2],
    on_started: impl FnOnce(Started),
) -> Result<Outcome, ProtocolError> {
    let output = |stream| if stream == Stream::Stderr { stderr } else { stdout };
    let mut frames = FrameReader::<ToHost>::new();
    let mut on_started = Some(on_started);
    loop {
        match frames.receive(stream)?.ok_or(ProtocolError::Closed)? {
            ToHost::Started { pid, at_ns } => {
                let on_started = on_started.take().ok_or(ProtocolError::Malformed("command started twice"))?;
                on_started(Started { pid, at_ns });
            }
            ToHost::Data { stream, bytes } => output(stream).put(&bytes)?,
            ToHost::Credit { bytes } => input.grant(bytes)?,
            ToHost::Closed { stream: Stream::Stdin } => input.stop(),
            ToHost::Closed { stream } => output(stream).close(),
            ToHost::Exited(status) => return Ok(Outcome::Ended(status)),
            ToHost::Refused { reason, message } => return Ok(Outcome::Refused { reason, message }),
        }
    }
}

/// One output stream: holds what was received, at most a window of it, until it is written.
struct Output {
    stream: Stream,
    state: Mutex<OutputState>,
    changed: Condvar,
}

#[derive(Default)]
struct OutputState {
    waiting: Vec<u8>,
    credit: ReceiveCredit,
    is_closed: bool,
}

impl Output {
    fn new(stream: Stream) -> Self {
        Self { stream, state: Mutex::default(), changed: Condvar::new() }
    }

    fn put(&self, bytes: &[u8]) -> Result<(), ProtocolError> {
        let mut state = locked(&self.state);
        if state.is_closed {
            return Err(ProtocolError::Malformed("data on a closed stream"));
        }
        state.credit.take(bytes.len())?;
        state.waiting.extend_from_slice(bytes);
        self.changed.notify_one();
        Ok(())
    }

    fn close(&self) {
        locked(&self.state).is_closed = true;
        self.changed.notify_one();
    }

    /// Swaps `batch` for everything waiting; false at the end of the stream.
    fn wait_for_batch(&self, batch: &mut Vec<u8>) -> bool {
        batch.clear();
        let idle = |state: &mut OutputState| state.waiting.is_empty() && !state.is_closed;
        let mut state = self.changed.wait_while(locked(&self.state), idle).unwrap_or_else(PoisonError::into_inner);
        std::mem::swap(&mut state.waiting, batch);
        !batch.is_empty()
    }

    /// Writes what arrives until the stream ends. A writer that fails tells the guest and swallows the rest; a guest
    /// that cannot be told has left, which the receiving thread reports.
    fn pump(&self, mut writer: impl Write, handle: &Handle) {
        let stream = self.stream;
        let mut is_writable = true;
        let mut batch = Vec::new();
        while self.wait_for_batch(&mut batch) {
            for chunk in batch.chunks(MAX_DATA) {
                if is_writable && writer.write_all(chunk).and_then(|()| writer.flush()).is_err() {
                    is_writable = false;
                    let _ = handle.send(&ToGuest::CloseOutput { stream });
                }
                // What is swallowed is not released: a guest that was told goes on to send no more than it may.
                if is_writable && let Some(bytes) = { locked(&self.state).credit.release(chunk.len()) } {
                    let _ = handle.send(&ToGuest::Credit { stream, bytes });
                }
            }
        }
    }
}

/// Standard input: waits for credit, then for bytes; can be stopped in both waits.
struct Input {
    state: Mutex<InputState>,
    changed: Condvar,
    /// Readable once the input is stopped, for the thread that polls.
    stopped: UnixStream,
}

struct InputState {
    credit: SendCredit,
    /// Closed by [`Input::stop`].
    stop: Option<UnixStream>,
}

impl Input {
    fn new() -> Result<Self, ProtocolError> {
        let (stop, stopped) = UnixStream::pair()?;
        let state = InputState { credit: SendCredit::default(), stop: Some(stop) };
        Ok(Self { state: Mutex::new(state), changed: Condvar::new(), stopped })
    }

    fn grant(&self, bytes: u32) -> Result<(), ProtocolError> {
        locked(&self.state).credit.add(bytes)?;
        self.changed.notify_one();
        Ok(())
    }

    fn stop(&self) {
        locked(&self.state).stop = None;
        self.changed.notify_one();
    }

    /// How much may be read now; waits while it is nothing, `None` when stopped.
    fn wait_for_credit(&self) -> Option<usize> {
        let starving = |state: &mut InputState| state.stop.is_some() && state.credit.left() == 0;
        let state = self.changed.wait_while(locked(&self.state), starving).unwrap_or_else(PoisonError::into_inner);
        state.stop.is_some().then(|| state.credit.left())
    }

    /// Waits until `stdin` is readable or at its end; false when stopped.
    fn wait_for_bytes(&self, stdin: BorrowedFd<'_>) -> bool {
        loop {
            let stopped = self.stopped.as_fd();
            let mut fds =
                [PollFd::from_borrowed_fd(stdin, PollFlags::IN), PollFd::from_borrowed_fd(stopped, PollFlags::IN)];
            match poll(&mut fds, None) {
                Ok(_) if !fds[1].revents().is_empty() => return false,
                Ok(_) if !fds[0].revents().is_empty() => return true,
                Ok(_) | Err(Errno::INTR) => {}
                Err(_) => return false,
            }
        }
    }

    /// Sends `stdin` to the guest until one of them ends. An unreadable input counts as ended.
    fn pump(&self, stdin: BorrowedFd<'_>, handle: &Handle) {
        let mut frame = vec![0; DATA_HEADER_LEN + MAX_DATA];
        while let Some(credit) = self.wait_for_credit() {
            if !self.wait_for_bytes(stdin) {
                return;
            }
            let room = DATA_HEADER_LEN + credit.min(MAX_DATA);
            let count = match rustix::io::read(stdin, &mut frame[DATA_HEADER_LEN..room]) {
                Ok(0) => break,
                Ok(count) => count,
                Err(Errno::INTR | Errno::AGAIN) => continue,
                Err(_) => break,
            };
            frame[..DATA_HEADER_LEN].copy_from_slice(&data_header(None, count));
            locked(&self.state).credit.spend(count);
            if handle.write(&frame[..DATA_HEADER_LEN + count]).is_err() {
                return;
            }
        }
        // When this fails the guest has left, which the receiving thread reports.
        let _ = handle.send(&ToGuest::CloseStdin);
    }
}

/// No code of ours panics with a lock held; if it ever did, the data are still whole.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

//! One command from its request to its end: a loop over the connection, the command's streams and its end.
//!
//! The rules of the end: the session is over when the command itself ended and its outputs did, or were silent for
//! [`SILENCE`] after its end: something it left in the background may hold them open for ever. Time in which the host
//! gives no credit does not count as silence. A host that goes away first means SIGHUP for the command's process group,
//! and SIGKILL after [`HANGUP_GRACE`].

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use agent_protocol::bytes::EnvVar;
use agent_protocol::exec::{Exec, Signal, Status, Stream, ToGuest, ToHost};
use agent_protocol::{FrameReader, ProtocolError};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, kill_process_group};
use rustix::time::{ClockId, clock_gettime};

use super::input::{Input, Served};
use super::output::{Outbox, Output, Pumped};
use super::reaper::{Reaper, Started, read_status};
use super::spawn::spawn;
use super::stdio::{Ours, resize, set_nonblocking};

/// How long outputs may be silent after the command's end before they are given up.
const SILENCE: Duration = Duration::from_millis(100);
/// How long a command may live on after the host went away.
const HANGUP_GRACE: Duration = Duration::from_secs(5);

/// What all commands have in common.
#[derive(Debug)]
pub struct Context {
    /// This program, to be run as [`helper`](super::helper).
    pub helper: PathBuf,
    /// Waits for the commands.
    pub reaper: Arc<Reaper>,
    /// Environment of every command, below its own.
    pub environment: Vec<EnvVar>,
}

/// Serves a connection: one command. Returns when it is over and everything was sent, or the host went away and the
/// command is dead.
pub fn serve(stream: OwnedFd, context: &Context) -> Result<(), ProtocolError> {
    let stream = File::from(stream);
    let mut frames = FrameReader::new();
    let exec = match frames.receive(&stream)? {
        Some(ToGuest::Exec(exec)) => exec,
        Some(_) => return Err(ProtocolError::Malformed("no command at the start of a connection")),
        None => return Ok(()),
    };
    let mut outbox = Outbox::default();
    match spawn(&exec, context) {
        Ok((started, ours)) => Session::new(stream, frames, &exec, started, ours)?.run(),
        Err(refused) => {
            outbox.put(&refused.to_message())?;
            Ok(outbox.flush(&stream)?)
        }
    }
}

/// The guest's clock as boot marks have it.
pub(crate) fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(u64::try_from(now.tv_nsec).unwrap_or(0))
}

struct Session {
    stream: File,
    /// The host is there.
    is_connected: bool,
    frames: FrameReader<ToGuest>,
    outbox: Outbox,
    pid: Pid,
    input: Option<Input>,
    outputs: Vec<Output>,
    terminal: Option<OwnedFd>,
    end: Option<File>,
    status: Option<Status>,
    /// When something is given up: silent outputs, or a command nobody watches.
    deadline: Option<Instant>,
}

/// What a poll found.
#[derive(Debug, Default)]
struct Ready {
    stream: bool,
    input: bool,
    outputs: Vec<Stream>,
    end: bool,
}

impl Session {
    fn new(
        stream: File,
        frames: FrameReader<ToGuest>,
        exec: &Exec,
        started: Started,
        ours: Ours,
    ) -> Result<Self, ProtocolError> {
        let stream = OwnedFd::from(stream);
        set_nonblocking(&stream)?;
        let stdout = Output::new(ours.stdout, Stream::Stdout);
        let stderr = ours.stderr.map(|stderr| Output::new(stderr, Stream::Stderr));
        let mut outbox = Outbox::default();
        let pid = u32::try_from(started.pid.as_raw_nonzero().get()).unwrap_or(0);
        outbox.put(&ToHost::Started { pid, at_ns: monotonic_ns() })?;
        Ok(Self {
            stream: stream.into(),
            is_connected: true,
            frames,
            outbox,
            pid: started.pid,
            input: Some(Input::new(ours.stdin, exec.terminal.is_some())),
            outputs: [Some(stdout), stderr].into_iter().flatten().collect(),
            terminal: ours.terminal,
            end: Some(started.end),
            status: None,
            deadline: None,
        })
    }

    fn run(mut self) -> Result<(), ProtocolError> {
        let result = self.serve();
        if result.is_err() || !self.is_connected {
            self.hang_up();
        }
        result
    }

    /// Until the command is over or the host went away.
    fn serve(&mut self) -> Result<(), ProtocolError> {
        // The first frames may have come together with the request.
        self.take_messages()?;
        loop {
            if self.outbox.flush(&self.stream).is_err() {
                self.is_connected = false;
            }
            if !self.is_connected {
                return Ok(());
            }
            if let Some(status) = self.status
                && self.outputs.is_empty()
            {
                return self.finish(status);
            }
            let ready = self.wait()?;
            self.act(&ready)?;
        }
    }

    fn wait(&mut self) -> io::Result<Ready> {
        self.watch_silence();
        let mut fds = Vec::with_capacity(5);
        let stream_events = if self.outbox.is_empty() { PollFlags::IN } else { PollFlags::IN | PollFlags::OUT };
        fds.push((Source::Stream, self.stream.as_fd(), stream_events));
        if let Some(end) = &self.end {
            fds.push((Source::End, end.as_fd(), PollFlags::IN));
        }
        if let Some(input) = self.input.as_ref().and_then(Input::wanted) {
            fds.push((Source::Input, input, PollFlags::OUT));
        }
        if self.outbox.is_empty() {
            let wanted = self.outputs.iter().filter_map(|output| Some((output.stream, output.wanted()?)));
            fds.extend(wanted.map(|(stream, fd)| (Source::Output(stream), fd, PollFlags::IN)));
        }
        wait_for(&fds, self.deadline)
    }

    /// After the command's end the outputs have until the deadline; it moves when they say something or cannot.
    fn watch_silence(&mut self) {
        if self.status.is_none() {
            return;
        }
        let is_held_up = !self.outbox.is_empty() || self.outputs.iter().any(|output| output.wanted().is_none());
        if is_held_up {
            self.deadline = None;
        } else if self.deadline.is_none() {
            self.deadline = Some(Instant::now() + SILENCE);
        }
    }

    fn act(&mut self, ready: &Ready) -> Result<(), ProtocolError> {
        if ready.stream {
            self.receive()?;
        }
        if ready.input {
            self.serve_input()?;
        }
        for stream in &ready.outputs {
            self.pump(*stream)?;
        }
        if ready.end
            && let Some(end) = self.end.take()
        {
            self.status = Some(read_status(&end));
        }
        if self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            self.outputs.clear();
        }
        Ok(())
    }

    fn receive(&mut self) -> Result<(), ProtocolError> {
        match self.frames.fill(&self.stream) {
            Ok(0) => self.is_connected = false,
            Ok(_) => self.take_messages()?,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(_) => self.is_connected = false,
        }
        Ok(())
    }

    fn take_messages(&mut self) -> Result<(), ProtocolError> {
        while let Some(message) = self.frames.next()? {
            match message {
                ToGuest::Exec(_) => return Err(ProtocolError::Malformed("a second command on a connection")),
                // What comes after the command closed its input was on its way.
                ToGuest::Data(bytes) => {
                    if let Some(input) = &mut self.input {
                        input.take(&bytes)?;
                        self.serve_input()?;
                    }
                }
                ToGuest::CloseStdin => {
                    if let Some(input) = &mut self.input {
                        input.end();
                        self.serve_input()?;
                    }
                }
                ToGuest::Credit { stream, bytes } => {
                    if let Some(output) = self.outputs.iter_mut().find(|output| output.stream == stream) {
                        output.credit.add(bytes)?;
                    }
                }
                ToGuest::CloseOutput { stream } => self.close_output(stream),
                ToGuest::Signal(signal) => self.signal(signal),
                ToGuest::Resize(size) => {
                    if let Some(terminal) = &self.terminal {
                        resize(terminal, size)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn serve_input(&mut self) -> Result<(), ProtocolError> {
        let Some(input) = &mut self.input else { return Ok(()) };
        match input.serve() {
            Served::Credit(Some(bytes)) => self.outbox.put(&ToHost::Credit { bytes }),
            Served::Credit(None) => Ok(()),
            Served::Ended => {
                self.input = None;
                Ok(())
            }
            Served::Closed => {
                self.input = None;
                self.outbox.put(&ToHost::Closed { stream: Stream::Stdin })
            }
        }
    }

    fn pump(&mut self, stream: Stream) -> Result<(), ProtocolError> {
        // One read fills the outbox; the other stream has its turn when that is sent.
        if !self.outbox.is_empty() && self.outbox.flush(&self.stream).is_err() {
            self.is_connected = false;
        }
        if !self.outbox.is_empty() {
            return Ok(());
        }
        let Some(output) = self.outputs.iter_mut().find(|output| output.stream == stream) else { return Ok(()) };
        match output.pump(&mut self.outbox) {
            Pumped::Data => self.deadline = None,
            Pumped::Nothing => {}
            Pumped::End => {
                self.outputs.retain(|output| output.stream != stream);
                self.outbox.put(&ToHost::Closed { stream })?;
            }
        }
        Ok(())
    }

    /// Nobody reads this output on the host: the command is to notice when it writes.
    fn close_output(&mut self, stream: Stream) {
        self.outputs.retain(|output| output.stream != stream);
        if self.terminal.is_some() {
            // The terminal hangs up when its last descriptor is closed.
            (self.input, self.terminal) = (None, None);
        }
    }

    /// For whoever has the terminal, or else the command's own process group.
    fn signal(&self, signal: Signal) {
        if self.status.is_some() {
            return;
        }
        let foreground = self.terminal.as_ref().and_then(|terminal| rustix::termios::tcgetpgrp(terminal).ok());
        let group = foreground.unwrap_or(self.pid);
        if let Some(signal) = rustix::process::Signal::from_named_raw(i32::from(signal.number())) {
            // The group may have ended meanwhile.
            let _ = kill_process_group(group, signal);
        }
    }

    fn finish(&mut self, status: Status) -> Result<(), ProtocolError> {
        self.outbox.put(&ToHost::Exited(status))?;
        while self.is_connected && !self.outbox.is_empty() {
            if self.outbox.flush(&self.stream).is_err() {
                self.is_connected = false;
            } else if !self.outbox.is_empty() {
                wait_for(&[(Source::Stream, self.stream.as_fd(), PollFlags::OUT)], None)?;
            }
        }
        Ok(())
    }

    /// The host went away: the command's streams close, its group gets SIGHUP, and SIGKILL when it stays.
    fn hang_up(&mut self) {
        (self.input, self.terminal) = (None, None);
        self.outputs.clear();
        let Some(end) = self.end.take() else { return };
        // The group is there until the command's end was read.
        let _ = kill_process_group(self.pid, rustix::process::Signal::HUP);
        let deadline = Some(Instant::now() + HANGUP_GRACE);
        let ended = wait_for(&[(Source::End, end.as_fd(), PollFlags::IN)], deadline);
        if !ended.is_ok_and(|ready| ready.end) {
            let _ = kill_process_group(self.pid, rustix::process::Signal::KILL);
        }
        read_status(&end);
    }
}

#[derive(Debug, Clone, Copy)]
enum Source {
    Stream,
    Input,
    Output(Stream),
    End,
}

/// Waits until one of the descriptors is ready or the deadline has passed.
fn wait_for(wanted: &[(Source, BorrowedFd<'_>, PollFlags)], deadline: Option<Instant>) -> io::Result<Ready> {
    let mut fds: Vec<PollFd<'_>> =
        wanted.iter().map(|(_, fd, events)| PollFd::from_borrowed_fd(*fd, *events)).collect();
    let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
    let timeout = left.map(|left| Timespec {
        tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(left.subsec_nanos()),
    });
    match poll(&mut fds, timeout.as_ref()) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    let mut ready = Ready::default();
    for (fd, (source, _, _)) in fds.iter().zip(wanted).filter(|(fd, _)| !fd.revents().is_empty()) {
        match source {
            Source::Stream => ready.stream |= fd.revents().intersects(!PollFlags::OUT),
            Source::Input => ready.input = true,
            Source::Output(stream) => ready.outputs.push(*stream),
            Source::End => ready.end = true,
        }
    }
    Ok(ready)
}

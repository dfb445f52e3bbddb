//! The thread that lives as long as QEMU: starts it, listens to it, reaps it.
//!
//! It reads the serial port, QEMU's events and what QEMU prints, so that QEMU never waits for us, and keeps a bounded
//! amount of each. Being the thread that starts QEMU, its end is QEMU's end, whatever happens to the rest of us.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{OFlags, fcntl_setfl};
use rustix::io::{Errno, read, write};

use super::child::Child;
use super::event::{Event, HELLO, Lines};
use super::exit::{Signs, conclude};
use super::launch::{Channels, Launch};
use super::stop::Stop;
use crate::{ConsoleLog, Exit, Timeline};

/// How much is read at once, and how often in a row before the other channels have a turn.
const CHUNK: usize = 16 << 10;
const MAX_CHUNKS: usize = 16;
/// How much of QEMU's output is kept for an error message.
const MAX_OUTPUT: usize = 4 << 10;

/// What the thread works with.
#[derive(Debug)]
pub(super) struct Supervisor {
    child: Child,
    serial: Channel,
    events: Channel,
    output: Channel,
    stop: Arc<Stop>,
    console: ConsoleLog,
    timeline: Timeline,
    lines: Lines,
    shutdown: Option<String>,
    said: VecDeque<u8>,
}

impl Supervisor {
    /// Starts QEMU. To be called on the thread that then calls [`Supervisor::run`].
    pub(super) fn start(
        program: &Path,
        launch: Launch,
        channels: Channels,
        stop: Arc<Stop>,
        (console, timeline): (ConsoleLog, Timeline),
    ) -> io::Result<Self> {
        write(&channels.events, HELLO)?;
        let (child, output) = Child::spawn(program, launch)?;
        timeline.mark("engine ready");
        Ok(Self {
            child,
            serial: Channel::new(channels.serial.into())?,
            events: Channel::new(channels.events.into())?,
            output: Channel::new(output.into())?,
            stop,
            console,
            timeline,
            lines: Lines::default(),
            shutdown: None,
            said: VecDeque::new(),
        })
    }

    /// Listens until QEMU has ended.
    pub(super) fn run(mut self) -> Exit {
        let listened = self.listen();
        if let Err(error) = &listened {
            tracing::error!(%error, "Listening to QEMU failed");
        }
        // After a failure to listen the VM cannot go on; otherwise this is only the reaping.
        let status = self.child.kill().and_then(|()| self.child.wait());
        // What it wrote last is still on its way.
        self.hear();
        match (listened, status) {
            (Ok(()), Ok(status)) => conclude(&Signs {
                cause: self.stop.cause(),
                shutdown: self.shutdown.as_deref(),
                status,
                output: self.said.make_contiguous(),
            }),
            (Err(error), _) | (_, Err(error)) => {
                Exit::Crashed { reason: format!("QEMU could not be watched: {error}") }
            }
        }
    }

    fn listen(&mut self) -> io::Result<()> {
        while !self.has_ended()? {
            self.hear();
        }
        Ok(())
    }

    /// Sleeps until there is something to hear; true when QEMU is gone.
    fn has_ended(&mut self) -> io::Result<bool> {
        let mut polled =
            vec![PollFd::new(&self.child, PollFlags::IN), PollFd::from_borrowed_fd(self.stop.as_fd(), PollFlags::IN)];
        let channels = [&self.serial, &self.events, &self.output];
        let open = channels.iter().filter_map(|channel| channel.descriptor.as_ref());
        polled.extend(open.map(|descriptor| PollFd::new(descriptor, PollFlags::IN)));
        match poll(&mut polled, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let mut ready = polled.iter().map(|fd| !fd.revents().is_empty());
        let (ended, asked) = (ready.next().unwrap_or(true), ready.next().unwrap_or(true));
        Ok(ended || asked)
    }

    /// Reads what there is on every channel.
    fn hear(&mut self) {
        self.serial.drain(|bytes| self.console.push(bytes));
        let said = &mut self.said;
        self.output.drain(|bytes| {
            said.extend(bytes);
            said.drain(..said.len().saturating_sub(MAX_OUTPUT));
        });
        let mut events = Vec::new();
        self.events.drain(|bytes| events.extend(self.lines.push(bytes)));
        for event in events {
            match event {
                Event::Running => self.timeline.mark("kernel entered"),
                Event::Shutdown(reason) => self.shutdown = Some(reason),
            }
        }
    }
}

/// A descriptor to read from until its other end is closed.
#[derive(Debug)]
struct Channel {
    descriptor: Option<OwnedFd>,
}

impl Channel {
    fn new(descriptor: OwnedFd) -> io::Result<Self> {
        fcntl_setfl(&descriptor, OFlags::NONBLOCK)?;
        Ok(Self { descriptor: Some(descriptor) })
    }

    fn drain(&mut self, mut take: impl FnMut(&[u8])) {
        let mut buffer = [0; CHUNK];
        for _ in 0..MAX_CHUNKS {
            let Some(descriptor) = &self.descriptor else { return };
            match read(descriptor, &mut buffer) {
                Ok(0) => self.descriptor = None,
                Ok(count) => take(buffer.get(..count).unwrap_or_default()),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                Err(_) => self.descriptor = None,
            }
        }
    }
}

//! The host's half of the control connection: what the agent says arrives as events beside the VM's end.

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use agent_protocol::control::{ToGuest, ToHost};
use agent_protocol::{FrameReader, ProtocolError, encode};
use devices::vsock::VsockListener;
use vmm::{Exit, RunningVm};

/// Stack of a thread that only waits and passes on.
const STACK: usize = 128 << 10;

/// What may happen to a VM from outside a command.
#[derive(Debug)]
pub(crate) enum Event {
    /// The agent connected; messages to it go here.
    Connected(UnixStream),
    /// The agent said something.
    Said(ToHost),
    /// The agent is gone, or talks nonsense.
    Broken(ProtocolError),
    /// The VM ended.
    Ended(Result<Exit, vmm::Error>),
}

/// The queue of events and the threads that fill it.
#[derive(Debug)]
pub(crate) struct Control {
    events: Receiver<Event>,
    agent: Option<UnixStream>,
    waiter: Option<JoinHandle<()>>,
    ended: Option<Result<Exit, vmm::Error>>,
}

impl Control {
    /// Waits for the end of `running`, and for the agent on `listener`.
    pub(crate) fn new(running: RunningVm, listener: VsockListener) -> io::Result<Self> {
        let (sender, events) = channel();
        let to_queue = sender.clone();
        let waiter = thread::Builder::new().name("vm-end".into()).stack_size(STACK).spawn(move || {
            // Whoever reads the queue may have stopped caring; the VM has ended all the same.
            let _ = to_queue.send(Event::Ended(running.wait()));
        })?;
        // Ends when the device closes the listener or the connection, at the latest with the VM.
        thread::Builder::new()
            .name("agent-control".into())
            .stack_size(STACK)
            .spawn(move || listen(&listener, &sender))?;
        Ok(Self { events, agent: None, waiter: Some(waiter), ended: None })
    }

    /// The agent's next message, or why there is none by `deadline`.
    pub(crate) fn next(&mut self, deadline: Instant) -> Result<ToHost, Silence> {
        loop {
            if self.ended.is_some() {
                return Err(Silence::Ended);
            }
            match self.events.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(Event::Connected(agent)) => self.agent = Some(agent),
                Ok(Event::Said(message)) => return Ok(message),
                Ok(Event::Broken(error)) => return Err(Silence::Broken(error)),
                Ok(Event::Ended(exit)) => self.ended = Some(exit),
                Err(RecvTimeoutError::Timeout) => return Err(Silence::Timeout),
                Err(RecvTimeoutError::Disconnected) => return Err(Silence::Ended),
            }
        }
    }

    /// Says something to the agent.
    pub(crate) fn say(&self, message: &ToGuest) -> Result<(), ProtocolError> {
        use std::io::Write;
        let mut agent = self.agent.as_ref().ok_or(ProtocolError::Closed)?;
        Ok(agent.write_all(&encode(message)?)?)
    }

    /// How the VM ended, if it does so by `deadline`.
    pub(crate) fn wait_end(&mut self, patience: Duration) -> Option<&Result<Exit, vmm::Error>> {
        let deadline = Instant::now() + patience;
        while self.ended.is_none() {
            match self.next(deadline) {
                Ok(_) | Err(Silence::Broken(_)) => {}
                Err(Silence::Ended | Silence::Timeout) => break,
            }
        }
        self.ended.as_ref()
    }

    /// Joins the thread that waits for the VM, which must have been told to end.
    pub(crate) fn join(&mut self) {
        if let Some(waiter) = self.waiter.take()
            && waiter.join().is_err()
        {
            tracing::error!("The thread that waits for the VM panicked");
        }
    }
}

/// Why the agent's next message did not come.
#[derive(Debug)]
pub(crate) enum Silence {
    /// The VM ended.
    Ended,
    /// The agent's connection broke.
    Broken(ProtocolError),
    /// Nothing came in time.
    Timeout,
}

fn listen(listener: &VsockListener, events: &Sender<Event>) {
    let Ok(stream) = listener.accept() else { return };
    let Ok(ours) = stream.try_clone() else { return };
    let mut frames = FrameReader::<ToHost>::new();
    let mut is_wanted = events.send(Event::Connected(ours)).is_ok();
    while is_wanted {
        let event = match frames.receive(&stream) {
            Ok(Some(message)) => Event::Said(message),
            Ok(None) => Event::Broken(ProtocolError::Closed),
            Err(error) => Event::Broken(error),
        };
        let is_last = matches!(event, Event::Broken(_));
        is_wanted = events.send(event).is_ok() && !is_last;
    }
}

//! The host's half of the control connection: what the agent says arrives as events beside the VM's end.

use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use agent_protocol::control::{ToGuest, ToHost};
use agent_protocol::{FrameReader, ProtocolError, encode};
use devices::vsock::VsockListener;
use vmm::{Exit, RunningVm};

use crate::ports::Mailbox;

/// Stack of a thread that only waits and passes on.
const STACK: usize = 128 << 10;

/// Words of the agent that wait to be read; it speaks when it is spoken to, so more than that is nonsense.
const MAX_EVENTS: usize = 64;
/// How long an agent may not listen.
const SEND_PATIENCE: Duration = Duration::from_secs(5);

/// What may happen to a VM from outside a command.
#[derive(Debug)]
pub(crate) enum Event {
    /// The agent said something.
    Said(ToHost),
    /// The agent is gone, or talks nonsense.
    Broken(ProtocolError),
    /// The VM ended; how lies beside the queue, which the agent may have filled.
    Ended,
}

type End = Result<Exit, vmm::Error>;

/// The queue of events and the threads that fill it.
#[derive(Debug)]
pub(crate) struct Control {
    events: Receiver<Event>,
    agent: Agent,
    waiter: Option<JoinHandle<()>>,
    end: Arc<Mutex<Option<End>>>,
    ended: Option<End>,
}

impl Control {
    /// Waits for the end of `running`, and for the agent on `listener`. What the agent says about ports goes to
    /// `mailbox`.
    pub(crate) fn new(
        running: RunningVm,
        listener: VsockListener,
        agent: Agent,
        mailbox: Arc<Mailbox>,
    ) -> io::Result<Self> {
        let (sender, events) = sync_channel(MAX_EVENTS);
        let (to_queue, end) = (sender.clone(), Arc::new(Mutex::new(None)));
        let to_reader = end.clone();
        let waiter = thread::Builder::new().name("vm-end".into()).stack_size(STACK).spawn(move || {
            let ended = running.wait();
            *to_reader.lock().unwrap_or_else(PoisonError::into_inner) = Some(ended);
            // Only wakes up whoever waits; nobody does while the queue is full.
            let _ = to_queue.try_send(Event::Ended);
        })?;
        // Ends when the device closes the listener or the connection, at the latest with the VM.
        let to_agent = agent.clone();
        thread::Builder::new()
            .name("agent-control".into())
            .stack_size(STACK)
            .spawn(move || listen(&listener, &to_agent, &mailbox, &sender))?;
        Ok(Self { events, agent, waiter: Some(waiter), end, ended: None })
    }

    /// The agent's next message, or why there is none by `deadline`.
    pub(crate) fn next(&mut self, deadline: Instant) -> Result<ToHost, Silence> {
        loop {
            if self.has_ended() {
                return Err(Silence::Ended);
            }
            match self.events.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(Event::Said(message)) => return Ok(message),
                Ok(Event::Broken(error)) => return Err(Silence::Broken(error)),
                Ok(Event::Ended) => {}
                Err(RecvTimeoutError::Timeout) => return Err(Silence::Timeout),
                Err(RecvTimeoutError::Disconnected) => {
                    self.has_ended();
                    return Err(Silence::Ended);
                }
            }
        }
    }

    fn has_ended(&mut self) -> bool {
        if self.ended.is_none() {
            self.ended = self.end.lock().unwrap_or_else(PoisonError::into_inner).take();
        }
        self.ended.is_some()
    }

    /// Says something to the agent.
    pub(crate) fn say(&self, message: &ToGuest) -> Result<(), ProtocolError> {
        self.agent.say(message)
    }

    /// How the VM ended, if it does so by `deadline`.
    pub(crate) fn wait_end(&mut self, patience: Duration) -> Option<&End> {
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

/// The way to the agent; clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Agent {
    stream: Arc<Mutex<Option<UnixStream>>>,
}

impl Agent {
    /// Says something; an error if the agent is not there yet, or gone, or does not listen.
    pub(crate) fn say(&self, message: &ToGuest) -> Result<(), ProtocolError> {
        let mut stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        let stream = stream.as_mut().ok_or(ProtocolError::Closed)?;
        Ok(stream.write_all(&encode(message)?)?)
    }

    fn connected(&self, stream: UnixStream) -> io::Result<()> {
        stream.set_write_timeout(Some(SEND_PATIENCE))?;
        *self.stream.lock().unwrap_or_else(PoisonError::into_inner) = Some(stream);
        Ok(())
    }
}

fn listen(listener: &VsockListener, agent: &Agent, mailbox: &Mailbox, events: &SyncSender<Event>) {
    if let Ok(stream) = listener.accept() {
        hear(&stream, agent, mailbox, events);
    }
}

/// Takes what the agent says, for as long as it makes sense.
pub(crate) fn hear(stream: &UnixStream, agent: &Agent, mailbox: &Mailbox, events: &SyncSender<Event>) {
    let Ok(()) = stream.try_clone().and_then(|ours| agent.connected(ours)) else { return };
    let mut frames = FrameReader::<ToHost>::new();
    loop {
        let event = match frames.receive(stream) {
            Ok(Some(ToHost::Relays { relays })) => {
                mailbox.put_relays(relays);
                continue;
            }
            Ok(Some(ToHost::Listening { ports })) => {
                mailbox.put_listening(ports);
                continue;
            }
            Ok(Some(message)) => Event::Said(message),
            Ok(None) => Event::Broken(ProtocolError::Closed),
            Err(error) => Event::Broken(error),
        };
        let is_last = matches!(event, Event::Broken(_));
        let is_full = match events.try_send(event) {
            Ok(()) => false,
            Err(TrySendError::Full(_)) => true,
            Err(TrySendError::Disconnected(_)) => return,
        };
        if is_full {
            tracing::warn!("The guest agent talks without being asked and is not heard any more");
        }
        if is_last || is_full {
            return;
        }
    }
}

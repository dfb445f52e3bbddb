//! What a guest and a VM would have noticed.

use std::sync::Mutex;

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::{Fault, Interrupt, Supervisor};

fn eventfd() -> EventFd {
    EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK).expect("an eventfd")
}

/// Counts interrupts; each kind can be waited for by its descriptor.
#[derive(Debug)]
pub struct InterruptRecorder {
    used: Vec<EventFd>,
    config: EventFd,
}

impl InterruptRecorder {
    /// A recorder for that many queues.
    pub fn new(queues: usize) -> Self {
        Self { used: (0..queues).map(|_| eventfd()).collect(), config: eventfd() }
    }

    /// The eventfd that counts interrupts of `queue`.
    pub fn used_fd(&self, queue: u16) -> &EventFd {
        self.used.get(usize::from(queue)).expect("a queue of the device")
    }

    /// The eventfd that counts configuration interrupts.
    pub fn config_fd(&self) -> &EventFd {
        &self.config
    }
}

impl Interrupt for InterruptRecorder {
    fn used(&self, queue: u16) {
        self.used_fd(queue).write(1).expect("an eventfd takes a count");
    }

    fn config(&self) {
        self.config.write(1).expect("an eventfd takes a count");
    }
}

/// Remembers faults; the first can be waited for.
#[derive(Debug)]
pub struct FaultRecorder {
    bell: EventFd,
    texts: Mutex<Vec<String>>,
}

impl Default for FaultRecorder {
    fn default() -> Self {
        Self { bell: eventfd(), texts: Mutex::default() }
    }
}

impl FaultRecorder {
    /// The eventfd that counts faults.
    pub fn bell(&self) -> &EventFd {
        &self.bell
    }

    /// The faults so far, in words.
    pub fn texts(&self) -> Vec<String> {
        self.texts.lock().expect("no test panicked here").clone()
    }
}

impl Supervisor for FaultRecorder {
    fn faulted(&self, fault: &Fault) {
        self.texts.lock().expect("no test panicked here").push(format!("{fault}{}", cause(fault)));
        self.bell.write(1).expect("an eventfd takes a count");
    }
}

fn cause(fault: &Fault) -> String {
    std::error::Error::source(fault).map(|source| format!(": {source}")).unwrap_or_default()
}

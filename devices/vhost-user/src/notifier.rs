//! From the device to the guest: interrupts and faults, through the descriptors the monitor passed.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use virtio::{Fault, Interrupt, Supervisor, ThreadKind};
use vmm_sys_util::eventfd::EventFd;

/// One ring's descriptors towards the monitor.
#[derive(Debug, Default)]
struct Lines {
    call: Option<EventFd>,
    error: Option<EventFd>,
}

/// Written by the session when the monitor changes a descriptor, used by the worker at the same time.
#[derive(Debug)]
pub(crate) struct Notifier {
    label: String,
    lines: Mutex<Vec<Lines>>,
    supervisor: Arc<dyn Supervisor>,
}

impl Notifier {
    pub(crate) fn new(label: &str, rings: usize, supervisor: Arc<dyn Supervisor>) -> Self {
        let lines = std::iter::repeat_with(Lines::default).take(rings).collect();
        Self { label: label.into(), lines: Mutex::new(lines), supervisor }
    }

    /// Takes the descriptor for interrupts of a ring, and rings it once: one that came between two descriptors is lost
    /// otherwise, and one too many does no harm.
    pub(crate) fn set_call(&self, index: usize, call: Option<EventFd>) {
        if let Some(lines) = self.lines().get_mut(index) {
            lines.call = call;
            signal(lines.call.as_ref());
        }
    }

    pub(crate) fn set_error(&self, index: usize, error: Option<EventFd>) {
        if let Some(lines) = self.lines().get_mut(index) {
            lines.error = error;
        }
    }

    fn lines(&self) -> MutexGuard<'_, Vec<Lines>> {
        // Nothing panics while it holds the lock, and descriptors stay what they are if it did.
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn signal(line: Option<&EventFd>) {
    if let Some(line) = line {
        // Fails when the monitor passed something else or let the counter overflow: its own loss.
        let _ = line.write(1);
    }
}

impl Interrupt for Notifier {
    fn used(&self, queue: u16) {
        if let Some(lines) = self.lines().get(usize::from(queue)) {
            signal(lines.call.as_ref());
        }
    }

    fn config(&self) {
        tracing::debug!(device = self.label, "Configuration change is not announced over vhost-user");
    }
}

impl Supervisor for Notifier {
    fn confine(&self, thread: ThreadKind) -> io::Result<()> {
        self.supervisor.confine(thread)
    }

    fn faulted(&self, fault: &Fault) {
        for lines in self.lines().iter() {
            signal(lines.error.as_ref());
        }
        self.supervisor.faulted(fault);
    }
}

//! A VM that runs, with its agent: says things to it, and finds out why it fell silent.

use std::time::{Duration, Instant};

use agent_protocol::ProtocolError;
use agent_protocol::control::{ToGuest, ToHost};
use vmm::Exit;

use crate::attention::Attention;
use crate::control::{Control, Silence};
use crate::error::Error;
use crate::printable::printable;

/// How long a VM may take to end after its agent fell silent, before that is a failure of its own.
const END_PATIENCE: Duration = Duration::from_secs(3);
/// Lines at the end of the guest's console that a failure shows.
const LAST_WORDS: usize = 12;
/// Lines from the first sign of trouble on, which say more than the registers that end a crash.
const TROUBLE_WORDS: usize = 24;
/// How far back trouble is looked for.
const MAX_WORDS: usize = 400;
/// What the kernel's own reports of its faults begin with.
const TROUBLE: [&str; 3] = ["Oops: ", "BUG: ", "Kernel panic"];

/// A running VM; dropping it ends the VM and everything that belongs to it.
#[derive(Debug)]
pub(crate) struct Guest {
    vm: vmm::Handle,
    control: Control,
    attention: Attention,
}

impl Guest {
    pub(crate) fn new(vm: vmm::Handle, control: Control, attention: Attention) -> Self {
        Self { vm, control, attention }
    }

    /// The agent's next message; a guest that says nothing within `patience` is a failure.
    pub(crate) fn hear(&mut self, patience: Duration) -> Result<ToHost, Error> {
        self.control.next(Instant::now() + patience).map_err(|silence| match silence {
            Silence::Broken(error @ ProtocolError::Version { .. }) => Error::Protocol(error),
            Silence::Timeout => {
                let reason = format!("its agent did not answer within {} s", patience.as_secs());
                Error::Guest { reason, console: self.last_words() }
            }
            Silence::Broken(_) | Silence::Ended if self.attention.is_called() => Error::Interrupted,
            Silence::Broken(_) | Silence::Ended => Error::Guest { reason: self.end(), console: self.last_words() },
        })
    }

    /// Says something to the agent.
    pub(crate) fn say(&self, message: &ToGuest) -> Result<(), Error> {
        self.control.say(message).map_err(Error::Protocol)
    }

    /// How the VM ended, in words, once it has.
    pub(crate) fn end(&mut self) -> String {
        let console = self.vm.console().bytes();
        match self.control.wait_end(END_PATIENCE) {
            None => "its agent is gone and the VM does not end".into(),
            Some(Err(error)) => error.to_string(),
            Some(Ok(Exit::Crashed { reason })) => reason.clone(),
            Some(Ok(_)) if contains(&console, b"Kernel panic") => "the guest's kernel panicked".into(),
            Some(Ok(Exit::Reset)) => "the guest rebooted".into(),
            Some(Ok(Exit::Killed)) => "the VM was killed".into(),
            Some(Ok(_)) => "the guest powered off".into(),
        }
    }

    /// The last lines of the guest's console, or those from its kernel's fault on, made safe to print.
    pub(crate) fn last_words(&self) -> String {
        let lines = telling(self.vm.console().last_lines(MAX_WORDS));
        lines.iter().map(|line| printable(line)).collect::<Vec<_>>().join("\n")
    }

    /// Asks the agent to end every process, sync and power off; kills the VM if that takes longer than `patience`.
    pub(crate) fn stop(&mut self, patience: Duration) {
        let is_asked = self.control.say(&ToGuest::Shutdown { grace: patience / 2 }).is_ok();
        if is_asked && self.control.wait_end(patience).is_none() {
            tracing::warn!("The guest did not shut down in time and was killed");
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.vm.kill();
        self.control.join();
    }
}

fn telling(mut lines: Vec<String>) -> Vec<String> {
    let trouble = lines.iter().position(|line| TROUBLE.iter().any(|sign| line.contains(sign)));
    lines.drain(..trouble.unwrap_or_else(|| lines.len().saturating_sub(LAST_WORDS)));
    lines.truncate(TROUBLE_WORDS);
    lines
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbered(range: std::ops::Range<usize>) -> Vec<String> {
        range.map(|number| format!("line {number}")).collect()
    }

    #[test]
    fn crash_is_shown_from_its_first_line() {
        let mut lines = numbered(0..100);
        lines[30] = "[    0.78] Oops: int3: 0000 [#1] SMP NOPTI".into();
        assert_eq!(telling(lines.clone()), lines[30..30 + TROUBLE_WORDS]);
    }

    #[test]
    fn silence_is_shown_by_what_came_last() {
        assert_eq!(telling(numbered(0..100)), numbered(100 - LAST_WORDS..100));
        assert_eq!(telling(numbered(0..3)), numbered(0..3));
    }
}

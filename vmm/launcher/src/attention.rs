//! Signals and window sizes, from whoever receives them to whoever must act at that moment.
//!
//! The command line's signal thread calls this at any time. While the VM starts, a signal gives the start up; while a
//! command runs, it goes to the command; a command that ignores three of them in a row loses its VM.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use agent_protocol::client::Handle as CommandHandle;
use agent_protocol::exec::{Signal, WindowSize};

/// Signals after which a command that ignores them is ended with its VM.
const PATIENCE: u8 = 3;

/// Where attention goes now; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Attention {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// The first signal that came, for the exit status of a start that was given up.
    first: Option<i32>,
    received: u8,
    /// The VM was ended while no command ran in it.
    cut_short: bool,
    vm: Option<vmm::Handle>,
    command: Option<CommandHandle>,
}

impl Attention {
    /// A signal for whatever is going on.
    pub fn signal(&self, number: i32) {
        let mut state = self.lock();
        state.first.get_or_insert(number);
        state.received = state.received.saturating_add(1);
        let is_passed_on = state.received < PATIENCE
            && match (&state.command, Signal::new(number)) {
                (Some(command), Some(signal)) => command.signal(signal).is_ok(),
                _ => false,
            };
        let state = &mut *state;
        if let (false, Some(vm)) = (is_passed_on, &state.vm) {
            vm.kill();
            state.cut_short |= state.command.is_none();
        }
    }

    /// The terminal has a new size.
    pub fn resize(&self, size: WindowSize) {
        if let Some(command) = &self.lock().command {
            // The command may just have ended; its size does not matter then.
            let _ = command.resize(size);
        }
    }

    /// The first signal so far, if one came.
    pub fn first_signal(&self) -> Option<i32> {
        self.lock().first
    }

    /// True once a signal ended the VM before or between commands.
    pub(crate) fn is_cut_short(&self) -> bool {
        self.lock().cut_short
    }

    /// True once a signal came.
    pub(crate) fn is_called(&self) -> bool {
        self.lock().first.is_some()
    }

    /// From now on a signal ends `vm`, unless a command takes it.
    pub(crate) fn guard_vm(&self, vm: vmm::Handle) {
        let mut state = self.lock();
        if state.first.is_some() {
            vm.kill();
        }
        state.vm = Some(vm);
    }

    /// From now on signals go to `command`; to nobody but the VM with `None`.
    pub(crate) fn follow(&self, command: Option<CommandHandle>) {
        let mut state = self.lock();
        state.command = command;
        state.received = 0;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

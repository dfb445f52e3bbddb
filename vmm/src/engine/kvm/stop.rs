//! The end of a VM: the first reason wins, every vCPU is kicked, waiters wake up.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::kick::Target;
use crate::Exit;

/// Shared by everyone who may end the VM or wait for its end.
#[derive(Debug, Default)]
pub(super) struct Stop {
    /// Looked at before every entry of the guest.
    requested: AtomicBool,
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct State {
    exit: Option<Exit>,
    targets: Vec<Target>,
}

impl Stop {
    /// Ends the VM for the reason `exit`, unless it has ended already.
    pub(super) fn request(&self, exit: Exit) {
        let mut state = self.lock();
        if state.exit.is_none() {
            state.exit = Some(exit);
            self.requested.store(true, Ordering::SeqCst);
            state.targets.iter().for_each(Target::kick);
            self.ended.notify_all();
        }
    }

    /// Whether somebody ended the VM.
    pub(super) fn is_requested(&self) -> bool {
        self.requested.load(Ordering::SeqCst)
    }

    /// Blocks until the VM ends and says why.
    pub(super) fn wait(&self) -> Exit {
        let mut state = self.lock();
        loop {
            if let Some(exit) = &state.exit {
                return exit.clone();
            }
            state = self.ended.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Adds a vCPU thread; one that comes after the end is kicked at once.
    pub(super) fn register(&self, target: Target) {
        let mut state = self.lock();
        if state.exit.is_some() {
            target.kick();
        }
        state.targets.push(target);
    }

    /// Takes a vCPU thread out; it will not be touched any more when this returns.
    pub(super) fn unregister(&self, is_it: impl Fn(&Target) -> bool) {
        self.lock().targets.retain(|target| !is_it(target));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_reason_wins() {
        let stop = Stop::default();
        assert!(!stop.is_requested());
        stop.request(Exit::Reset);
        stop.request(Exit::Killed);
        assert!(stop.is_requested());
        assert_eq!(stop.wait(), Exit::Reset);
        assert_eq!(stop.wait(), Exit::Reset);
    }

    #[test]
    fn waiter_wakes_up_on_another_threads_request() {
        let stop = Stop::default();
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| stop.wait());
            stop.request(Exit::Shutdown);
            assert_eq!(waiter.join().unwrap(), Exit::Shutdown);
        });
    }
}

//! What flows without an end of their own have in common: they get their turn when something came for them, and they
//! are over when nothing moved for a while.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use crate::context::Context;
use crate::poller::Owner;
use crate::slab::Key;
use crate::timers::Armed;

/// When something moved last on a flow, and whether something waits.
#[derive(Debug)]
pub(crate) struct Idle {
    pub(crate) used: Instant,
    armed: Armed,
    waits: bool,
}

impl Idle {
    pub(crate) fn since(now: Instant) -> Self {
        Self { used: now, armed: Armed::default(), waits: false }
    }

    /// Sets the timer of a new flow.
    pub(crate) fn watch(&mut self, context: &mut Context, owner: Owner, patience: Duration) {
        context.timers.arm(&mut self.armed, owner.into(), context.now + patience);
    }

    /// The timer rang: whether the flow is over. If something moved meanwhile, the timer is set again.
    pub(crate) fn is_over(&mut self, context: &mut Context, owner: Owner, at: Instant, patience: Duration) -> bool {
        if !self.armed.fired(at) {
            return false;
        }
        let end = self.used + patience;
        if end > context.now {
            context.timers.arm(&mut self.armed, owner.into(), end);
        }
        end <= context.now
    }

    /// The flow's turn begins: what comes from now on is for the next one.
    pub(crate) fn begin_turn(&mut self) {
        self.waits = false;
    }
}

/// The flows that wait for their turn, each of them once.
#[derive(Debug, Default)]
pub(crate) struct Turns(Vec<Key>);

impl Turns {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Something came for a flow, if it is still there.
    pub(crate) fn add(&mut self, key: Key, flow: Option<&mut Idle>) {
        if flow.is_some_and(|flow| !std::mem::replace(&mut flow.waits, true)) {
            self.0.push(key);
        }
    }

    /// Those whose turn it is.
    pub(crate) fn take(&mut self) -> Vec<Key> {
        std::mem::take(&mut self.0)
    }
}

/// Gives a flow its turn; whether that was all there is to do, or none if it hit a fault of the gateway.
pub(crate) fn turn(work: impl FnOnce() -> bool) -> Option<bool> {
    catch_unwind(AssertUnwindSafe(work)).ok()
}

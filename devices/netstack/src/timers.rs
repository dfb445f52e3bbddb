//! Deadlines of everything, in one heap.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Instant;

use crate::poller::Token;

/// A heap of deadlines. Entries are never removed early: their owner ignores those it no longer wants, and remembers
/// what it has armed so that postponing costs nothing.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    heap: BinaryHeap<Reverse<(Instant, Token)>>,
}

/// What an owner has armed.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Armed(Option<Instant>);

impl Armed {
    /// The timer fired: nothing is armed any more. False when an entry was left over from an earlier arming.
    pub(crate) fn fired(&mut self, at: Instant) -> bool {
        let current = self.0 == Some(at);
        if current {
            self.0 = None;
        }
        current
    }
}

impl Timers {
    /// Makes sure that `token` comes up at `at` or before; one that comes too early is for its owner to arm again.
    pub(crate) fn arm(&mut self, armed: &mut Armed, token: Token, at: Instant) {
        if armed.0.is_none_or(|earlier| at < earlier) {
            armed.0 = Some(at);
            self.heap.push(Reverse((at, token)));
        }
    }

    /// The next deadline.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse((at, _))| *at)
    }

    /// Takes one deadline that has passed.
    pub(crate) fn pop(&mut self, now: Instant) -> Option<(Instant, Token)> {
        if self.next()? > now {
            return None;
        }
        self.heap.pop().map(|Reverse(due)| due)
    }
}

//! Deadlines of everything, in one heap.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

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

/// A descriptor that becomes readable at the next deadline.
#[derive(Debug)]
pub(crate) struct Alarm {
    timer: OwnedFd,
    set_to: Option<Instant>,
}

impl Alarm {
    pub(crate) fn new() -> io::Result<Self> {
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
        Ok(Self { timer, set_to: None })
    }

    /// Rings at `at` and not before. One that rings too early does no harm, so a later deadline is left for then.
    pub(crate) fn set(&mut self, at: Option<Instant>) -> io::Result<()> {
        let Some(at) = at.filter(|at| self.set_to.is_none_or(|earlier| *at < earlier)) else { return Ok(()) };
        // Zero would turn it off.
        let left = at.saturating_duration_since(Instant::now()).max(Duration::from_nanos(1));
        let value =
            Timespec { tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX), tv_nsec: left.subsec_nanos().into() };
        let once = Itimerspec { it_interval: Timespec::default(), it_value: value };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once)?;
        self.set_to = Some(at);
        Ok(())
    }

    /// It rang.
    pub(crate) fn rang(&mut self) {
        self.set_to = None;
        // Fails only when it was set anew meanwhile, and then it will ring again.
        let _ = rustix::io::read(&self.timer, &mut [0; 8]);
    }
}

impl AsFd for Alarm {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.timer.as_fd()
    }
}

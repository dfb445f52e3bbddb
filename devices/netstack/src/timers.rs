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

/// Entries that are never worth a look at whether anybody still wants them.
const FEW: usize = 4096;

/// A heap of deadlines. Entries are not removed when their owner wants them no longer: it ignores them, and remembers
/// what it has armed so that postponing costs nothing. When they pile up, those of owners that are gone are swept out.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    heap: BinaryHeap<Reverse<(Instant, Token)>>,
    /// How many entries the last sweep left.
    swept: usize,
}

/// What an owner has armed: the next entry, and a later one that it stands before. Without the latter an owner with a
/// far deadline and many near ones would leave an entry for the far one behind with each of them.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Armed {
    next: Option<Instant>,
    later: Option<Instant>,
}

impl Armed {
    /// The timer fired. False when an entry was left over from an earlier arming.
    pub(crate) fn fired(&mut self, at: Instant) -> bool {
        let current = self.next == Some(at);
        if current {
            self.next = self.later.take();
        }
        current
    }
}

impl Timers {
    /// Makes sure that `token` comes up at `at` or before; one that comes too early is for its owner to arm again.
    pub(crate) fn arm(&mut self, armed: &mut Armed, token: Token, at: Instant) {
        if armed.next.is_none_or(|earlier| at < earlier) {
            armed.later = [armed.next, armed.later].into_iter().flatten().min();
            armed.next = Some(at);
            self.heap.push(Reverse((at, token)));
        }
    }

    /// The next deadline.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse((at, _))| *at)
    }

    /// Drops the entries of owners that are gone, once there are twice as many as after the last time.
    pub(crate) fn sweep(&mut self, is_there: impl Fn(Token) -> bool) {
        if self.heap.len() > FEW.max(2 * self.swept) {
            self.heap.retain(|Reverse((_, token))| is_there(*token));
            self.swept = self.heap.len();
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::poller::Owner;
    use crate::slab::Slab;

    const NEAR: Duration = Duration::from_millis(1);
    const FAR: Duration = Duration::from_secs(60);

    #[test]
    fn near_deadlines_before_a_far_one_leave_nothing_behind() {
        let (mut timers, mut armed, token) = (Timers::default(), Armed::default(), Owner::Router.into());
        let mut now = Instant::now();
        let far = now + FAR;
        for _ in 0..10_000 {
            timers.arm(&mut armed, token, far);
            timers.arm(&mut armed, token, now + NEAR);
            now += NEAR;
            let (at, _) = timers.pop(now).unwrap();
            assert!(armed.fired(at));
        }
        assert_eq!(timers.heap.len(), 1);
        assert_eq!(timers.pop(far).map(|(at, _)| armed.fired(at)), Some(true));
        assert_eq!(armed.next, None);
    }

    #[test]
    fn entries_of_owners_that_are_gone_are_swept_out() {
        let (mut timers, mut slab, now) = (Timers::default(), Slab::new(), Instant::now());
        let kept = slab.insert(());
        timers.arm(&mut Armed::default(), Owner::Udp(kept).into(), now + FAR);
        let mut most = 0;
        for _ in 0..10 * FEW {
            let gone = slab.insert(());
            timers.arm(&mut Armed::default(), Owner::Udp(gone).into(), now + FAR);
            slab.remove(gone);
            timers.sweep(|token| matches!(token.owner(), Owner::Udp(key) if slab.contains(key)));
            most = most.max(timers.heap.len());
        }
        assert!(most <= FEW + 1, "{most}");
        assert!(timers.heap.iter().any(|Reverse((_, token))| token.owner() == Owner::Udp(kept)));
    }
}

//! How often the worker listens.
//!
//! A program on the host that writes a file in small pieces causes an event for each. The kernel merges those that
//! nobody took yet; so after taking some, the worker leaves the next alone for a moment.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use virtio::Watch;
use vmm_sys_util::epoll::EventSet;

/// Events of the pace: something was reported; the pause is over.
pub(in crate::fs) const CHANGED: u16 = 0x102;
pub(in crate::fs) const RESTED: u16 = 0x103;

/// Far below what anybody notices, long enough for many changes.
const PAUSE: Duration = Duration::from_millis(5);

/// A timer that keeps the worker from listening all the time.
#[derive(Debug)]
pub(in crate::fs) struct Pace {
    timer: OwnedFd,
}

impl Pace {
    pub(in crate::fs) fn new() -> io::Result<Self> {
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
        Ok(Self { timer })
    }

    /// Waits for reports, which `bell` announces.
    pub(in crate::fs) fn start(&self, bell: BorrowedFd<'_>, watch: &mut dyn Watch) -> io::Result<()> {
        watch.add(self.timer.as_fd(), RESTED, EventSet::IN)?;
        watch.add(bell, CHANGED, EventSet::IN)
    }

    /// `CHANGED` or `RESTED` happened.
    pub(in crate::fs) fn on_event(&self, token: u16, bell: BorrowedFd<'_>, watch: &mut dyn Watch) -> io::Result<()> {
        if token == RESTED {
            // Non-blocking: fails only when the timer was already silenced.
            let _ = rustix::io::read(&self.timer, &mut [0; 8]);
            return watch.modify(bell, CHANGED, EventSet::IN);
        }
        let once = Timespec { tv_sec: 0, tv_nsec: 0 };
        let pause = Timespec { tv_sec: 0, tv_nsec: PAUSE.subsec_nanos().into() };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &Itimerspec { it_interval: once, it_value: pause })?;
        watch.modify(bell, CHANGED, EventSet::empty())
    }

    pub(in crate::fs) fn reset(&self, bell: BorrowedFd<'_>, watch: &mut dyn Watch) {
        // Fails when it is not watched.
        let _ = watch.remove(bell, CHANGED);
        let _ = watch.remove(self.timer.as_fd(), RESTED);
    }
}

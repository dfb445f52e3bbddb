//! How other threads ask the supervisor to end QEMU.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::write;

/// Why QEMU is ended from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Cause {
    /// Somebody wanted it.
    Kill,
    /// The VM cannot go on, for a reason that the user is told.
    Failure(String),
}

/// Readable from the first request on, which is the one that counts.
#[derive(Debug)]
pub(super) struct Stop {
    bell: OwnedFd,
    cause: Mutex<Option<Cause>>,
}

impl Stop {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { bell: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?, cause: Mutex::default() })
    }

    /// Asks for the end.
    pub(super) fn request(&self, cause: Cause) {
        self.cause.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(cause);
        // Fails only when the counter is full, and then it is readable.
        let _ = write(&self.bell, &1u64.to_ne_bytes());
    }

    /// The first request, if there was one.
    pub(super) fn cause(&self) -> Option<Cause> {
        self.cause.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl AsFd for Stop {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_cause_counts() {
        let stop = Stop::new().unwrap();
        assert_eq!(stop.cause(), None);
        stop.request(Cause::Failure("broken".into()));
        stop.request(Cause::Kill);
        assert_eq!(stop.cause(), Some(Cause::Failure("broken".into())));
    }
}

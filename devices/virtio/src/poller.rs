//! What a worker sleeps on: kicks, the descriptors its device watches, and its owner's call.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use crate::Watch;

/// Why the worker woke up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wake {
    /// The owner has something to say.
    Call,
    /// The driver kicked this queue.
    Kick(u16),
    /// A watched descriptor is ready.
    Token(u16),
}

const CALL: u64 = 1 << 32;
const TOKENS: u64 = 1 << 16;

impl Wake {
    fn data(self) -> u64 {
        match self {
            Self::Kick(queue) => u64::from(queue),
            Self::Token(token) => TOKENS + u64::from(token),
            Self::Call => CALL,
        }
    }

    fn from_data(data: u64) -> Self {
        match (u16::try_from(data), u16::try_from(data.wrapping_sub(TOKENS))) {
            (Ok(queue), _) => Self::Kick(queue),
            (_, Ok(token)) => Self::Token(token),
            _ => Self::Call,
        }
    }
}

/// An epoll set whose members are known by name.
#[derive(Debug)]
pub(crate) struct Poller {
    epoll: Epoll,
    /// Descriptors the device watches now; an event of one that it no longer watches is stale.
    watched: BTreeMap<u16, RawFd>,
}

impl Poller {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { epoll: Epoll::new()?, watched: BTreeMap::new() })
    }

    pub(crate) fn add_wake(&self, fd: RawFd, wake: Wake) -> io::Result<()> {
        self.epoll.ctl(ControlOperation::Add, fd, EpollEvent::new(EventSet::IN, wake.data()))
    }

    pub(crate) fn remove_wake(&self, fd: RawFd) -> io::Result<()> {
        self.epoll.ctl(ControlOperation::Delete, fd, EpollEvent::default())
    }

    /// Waits for events (does not wait when `poll`) and returns them.
    pub(crate) fn wait(&self, poll: bool) -> io::Result<Vec<Wake>> {
        let mut events = [EpollEvent::default(); 32];
        let count = match self.epoll.wait(if poll { 0 } else { -1 }, &mut events) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            Err(error) => return Err(error),
        };
        Ok(events.iter().take(count).map(|event| Wake::from_data(event.data())).collect())
    }

    pub(crate) fn is_watched(&self, token: u16) -> bool {
        self.watched.contains_key(&token)
    }

    /// Forgets whatever a device left watched after its reset.
    pub(crate) fn forget_watched(&mut self) {
        for fd in std::mem::take(&mut self.watched).into_values() {
            // A device that closed its descriptor already took it out of the set.
            let _ = self.remove_wake(fd);
        }
    }
}

impl Watch for Poller {
    fn add(&mut self, fd: BorrowedFd<'_>, token: u16, events: EventSet) -> io::Result<()> {
        if self.is_watched(token) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let event = EpollEvent::new(events, Wake::Token(token).data());
        self.epoll.ctl(ControlOperation::Add, fd.as_raw_fd(), event)?;
        self.watched.insert(token, fd.as_raw_fd());
        Ok(())
    }

    fn modify(&mut self, fd: BorrowedFd<'_>, token: u16, events: EventSet) -> io::Result<()> {
        let event = EpollEvent::new(events, Wake::Token(token).data());
        self.epoll.ctl(ControlOperation::Modify, fd.as_raw_fd(), event)
    }

    fn remove(&mut self, fd: BorrowedFd<'_>, token: u16) -> io::Result<()> {
        self.watched.remove(&token);
        self.remove_wake(fd.as_raw_fd())
    }
}

//! Who runs the network stack: a thread of its own, or the thread of the guest's network card.
//!
//! A frame that changes threads waits for the other one to wake up, which takes longer than all the work on it. So the
//! card borrows the stack while its driver is loaded: frames, sockets and timers are then served by the card's worker.
//! Before and after that the stack's own thread serves what there is without a guest. The stack is moved, never shared,
//! and neither side ever waits for the other while it could do something else.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

use super::{Lending, Port};

/// What a turn of a stack came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Nothing to do until its descriptor is readable, or the port has something new.
    Idle,
    /// Another turn is due at once.
    Again,
    /// The stack has ended.
    Over,
}

/// A network stack as whoever runs it sees it.
pub trait Stack: Send {
    /// Readable when a turn is due.
    fn descriptor(&self) -> BorrowedFd<'_>;
    /// Does what there is to do, without waiting for anything. Nothing of `port` is kept.
    fn turn(&mut self, port: &mut Port) -> Turn;
}

enum State {
    /// No stack has come yet.
    Vacant,
    /// With its own thread.
    Home,
    /// With its own thread, which is asked to lend it.
    Wanted,
    /// On its way to the card.
    Offered(Box<dyn Stack>),
    /// With the card.
    Lent,
    /// On its way back.
    Returned(Box<dyn Stack>),
    /// There is none any more.
    Gone,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    /// Wakes up the stack's own thread.
    home_bell: OwnedFd,
    /// Wakes up the card.
    card_bell: OwnedFd,
}

/// The place where a stack is lent from.
#[derive(Clone)]
pub(super) struct Seat(Arc<Shared>);

/// A stack on loan; dropping it gives it back.
pub struct LentStack {
    /// None only while being dropped.
    stack: Option<Box<dyn Stack>>,
    seat: Seat,
}

impl Seat {
    pub(super) fn new() -> io::Result<Self> {
        let bell = || eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let (home_bell, card_bell) = (bell()?, bell()?);
        let state = Mutex::new(State::Vacant);
        Ok(Self(Arc::new(Shared { state, changed: Condvar::new(), home_bell, card_bell })))
    }

    /// A seat that nobody comes home to.
    #[cfg(any(test, feature = "test-kit"))]
    pub(super) fn offering(stack: Box<dyn Stack>) -> io::Result<Self> {
        let seat = Self::new()?;
        *seat.lock() = State::Offered(stack);
        Ok(seat)
    }

    pub(super) fn card_bell(&self) -> BorrowedFd<'_> {
        self.0.card_bell.as_fd()
    }

    pub(super) fn run(&self, mut stack: Box<dyn Stack>) -> io::Result<()> {
        *self.lock() = State::Home;
        ring(&self.0.card_bell);
        loop {
            match stack.turn(&mut Port::default()) {
                Turn::Over => return Ok(()),
                Turn::Again => {}
                Turn::Idle => self.wait(stack.descriptor())?,
            }
            silence(&self.0.home_bell);
            stack = self.lend(stack);
        }
    }

    /// Nobody is to wait for a stack any more.
    pub(super) fn leave(&self) {
        *self.lock() = State::Gone;
        ring(&self.0.card_bell);
    }

    pub(super) fn borrow(&self) -> Lending {
        let mut state = self.lock();
        // Under the lock: an offer that comes later rings again.
        silence(&self.0.card_bell);
        let (next, lending) = match std::mem::replace(&mut *state, State::Lent) {
            State::Offered(stack) | State::Returned(stack) => {
                (State::Lent, Lending::Stack(LentStack { stack: Some(stack), seat: self.clone() }))
            }
            State::Home => {
                ring(&self.0.home_bell);
                (State::Wanted, Lending::NotYet)
            }
            State::Gone => (State::Gone, Lending::Never),
            other @ (State::Vacant | State::Wanted | State::Lent) => (other, Lending::NotYet),
        };
        *state = next;
        lending
    }

    pub(super) fn withdraw(&self) {
        let mut state = self.lock();
        *state = match std::mem::replace(&mut *state, State::Gone) {
            State::Wanted => State::Home,
            State::Offered(stack) => State::Returned(stack),
            other => other,
        };
        self.0.changed.notify_all();
    }

    /// Gives the stack to the card that wants it, and waits until it is back.
    fn lend(&self, stack: Box<dyn Stack>) -> Box<dyn Stack> {
        let mut state = self.lock();
        if !matches!(*state, State::Wanted) {
            return stack;
        }
        *state = State::Offered(stack);
        ring(&self.0.card_bell);
        loop {
            match std::mem::replace(&mut *state, State::Home) {
                State::Returned(stack) => return stack,
                other => *state = other,
            }
            state = self.0.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn wait(&self, stack: BorrowedFd<'_>) -> io::Result<()> {
        let mut fds = [PollFd::from_borrowed_fd(stack, PollFlags::IN), PollFd::new(&self.0.home_bell, PollFlags::IN)];
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn ring(bell: &OwnedFd) {
    // Fails only when the counter is full, and then it is ringing.
    let _ = rustix::io::write(bell, &1u64.to_ne_bytes());
}

fn silence(bell: &OwnedFd) {
    // Fails only when it is silent.
    let _ = rustix::io::read(bell, &mut [0; 8]);
}

impl LentStack {
    /// Gives the stack its turn with the card's buffers. One that is over is to be given back.
    pub fn turn(&mut self, port: &mut Port) -> Turn {
        self.stack.as_mut().map_or(Turn::Over, |stack| stack.turn(port))
    }

    /// Readable when a turn is due.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.stack.as_ref().map_or(self.seat.card_bell(), |stack| stack.descriptor())
    }
}

impl Drop for LentStack {
    fn drop(&mut self) {
        if let Some(stack) = self.stack.take() {
            *self.seat.lock() = State::Returned(stack);
            self.seat.0.changed.notify_all();
        }
    }
}

impl fmt::Debug for Seat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seat").field("card_bell", &self.0.card_bell).finish_non_exhaustive()
    }
}

impl fmt::Debug for LentStack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LentStack").field("seat", &self.seat).finish_non_exhaustive()
    }
}

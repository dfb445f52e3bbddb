//! Who runs the network stack: a thread of its own, or the thread of the guest's network card.
//!
//! A frame that changes threads waits for the other one to wake up, which takes longer than all the work on it. So the
//! card borrows the stack while its driver is loaded: frames, sockets and timers are then served by the card's worker.
//! Before and after that the stack's own thread does it ([`StackSeat::run`]). The stack is moved, never shared.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

/// How long a card waits for the stack, which is in the middle of a turn at most. It does without after that.
const PATIENCE: Duration = Duration::from_secs(1);

/// What a turn of a stack came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Nothing to do until its descriptor is readable.
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
    /// Does what there is to do, without waiting for anything.
    fn turn(&mut self) -> Turn;
}

enum State {
    /// No stack ever sat down here: there is nothing to borrow.
    Empty,
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
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    /// Wakes up whoever runs the stack.
    bell: OwnedFd,
}

/// The place where a stack is lent from.
#[derive(Clone)]
pub struct StackSeat(Arc<Shared>);

/// A stack on loan; dropping it gives it back.
pub struct LentStack {
    /// None only while being dropped.
    stack: Option<Box<dyn Stack>>,
    seat: StackSeat,
}

impl StackSeat {
    pub(super) fn new() -> io::Result<Self> {
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self(Arc::new(Shared { state: Mutex::new(State::Empty), changed: Condvar::new(), bell })))
    }

    /// Runs `stack` on this thread until it is over, and lends it whenever a card asks.
    pub fn run(&self, mut stack: Box<dyn Stack>) -> io::Result<()> {
        *self.lock() = State::Home;
        let _leaving = Leaving(self);
        loop {
            match stack.turn() {
                Turn::Over => return Ok(()),
                Turn::Again => {}
                Turn::Idle => self.wait(stack.descriptor())?,
            }
            self.silence();
            stack = self.lend(stack);
        }
    }

    /// Borrows the stack, if there is one.
    pub(super) fn borrow(&self) -> Option<LentStack> {
        let mut state = self.lock();
        if !matches!(*state, State::Home) {
            return None;
        }
        *state = State::Wanted;
        self.ring();
        let waiting = |state: &mut State| matches!(state, State::Wanted);
        let (mut state, _) =
            self.0.changed.wait_timeout_while(state, PATIENCE, waiting).unwrap_or_else(PoisonError::into_inner);
        let (next, stack) = match std::mem::replace(&mut *state, State::Empty) {
            State::Offered(stack) => (State::Lent, Some(stack)),
            State::Wanted => (State::Home, None),
            other => (other, None),
        };
        *state = next;
        stack.map(|stack| LentStack { stack: Some(stack), seat: self.clone() })
    }

    /// Gives the stack to the card that wants it, and waits until it is back.
    fn lend(&self, stack: Box<dyn Stack>) -> Box<dyn Stack> {
        let mut state = self.lock();
        if !matches!(*state, State::Wanted) {
            return stack;
        }
        *state = State::Offered(stack);
        self.0.changed.notify_all();
        loop {
            match std::mem::replace(&mut *state, State::Home) {
                State::Returned(stack) => return stack,
                other => *state = other,
            }
            state = self.0.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn wait(&self, stack: BorrowedFd<'_>) -> io::Result<()> {
        let mut fds = [PollFd::from_borrowed_fd(stack, PollFlags::IN), PollFd::new(&self.0.bell, PollFlags::IN)];
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn ring(&self) {
        // Fails only when the counter is full, and then it is ringing.
        let _ = rustix::io::write(&self.0.bell, &1u64.to_ne_bytes());
    }

    fn silence(&self) {
        // Fails only when it is silent.
        let _ = rustix::io::read(&self.0.bell, &mut [0; 8]);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Nobody waits for a stack whose thread is gone.
struct Leaving<'a>(&'a StackSeat);

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        *self.0.lock() = State::Empty;
        self.0.0.changed.notify_all();
    }
}

impl LentStack {
    /// Gives the stack its turn. One that is over is to be given back.
    pub fn turn(&mut self) -> Turn {
        self.seat.silence();
        self.stack.as_mut().map_or(Turn::Over, |stack| stack.turn())
    }

    /// Readable when a turn is due.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.stack.as_ref().map_or(self.seat.0.bell.as_fd(), |stack| stack.descriptor())
    }

    /// Readable once [`LentStack::remind`] was called, until the next turn.
    pub fn reminder(&self) -> BorrowedFd<'_> {
        self.seat.0.bell.as_fd()
    }

    /// Leaves a note for this thread that another turn is due.
    pub fn remind(&self) {
        self.seat.ring();
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

impl fmt::Debug for StackSeat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StackSeat").field("bell", &self.0.bell).finish_non_exhaustive()
    }
}

impl fmt::Debug for LentStack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LentStack").field("seat", &self.seat).finish_non_exhaustive()
    }
}

//! A network stack that judges nothing, for the tests of network cards.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use rustix::event::{EventfdFlags, eventfd};

use super::PATIENCE;
use crate::frame::{DeviceEnd, FrameHeader, MAX_FRAME, Offloads, Port, Stack, StackEnd, Turn};

/// A frame with its header.
pub type Framed = (FrameHeader, Vec<u8>);

/// Keeps what the guest sends until it is asked for, and sends what it is given. Dropping it ends the stack.
#[derive(Debug)]
pub struct FakeStack {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    bell: OwnedFd,
}

#[derive(Debug, Default)]
struct State {
    received: VecDeque<Framed>,
    to_send: VecDeque<Framed>,
    offloads: Offloads,
    is_held: bool,
    is_over: bool,
}

impl FakeStack {
    /// Starts a stack at its end of a link, on a thread of its own.
    pub fn start(end: StackEnd) -> Self {
        let (stack, runner) = Self::new();
        std::thread::spawn(move || end.run(Box::new(runner)).expect("the stack can wait"));
        stack
    }

    /// A stack that is with whoever has the end of its link.
    pub fn at_hand() -> (DeviceEnd, Self) {
        let (stack, runner) = Self::new();
        (DeviceEnd::with_stack(Box::new(runner)).expect("two eventfds"), stack)
    }

    fn new() -> (Self, Runner) {
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).expect("an eventfd");
        let shared = Arc::new(Shared { state: Mutex::default(), changed: Condvar::new(), bell });
        (Self { shared: shared.clone() }, Runner { shared, buffer: vec![0; MAX_FRAME] })
    }

    /// Sends a frame to the guest, as soon as it takes one.
    pub fn send(&self, header: &FrameHeader, frame: &[u8]) {
        self.shared.lock().to_send.push_back((*header, frame.to_vec()));
        self.shared.ring();
    }

    /// The next frame from the guest; waits for it.
    pub fn receive(&self) -> Option<Framed> {
        self.wait_for(|state| state.received.pop_front())
    }

    /// The next frame from the guest, if it is there already.
    pub fn received(&self) -> Option<Framed> {
        self.shared.lock().received.pop_front()
    }

    /// Takes no more frames of the guest's from its next turn on, or takes them again.
    pub fn hold(&self, is_held: bool) {
        self.shared.lock().is_held = is_held;
        self.shared.ring();
    }

    /// Whether the card is seen to take `offloads`, in time.
    pub fn sees(&self, offloads: Offloads) -> bool {
        self.wait_for(|state| (state.offloads == offloads).then_some(())).is_some()
    }

    fn wait_for<T>(&self, mut look: impl FnMut(&mut State) -> Option<T>) -> Option<T> {
        let mut found = None;
        let waiting = |state: &mut State| {
            found = look(state);
            found.is_none()
        };
        let state = self.shared.lock();
        drop(self.shared.changed.wait_timeout_while(state, PATIENCE, waiting).expect("no test panicked here"));
        found
    }
}

impl Drop for FakeStack {
    fn drop(&mut self) {
        self.shared.lock().is_over = true;
        // Its thread ends when the stack is back there.
        self.shared.ring();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test panicked here")
    }

    fn ring(&self) {
        rustix::io::write(&self.bell, &1u64.to_ne_bytes()).expect("an eventfd takes a count");
    }
}

struct Runner {
    shared: Arc<Shared>,
    buffer: Vec<u8>,
}

impl Stack for Runner {
    fn descriptor(&self) -> BorrowedFd<'_> {
        self.shared.bell.as_fd()
    }

    fn turn(&mut self, port: &mut Port) -> Turn {
        // Silent unless somebody rang.
        let _ = rustix::io::read(&self.shared.bell, &mut [0; 8]);
        let mut state = self.shared.lock();
        state.offloads = port.offloads();
        while !state.is_held
            && let Some((header, len)) = port.recv(&mut self.buffer)
        {
            let frame = self.buffer.get(..len).expect("the buffer holds every frame").to_vec();
            state.received.push_back((header, frame));
        }
        while !port.is_blocked()
            && port.is_plugged()
            && let Some((header, frame)) = state.to_send.pop_front()
        {
            port.send(&header, &frame);
        }
        self.shared.changed.notify_all();
        if state.is_over { Turn::Over } else { Turn::Idle }
    }
}

//! The guest's card, run on a thread of its own as the real one is by its worker.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::time::Timespec;
use virtio::frame::{DeviceEnd, FrameHeader, Offloads, Turn};
use virtio::test_kit::{FakeCard, Framed};

use super::PATIENCE;

pub(crate) struct Card {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    card: Mutex<FakeCard>,
    /// Frames that the driver has taken out of the queue.
    received: Mutex<VecDeque<Framed>>,
    /// Rung by the guest: there is something for the stack.
    kick: OwnedFd,
    /// Rung by the stack: there may be something for the guest.
    interrupt: OwnedFd,
    /// The stack has ended.
    is_over: AtomicBool,
    is_removed: AtomicBool,
}

impl Card {
    pub(crate) fn plug(link: DeviceEnd, to_guest: Offloads) -> Self {
        let card = FakeCard::plug(link, to_guest);
        let stack = card.descriptor().try_clone_to_owned().unwrap();
        let bell = || eventfd(0, EventfdFlags::NONBLOCK).unwrap();
        let shared = Arc::new(Shared {
            card: Mutex::new(card),
            received: Mutex::default(),
            kick: bell(),
            interrupt: bell(),
            is_over: AtomicBool::new(false),
            is_removed: AtomicBool::new(false),
        });
        let thread = std::thread::spawn({
            let shared = shared.clone();
            move || shared.run(stack.as_fd())
        });
        Self { shared, thread: Some(thread) }
    }

    /// Whether the stack at the other end has ended.
    pub(crate) fn is_over(&self) -> bool {
        self.shared.is_over.load(Ordering::SeqCst)
    }

    /// Sends a frame; waits while the queue is full.
    pub(crate) fn send(&self, header: &FrameHeader, frame: &[u8]) {
        while !self.shared.lock().send(header, frame) {
            assert!(self.wait(PATIENCE), "the gateway takes no frames");
        }
        ring(&self.shared.kick);
    }

    /// The next frame for the guest.
    pub(crate) fn receive(&self) -> Option<Framed> {
        self.shared.received.lock().unwrap().pop_front()
    }

    /// Waits until there may be something to receive; false when nothing happened.
    pub(crate) fn wait(&self, timeout: Duration) -> bool {
        let timeout =
            Timespec { tv_sec: i64::try_from(timeout.as_secs()).unwrap(), tv_nsec: timeout.subsec_nanos().into() };
        poll(&mut [PollFd::new(&self.shared.interrupt, PollFlags::IN)], Some(&timeout)).unwrap();
        silence(&self.shared.interrupt)
    }
}

impl Drop for Card {
    fn drop(&mut self) {
        self.shared.is_removed.store(true, Ordering::SeqCst);
        ring(&self.shared.kick);
        self.thread.take().unwrap().join().unwrap();
    }
}

impl Shared {
    fn run(&self, stack: BorrowedFd<'_>) {
        while !self.is_removed.load(Ordering::SeqCst) {
            let mut fds = [PollFd::from_borrowed_fd(stack, PollFlags::IN), PollFd::new(&self.kick, PollFlags::IN)];
            poll(&mut fds, None).unwrap();
            silence(&self.kick);
            let mut card = self.lock();
            let turn = loop {
                let turn = card.turn();
                let mut received = self.received.lock().unwrap();
                received.extend(std::iter::from_fn(|| card.receive()));
                if turn == Turn::Over || turn == Turn::Idle && !card.is_blocked() {
                    break turn;
                }
            };
            drop(card);
            self.is_over.store(turn == Turn::Over, Ordering::SeqCst);
            ring(&self.interrupt);
            if turn == Turn::Over {
                return;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, FakeCard> {
        self.card.lock().unwrap()
    }
}

fn ring(bell: &OwnedFd) {
    rustix::io::write(bell, &1u64.to_ne_bytes()).unwrap();
}

fn silence(bell: &OwnedFd) -> bool {
    rustix::io::read(bell, &mut [0; 8]).is_ok()
}

//! Threads for requests that may take long, so that they hold up only themselves.
//!
//! The worker that owns the device serves what is quick itself: handing a request over costs more than most of them
//! take. What waits for a disk or for another machine goes here. Jobs are in lanes: one for the slow requests of local
//! shares, one for each share that lies on another machine, so that one that hangs stops nobody else. Threads are made
//! by the worker when they are first needed, and so are confined as it is. Their number is bounded, the jobs' by the
//! ring. What is served is served to its end, or as long as anybody waits for it; what only waits can be called off.
//! (Linux 6.12's virtio-fs driver sends no INTERRUPT for either; others may.)

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};
use virtio::Request;

use super::server::Server;

/// Threads of a lane.
const MAX_THREADS: usize = 4;
/// How long a stop waits for what the host has not finished; a network file system may never come back.
const PATIENCE: Duration = Duration::from_secs(2);

/// Requests that may wait for each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Lane {
    /// Slow requests of shares on this machine.
    Local,
    /// All requests of a share on another machine.
    Remote(u32),
    /// Requests about all shares at once.
    All,
}

/// A request that was served.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) queue: u16,
    pub(super) head: u16,
    /// Bytes for the guest; an error if serving it panicked.
    pub(super) written: Result<u32, io::Error>,
}

#[derive(Debug)]
struct Job {
    queue: u16,
    request: Request,
    /// By which it can be called off.
    number: Option<u64>,
}

#[derive(Debug, Default)]
struct State {
    waiting: BTreeMap<Lane, VecDeque<Job>>,
    /// Threads of each lane that have nothing to do.
    idle: BTreeMap<Lane, usize>,
    running: usize,
    /// As many of those have been waited for in vain.
    lost: usize,
    done: Vec<Done>,
    /// Counts resets: what was begun before one is not answered.
    era: u64,
    is_closing: bool,
}

#[derive(Debug)]
struct Shared {
    server: Arc<Server>,
    state: Mutex<State>,
    /// There is a job, or the end.
    work: Condvar,
    /// A job ended.
    rest: Condvar,
    bell: OwnedFd,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics half-way through a change; serving is outside the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A thread's life.
    fn run(&self, lane: Lane) {
        let mut state = self.state();
        loop {
            if state.is_closing {
                return;
            }
            let Some(job) = state.waiting.get_mut(&lane).and_then(VecDeque::pop_front) else {
                *state.idle.entry(lane).or_default() += 1;
                state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
                let idle = state.idle.entry(lane).or_default();
                *idle = idle.saturating_sub(1);
                continue;
            };
            state.running += 1;
            let era = state.era;
            drop(state);
            let written = catch_unwind(AssertUnwindSafe(|| self.server.serve(&job.request)));
            let written = written.map_err(|_| io::Error::other("The file server panicked"));
            let done = Done { queue: job.queue, head: job.request.head(), written };
            // The request lets go of guest RAM before anybody hears that it is done.
            drop(job);
            state = self.state();
            state.running -= 1;
            state.lost = state.lost.min(state.running);
            if state.era == era {
                state.done.push(done);
                // Cannot overflow: the count is far below 2^64.
                let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
            }
            self.rest.notify_all();
        }
    }
}

/// The threads and their jobs.
#[derive(Debug)]
pub(super) struct Pool {
    shared: Arc<Shared>,
    threads: BTreeMap<Lane, Vec<JoinHandle<()>>>,
}

impl Pool {
    pub(super) fn new(server: Arc<Server>) -> io::Result<Self> {
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let shared = Shared { server, state: Mutex::default(), work: Condvar::new(), rest: Condvar::new(), bell };
        Ok(Self { shared: Arc::new(shared), threads: BTreeMap::new() })
    }

    /// Rings when something is done.
    pub(super) fn bell(&self) -> BorrowedFd<'_> {
        self.shared.bell.as_fd()
    }

    /// Serves a request as soon as a thread of its lane is free.
    pub(super) fn push(&mut self, lane: Lane, number: Option<u64>, queue: u16, request: Request) -> io::Result<()> {
        let mut state = self.shared.state();
        let waiting = state.waiting.entry(lane).or_default();
        waiting.push_back(Job { queue, request, number });
        let is_short = waiting.len() > state.idle.get(&lane).copied().unwrap_or_default();
        drop(state);
        let threads = self.threads.entry(lane).or_default();
        if is_short && threads.len() < MAX_THREADS {
            let shared = self.shared.clone();
            threads.push(thread::Builder::new().name("fs".into()).spawn(move || shared.run(lane))?);
        }
        // Threads of all lanes wait together; those of others find nothing.
        self.shared.work.notify_all();
        Ok(())
    }

    /// Calls off a request that only waits; returns it and its queue.
    pub(super) fn call_off(&self, number: u64) -> Option<(u16, Request)> {
        self.shared.state().waiting.values_mut().find_map(|waiting| {
            let place = waiting.iter().position(|job| job.number == Some(number))?;
            waiting.remove(place).map(|job| (job.queue, job.request))
        })
    }

    /// What was served since the last time.
    pub(super) fn take_done(&self) -> Vec<Done> {
        // Non-blocking: fails only when the bell was already silenced.
        let _ = rustix::io::read(&self.shared.bell, &mut [0; 8]);
        std::mem::take(&mut self.shared.state().done)
    }

    /// Forgets all jobs; those that are being served are waited for, as long as there is hope.
    pub(super) fn clear(&self) {
        let mut state = self.shared.state();
        state.era += 1;
        state.waiting.clear();
        state.done.clear();
        self.await_rest(state);
    }

    fn await_rest(&self, mut state: MutexGuard<'_, State>) {
        let deadline = Instant::now() + PATIENCE;
        while state.running > state.lost {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                tracing::warn!(requests = state.running, "The host does not answer; file requests are left behind");
                // Nobody waits for them once more, so that resets and the end together take no longer.
                state.lost = state.running;
                return;
            }
            (state, _) = self.shared.rest.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.state().is_closing = true;
        self.shared.work.notify_all();
        self.clear();
        if self.shared.state().running == 0 {
            for thread in std::mem::take(&mut self.threads).into_values().flatten() {
                // Panics while serving are caught on the thread.
                let _ = thread.join();
            }
        }
    }
}

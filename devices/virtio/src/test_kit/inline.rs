//! A device served on the calling thread: for fuzzing and for measuring, where another thread would only be in the way.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use super::{DriverQueue, PATIENCE, Used};
use crate::{Interrupt, LocalRings, Ram, VirtioDevice, Watch, serve_event, serve_pending, serve_queue};

/// A started device.
pub struct Inline {
    device: Box<dyn VirtioDevice>,
    rings: LocalRings,
    watched: Watched,
}

impl std::fmt::Debug for Inline {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Inline").field("rings", &self.rings).finish_non_exhaustive()
    }
}

impl Inline {
    /// Starts a device on these queues, with no optional features.
    ///
    /// # Panics
    /// When the device does not start.
    pub fn start(mut device: Box<dyn VirtioDevice>, ram: &Ram, queues: &[DriverQueue]) -> Self {
        let sides = queues.iter().map(|queue| queue.device_side(false)).collect();
        let rings = LocalRings::new(ram.clone(), sides, Arc::new(Silent));
        let mut watched = Watched(Epoll::new().expect("an epoll"));
        device.start(0, ram, &mut watched).expect("the device starts");
        Self { device, rings, watched }
    }

    /// Kicks `queue` and serves until the next request is returned; what the device does elsewhere is waited for.
    ///
    /// # Panics
    /// When the device finds a fault, or returns nothing.
    pub fn answer(&mut self, queue: u16, driver: &mut DriverQueue) -> Used {
        let Self { device, rings, watched } = self;
        let device = device.as_mut();
        serve_queue(device, rings, queue, watched).expect("no fault");
        loop {
            if let Some(used) = driver.used() {
                return used;
            }
            if rings.pending() {
                serve_pending(device, rings, watched).expect("no fault");
            } else {
                let token = watched.wait().expect("the device returns the request");
                serve_event(device, rings, token, watched).expect("no fault");
            }
        }
    }
}

/// Nobody waits for an interrupt.
#[derive(Debug)]
struct Silent;

impl Interrupt for Silent {
    fn used(&self, _queue: u16) {}
    fn config(&self) {}
}

/// The descriptors the device waits on.
struct Watched(Epoll);

impl Watched {
    /// The token of one that is ready; nothing when none was in time.
    fn wait(&self) -> Option<u16> {
        let mut events = [EpollEvent::default()];
        let timeout = i32::try_from(PATIENCE.as_millis()).unwrap_or(i32::MAX);
        loop {
            match self.0.wait(timeout, &mut events) {
                Ok(count) => {
                    return events.first().filter(|_| count > 0).and_then(|event| event.data().try_into().ok());
                }
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::Interrupted),
            }
        }
    }
}

impl Watch for Watched {
    fn add(&mut self, fd: BorrowedFd<'_>, token: u16, events: EventSet) -> io::Result<()> {
        self.0.ctl(ControlOperation::Add, fd.as_raw_fd(), EpollEvent::new(events, u64::from(token)))
    }

    fn modify(&mut self, fd: BorrowedFd<'_>, token: u16, events: EventSet) -> io::Result<()> {
        self.0.ctl(ControlOperation::Modify, fd.as_raw_fd(), EpollEvent::new(events, u64::from(token)))
    }

    fn remove(&mut self, fd: BorrowedFd<'_>, _token: u16) -> io::Result<()> {
        self.0.ctl(ControlOperation::Delete, fd.as_raw_fd(), EpollEvent::default())
    }
}

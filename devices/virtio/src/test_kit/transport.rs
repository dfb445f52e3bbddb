//! A transport as the contract suite drives it, and the device under test.

use std::any::Any;
use std::os::fd::{AsRawFd, RawFd};
use std::time::{Duration, Instant};

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use super::{Buffer, DriverQueue, Used};
use crate::{Ram, VirtioDevice};

/// How long a test waits for something that must happen; long, because it only costs time when the test fails.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A device to hold to the contract.
pub struct Subject {
    /// The device itself.
    pub device: Box<dyn VirtioDevice>,
    /// Queues on which the device returns every request without waiting for anything from outside (not those that hold
    /// receive buffers).
    pub answering: Vec<u16>,
    /// Host-side handles that must outlive the device.
    pub keep: Box<dyn Any>,
}

impl std::fmt::Debug for Subject {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Subject").field("answering", &self.answering).finish_non_exhaustive()
    }
}

impl Subject {
    /// A device whose queues in `answering` return every request on their own.
    pub fn new(device: impl VirtioDevice + 'static, answering: &[u16]) -> Self {
        Self { device: Box::new(device), answering: answering.to_vec(), keep: Box::new(()) }
    }

    /// Keeps the host's end of the device alive as long as the test runs.
    pub fn keeping(self, keep: impl Any) -> Self {
        Self { keep: Box::new(keep), ..self }
    }
}

/// What a driver can do to a device, over any transport. Dropping it stops the device.
pub trait Transport: Sized {
    /// Gets the device ready to be found by a driver.
    fn serve(device: Box<dyn VirtioDevice>, ram: &Ram) -> Self;
    /// Sets DRIVER_OK with these features (device and ring bits) and these queues.
    fn start(&mut self, features: u64, queues: &[DriverQueue]);
    /// Notifies the device of requests in `queue`.
    fn kick(&self, queue: u16);
    /// Resets the device and waits until that is done.
    fn reset(&mut self);
    /// Reads configuration space.
    fn config(&mut self, offset: u32, length: u32) -> Vec<u8>;
    /// Waits for an interrupt of `queue`; false when none came in time.
    fn interrupted(&self, queue: u16, patience: Duration) -> bool;
    /// Waits for the device to stop on a fault; false when it did not in time.
    fn faulted(&self, patience: Duration) -> bool;
    /// Faults seen so far, in words.
    fn faults(&self) -> Vec<String>;
}

/// Requests and answers over a transport.
pub trait Exchange: Transport {
    /// Kicks `queue` and waits for the next returned request.
    ///
    /// # Panics
    /// When nothing comes back in time.
    fn answer(&self, queue: u16, driver: &mut DriverQueue) -> Used {
        self.kick(queue);
        self.next_used(queue, driver)
    }

    /// Waits for the next returned request.
    ///
    /// # Panics
    /// When nothing comes back in time.
    fn next_used(&self, queue: u16, driver: &mut DriverQueue) -> Used {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(used) = driver.used() {
                return used;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "queue {queue} returned nothing; faults: {:?}", self.faults());
            self.interrupted(queue, left);
        }
    }

    /// Sends a chain and waits for it to come back.
    fn exchange(&self, queue: u16, driver: &mut DriverQueue, buffers: &[Buffer]) -> Used {
        driver.send(buffers);
        self.answer(queue, driver)
    }
}

impl<T: Transport> Exchange for T {}

/// Waits until `fd` is readable; false when it was not in time.
pub fn ready_within(fd: &impl AsRawFd, patience: Duration) -> bool {
    let fd: RawFd = fd.as_raw_fd();
    let epoll = Epoll::new().expect("an epoll");
    epoll.ctl(ControlOperation::Add, fd, EpollEvent::new(EventSet::IN, 0)).expect("a pollable descriptor");
    let deadline = Instant::now() + patience;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = i32::try_from(left.as_millis()).unwrap_or(i32::MAX);
        match epoll.wait(timeout, &mut [EpollEvent::default()]) {
            Ok(0) if left.is_zero() => return false,
            Ok(0) => {}
            Ok(_) => return true,
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::Interrupted),
        }
    }
}

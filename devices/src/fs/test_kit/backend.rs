//! Who serves the requests.

use virtio::Ram;
use virtio::test_kit::{DriverQueue, Exchange, Inline, Local, Used};

/// The queue of ordinary requests; the one before it is for urgent ones.
pub const REQUESTS: u16 = 1;
/// Descriptors in a queue: 256 pages of payload and their headers need as many.
const QUEUE_SIZE: u16 = 1024;

/// Something that serves the request queue of a virtio-fs device.
pub trait Backend {
    /// Serves what the driver has made available, until the next request is returned.
    fn answer(&mut self, driver: &mut DriverQueue) -> Used;
}

/// A device on a thread of its own.
impl Backend for Local {
    fn answer(&mut self, driver: &mut DriverQueue) -> Used {
        Exchange::answer(self, REQUESTS, driver)
    }
}

/// A device on the calling thread.
impl Backend for Inline {
    fn answer(&mut self, driver: &mut DriverQueue) -> Used {
        Self::answer(self, REQUESTS, driver)
    }
}

impl<B: Backend + ?Sized> Backend for Box<B> {
    fn answer(&mut self, driver: &mut DriverQueue) -> Used {
        self.as_mut().answer(driver)
    }
}

/// The driver's side of both queues of a device, empty.
pub fn queues(ram: &Ram) -> [DriverQueue; 2] {
    [0, REQUESTS].map(|index| DriverQueue::new(ram, index, QUEUE_SIZE))
}

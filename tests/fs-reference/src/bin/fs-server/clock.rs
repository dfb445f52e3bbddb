//! Time spent in a server.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use devices::fs::test_kit::Backend;
use virtio::test_kit::{DriverQueue, Used};

/// Runs while a server serves.
#[derive(Debug, Clone, Default)]
pub struct Clock(Rc<Cell<Duration>>);

impl Clock {
    /// Time spent so far.
    pub fn spent(&self) -> Duration {
        self.0.get()
    }

    /// The same server, on this clock.
    pub fn around(&self, server: Box<dyn Backend>) -> Box<dyn Backend> {
        Box::new(Timed { server, clock: self.clone() })
    }
}

struct Timed {
    server: Box<dyn Backend>,
    clock: Clock,
}

impl Backend for Timed {
    fn answer(&mut self, driver: &mut DriverQueue) -> Used {
        let begun = Instant::now();
        let used = self.server.answer(driver);
        self.clock.0.set(self.clock.0.get() + begun.elapsed());
        used
    }
}

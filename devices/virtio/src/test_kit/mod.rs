//! A driver in a box: guest RAM, the driver's side of a virtqueue, chains no honest driver would send, and the contract
//! every device must keep.
//!
//! For the tests of devices and transports (feature `test-kit`); nothing here is part of a running VM, and everything
//! panics when a test's expectation does not hold.

mod card;
mod driver;
mod echo;
mod hostile;
mod inline;
mod local;
mod ram;
mod recorder;
mod script;
mod stack;
pub mod suite;
mod transport;

pub use card::FakeCard;
pub use driver::{Buffer, Descriptor, DriverQueue, Used};
pub use echo::{Button, Echo};
pub use hostile::{Hostile, hostile_chains};
pub use inline::Inline;
pub use local::Local;
pub use ram::{DATA, HIGH_END, HIGH_START, HOLE, LOW_SEAM, ram};
pub use recorder::{FaultRecorder, InterruptRecorder};
pub use script::play;
pub use stack::{FakeStack, Framed};
pub use transport::{Exchange, PATIENCE, Subject, Transport, ready_within};

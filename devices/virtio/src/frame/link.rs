//! The pair of ends.

use std::io;
use std::os::fd::BorrowedFd;

use super::seat::Seat;
use super::{LentStack, Stack};

/// A connected pair of ends.
#[derive(Debug)]
pub struct FrameLink {
    /// For the guest's network card.
    pub device: DeviceEnd,
    /// For the network stack.
    pub stack: StackEnd,
}

/// The end of the guest's network card.
#[derive(Debug)]
pub struct DeviceEnd(Seat);

/// The end of the network stack.
#[derive(Debug)]
pub struct StackEnd(Seat);

/// What came of asking for the stack.
#[derive(Debug)]
pub enum Lending {
    /// Here it is.
    Stack(LentStack),
    /// Ask again when [`DeviceEnd::bell`] rings.
    NotYet,
    /// It has ended.
    Never,
}

impl FrameLink {
    /// Makes a pair.
    pub fn new() -> io::Result<Self> {
        let seat = Seat::new()?;
        Ok(Self { device: DeviceEnd(seat.clone()), stack: StackEnd(seat) })
    }
}

impl DeviceEnd {
    /// The end of a link whose stack has no thread of its own and is there at once.
    #[cfg(any(test, feature = "test-kit"))]
    pub fn with_stack(stack: Box<dyn Stack>) -> io::Result<Self> {
        Ok(Self(Seat::offering(stack)?))
    }

    /// Asks for the stack, to run it on this thread.
    pub fn borrow_stack(&self) -> Lending {
        self.0.borrow()
    }

    /// Does without the stack that it was asked for.
    pub fn withdraw(&self) {
        self.0.withdraw();
    }

    /// Readable when [`DeviceEnd::borrow_stack`] has news, and until it is called.
    pub fn bell(&self) -> BorrowedFd<'_> {
        self.0.card_bell()
    }
}

impl Drop for DeviceEnd {
    fn drop(&mut self) {
        self.0.withdraw();
    }
}

impl StackEnd {
    /// Runs `stack` on this thread until it is over, and lends it whenever a card asks.
    pub fn run(&self, stack: Box<dyn Stack>) -> io::Result<()> {
        self.0.run(stack)
    }
}

impl Drop for StackEnd {
    fn drop(&mut self) {
        self.0.leave();
    }
}

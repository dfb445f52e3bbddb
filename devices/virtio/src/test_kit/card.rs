//! A network card with a driver and no guest, for the tests of network stacks.

use std::os::fd::BorrowedFd;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use vm_memory::{GuestAddress, GuestMemoryMmap};

use super::stack::Framed;
use super::{Buffer, DATA, DriverQueue, InterruptRecorder};
use crate::frame::{DeviceEnd, FrameHeader, HEADER_LEN, Lending, LentStack, MAX_FRAME, Offloads, Port, Turn};
use crate::{LocalRings, Ram};

const RX: u16 = 0;
const TX: u16 = 1;
const QUEUE_SIZE: u16 = 256;
/// Each descriptor has a buffer of its own, which holds any frame.
const SLOT: u64 = 128 << 10;
const RX_DATA: u64 = DATA;
const TX_DATA: u64 = RX_DATA + SLOT * QUEUE_SIZE as u64;
const END: u64 = TX_DATA + SLOT * QUEUE_SIZE as u64;

/// A card whose driver is loaded; it does nothing but in [`FakeCard::turn`].
#[derive(Debug)]
pub struct FakeCard {
    /// None once it is over.
    stack: Option<LentStack>,
    link: DeviceEnd,
    port: Port,
    rings: LocalRings,
    receive: DriverQueue,
    transmit: DriverQueue,
}

impl FakeCard {
    /// Borrows the stack at the other end; waits until it is there.
    ///
    /// # Panics
    /// When there never will be one.
    pub fn plug(link: DeviceEnd, to_guest: Offloads) -> Self {
        let stack = loop {
            match link.borrow_stack() {
                Lending::Stack(stack) => break stack,
                Lending::NotYet => {
                    let bell = PollFd::from_borrowed_fd(link.bell(), PollFlags::IN);
                    // A fuzzer has an alarm of its own, which interrupts this.
                    let rung = poll(&mut [bell], None);
                    assert!(matches!(rung, Ok(_) | Err(Errno::INTR)), "an eventfd: {rung:?}");
                }
                Lending::Never => panic!("the stack has ended"),
            }
        };
        let size = usize::try_from(END).expect("64-bit host");
        let ram = Ram::new(GuestMemoryMmap::from_ranges(&[(GuestAddress(0), size)]).expect("guest RAM maps"));
        let [mut receive, transmit] = [RX, TX].map(|index| DriverQueue::new(&ram, index, QUEUE_SIZE));
        for _ in 0..QUEUE_SIZE {
            offer(&mut receive);
        }
        let device_side = Vec::from([&receive, &transmit].map(|queue| queue.device_side(false)));
        let rings = LocalRings::new(ram, device_side, std::sync::Arc::new(InterruptRecorder::new(2)));
        let mut port = Port::default();
        // What the card may send unfinished is the test's business.
        port.plug(to_guest, Offloads { checksum: true, tcp4_segments: true, tcp6_segments: true }, true);
        Self { stack: Some(stack), link, port, rings, receive, transmit }
    }

    /// Readable when a turn is due without anything being sent or received.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.stack.as_ref().map_or(self.link.bell(), LentStack::descriptor)
    }

    /// Puts a frame into the transmit queue; false when that is full.
    pub fn send(&mut self, header: &FrameHeader, frame: &[u8]) -> bool {
        while self.transmit.used().is_some() {}
        if self.transmit.free_descriptors() == 0 {
            return false;
        }
        let bytes = [&header.to_bytes(0)[..], frame].concat();
        let address = TX_DATA + SLOT * u64::from(self.transmit.next_free());
        self.transmit.write(address, &bytes);
        let length = u32::try_from(bytes.len()).expect("a short frame");
        self.transmit.send(&[Buffer::readable(address, length)]);
        true
    }

    /// Gives the stack a turn; one that is over goes back.
    ///
    /// # Panics
    /// When the rings are broken, which the driver here does not do.
    pub fn turn(&mut self) -> Turn {
        let Some(stack) = &mut self.stack else { return Turn::Over };
        self.rings.begin();
        self.port.supply(RX, TX, &mut self.rings).expect("sound rings");
        let turn = stack.turn(&mut self.port);
        self.port.settle(RX, TX, &mut self.rings).expect("sound rings");
        if turn == Turn::Over {
            self.stack = None;
        }
        turn
    }

    /// Whether frames for the guest wait until some were received.
    pub fn is_blocked(&self) -> bool {
        self.port.is_blocked()
    }

    /// The next frame for the guest, if there is one.
    ///
    /// # Panics
    /// When its header is none that a driver would take.
    pub fn receive(&mut self) -> Option<Framed> {
        let used = self.receive.used()?;
        let bytes = self.receive.read(slot(used.head), usize::try_from(used.length).expect("64-bit host"));
        offer(&mut self.receive);
        let (header, frame) = bytes.split_first_chunk::<HEADER_LEN>().expect("a header");
        assert_eq!(header.last_chunk::<2>(), Some(&[1, 0]), "one buffer holds any frame");
        let header = FrameHeader::parse(header, frame.len()).expect("a header that fits its frame");
        Some((header, frame.to_vec()))
    }
}

fn slot(head: u16) -> u64 {
    RX_DATA + SLOT * u64::from(head)
}

/// Gives the card a buffer for one frame.
fn offer(queue: &mut DriverQueue) {
    let length = u32::try_from(HEADER_LEN + MAX_FRAME).expect("a short frame");
    let address = slot(queue.next_free());
    queue.send(&[Buffer::writable(address, length)]);
}

use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

use super::*;
use crate::LocalRings;
use crate::test_kit::{Buffer, DATA, DriverQueue, InterruptRecorder, ram};

const FRAME: [u8; 60] = [0x5a; 60];

fn large_segment() -> FrameHeader {
    FrameHeader {
        checksum: Some(PartialChecksum { start: 34, offset: 16 }),
        segmentation: Some(Segmentation { kind: SegmentKind::Tcp4, size: 1460 }),
        header_len: 54,
    }
}

#[test]
fn a_header_survives_the_wire() {
    for header in [FrameHeader::default(), large_segment()] {
        assert_eq!(FrameHeader::parse(&header.to_bytes(1), FRAME.len()), Ok(header));
    }
}

#[test]
fn lying_headers_are_refused() {
    let good = large_segment();
    let with = |change: &dyn Fn(&mut [u8; HEADER_LEN])| {
        let mut bytes = good.to_bytes(1);
        change(&mut bytes);
        FrameHeader::parse(&bytes, FRAME.len())
    };
    assert!(matches!(with(&|b| b[4..6].fill(0)), Err(BadHeader::SegmentSize(0))));
    assert!(matches!(with(&|b| b[6] = 255), Err(BadHeader::Checksum { .. })));
    assert!(matches!(with(&|b| b[6..10].fill(255)), Err(BadHeader::Checksum { .. })));
    assert!(matches!(with(&|b| b[2] = 61), Err(BadHeader::HeaderLen { .. })));
    assert!(matches!(with(&|b| b[1] = 3), Err(BadHeader::SegmentKind(3))));
    assert!(matches!(with(&|b| b[0] = 0), Err(BadHeader::SegmentChecksum)));
}

/// A stack that counts its turns and ends when told.
struct Counter {
    bell: OwnedFd,
    turns: Arc<AtomicUsize>,
    is_over: Arc<AtomicBool>,
}

impl Stack for Counter {
    fn descriptor(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    fn turn(&mut self, port: &mut Port) -> Turn {
        port.send(&FrameHeader::default(), &FRAME);
        self.turns.fetch_add(1, Ordering::SeqCst);
        let _ = rustix::io::read(&self.bell, &mut [0; 8]);
        if self.is_over.load(Ordering::SeqCst) { Turn::Over } else { Turn::Idle }
    }
}

struct Seated {
    device: DeviceEnd,
    bell: OwnedFd,
    turns: Arc<AtomicUsize>,
    is_over: Arc<AtomicBool>,
    thread: JoinHandle<io::Result<()>>,
}

fn seated() -> Seated {
    let FrameLink { device, stack: end } = FrameLink::new().unwrap();
    let bell = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
    let (turns, is_over) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let stack = Counter { bell: bell.try_clone().unwrap(), turns: turns.clone(), is_over: is_over.clone() };
    let thread = std::thread::spawn(move || end.run(Box::new(stack)));
    Seated { device, bell, turns, is_over, thread }
}

impl Seated {
    fn borrow(&self) -> Option<LentStack> {
        borrow(&self.device)
    }

    fn turns(&self) -> usize {
        self.turns.load(Ordering::SeqCst)
    }

    fn ring(&self) {
        rustix::io::write(&self.bell, &1u64.to_ne_bytes()).unwrap();
    }

    fn end(self) {
        self.is_over.store(true, Ordering::SeqCst);
        self.ring();
        self.thread.join().unwrap().unwrap();
    }
}

/// Waits for the stack as a card does.
fn borrow(device: &DeviceEnd) -> Option<LentStack> {
    loop {
        match device.borrow_stack() {
            Lending::Stack(stack) => return Some(stack),
            Lending::NotYet => {
                poll(&mut [PollFd::from_borrowed_fd(device.bell(), PollFlags::IN)], None).unwrap();
            }
            Lending::Never => return None,
        }
    }
}

#[test]
fn lent_stack_runs_for_the_card_alone_and_goes_back() {
    let seated = seated();
    let mut lent = seated.borrow().unwrap();
    let before = seated.turns();
    seated.ring();
    assert_eq!(lent.turn(&mut Port::default()), Turn::Idle);
    assert_eq!(seated.turns(), before + 1);
    assert!(matches!(seated.device.borrow_stack(), Lending::NotYet));

    drop(lent);
    seated.end();
}

#[test]
fn a_stack_is_lent_again_and_again() {
    let seated = seated();
    for _ in 0..100 {
        drop(seated.borrow().unwrap());
    }
    seated.end();
}

#[test]
fn a_card_that_does_without_leaves_the_stack_at_home() {
    let seated = seated();
    for _ in 0..100 {
        if let Lending::Stack(stack) = seated.device.borrow_stack() {
            drop(stack);
        }
        seated.device.withdraw();
    }
    seated.end();
}

#[test]
fn a_card_that_goes_away_leaves_the_stack_at_home() {
    let Seated { device, bell, is_over, thread, .. } = seated();
    while matches!(device.borrow_stack(), Lending::NotYet) {}
    drop(device);
    is_over.store(true, Ordering::SeqCst);
    rustix::io::write(&bell, &1u64.to_ne_bytes()).unwrap();
    thread.join().unwrap().unwrap();
}

#[test]
fn stack_that_ends_while_lent_ends_its_thread_once_it_is_back() {
    let seated = seated();
    let mut lent = seated.borrow().unwrap();
    seated.is_over.store(true, Ordering::SeqCst);
    assert_eq!(lent.turn(&mut Port::default()), Turn::Over);
    drop(lent);
    seated.thread.join().unwrap().unwrap();
    assert!(borrow(&seated.device).is_none());
}

#[test]
fn a_stack_that_comes_late_is_told_of() {
    let FrameLink { device, stack: end } = FrameLink::new().unwrap();
    assert!(matches!(device.borrow_stack(), Lending::NotYet));
    drop(end);
    assert!(borrow(&device).is_none());
}

#[test]
fn a_port_without_a_driver_loses_frames_and_never_blocks() {
    let mut port = Port::default();
    port.send(&FrameHeader::default(), &FRAME);
    assert!(!port.is_blocked());
    assert_eq!(port.recv(&mut [0; MAX_FRAME]), None);
}

/// A port on the rings of a driver that has posted buffers of these lengths.
struct Plugged {
    port: Port,
    rings: LocalRings,
    driver: DriverQueue,
}

const RX: u16 = 0;
const TX: u16 = 1;
const HEAD: [u8; 14] = [0x11; 14];

fn plugged(mergeable: bool, lengths: &[u32]) -> Plugged {
    let ram = ram();
    let [driver, transmit] = [RX, TX].map(|index| DriverQueue::new(&ram, index, 64));
    let device_side = Vec::from([&driver, &transmit].map(|queue| queue.device_side(false)));
    let rings = LocalRings::new(ram, device_side, Arc::new(InterruptRecorder::new(2)));
    let mut port = Port::default();
    port.plug(Offloads::default(), Offloads::default(), mergeable);
    let mut plugged = Plugged { port, rings, driver };
    plugged.post(DATA, lengths);
    plugged
}

impl Plugged {
    /// Posts buffers one behind the other from `address` on.
    fn post(&mut self, mut address: u64, lengths: &[u32]) {
        for length in lengths {
            self.driver.send(&[Buffer::writable(address, *length)]);
            address += u64::from(*length);
        }
        self.port.supply(RX, TX, &mut self.rings).unwrap();
    }

    /// Sends `payload` in place, behind a head that says how long it is.
    fn fill(&mut self, most: usize, payload: &[u8]) -> Result<usize, Unsent> {
        let mut head = HEAD;
        let sent = self.port.send_filled(
            &mut head,
            most,
            |writer| {
                let room = writer.available_bytes().min(payload.len());
                writer.write_all(&payload[..room])
            },
            |head, count| {
                head[12..14].copy_from_slice(&u16::try_from(count).unwrap().to_be_bytes());
                FrameHeader::default()
            },
        );
        self.port.settle(RX, TX, &mut self.rings).unwrap();
        sent
    }

    /// Lengths of the buffers that came back.
    fn used(&mut self) -> Vec<u32> {
        std::iter::from_fn(|| self.driver.used()).map(|used| used.length).collect()
    }
}

#[test]
fn a_frame_filled_in_place_spreads_over_buffers_and_leaves_the_rest() {
    let mut plugged = plugged(true, &[4000, 4000, 4000]);
    let payload: Vec<u8> = (0..5000u32).map(|index| u8::try_from(index % 251).unwrap()).collect();

    assert_eq!(plugged.fill(10_000, &payload).unwrap(), 5000);

    assert_eq!(plugged.used(), [4000, 1026]);
    let bytes = plugged.driver.read(DATA, HEADER_LEN + HEAD.len() + 5000);
    assert_eq!(bytes[..HEADER_LEN], FrameHeader::default().to_bytes(2));
    assert_eq!(bytes[HEADER_LEN..HEADER_LEN + 14], [&[0x11; 12][..], &5000u16.to_be_bytes()].concat());
    assert!(bytes[HEADER_LEN + 14..] == payload);
    // The third buffer serves the next one.
    assert_eq!(plugged.fill(100, &[7; 100]).unwrap(), 100);
    assert_eq!(plugged.used(), [126]);
}

#[test]
fn less_is_asked_for_than_there_is_when_buffers_are_few() {
    let mut plugged = plugged(true, &[6000]);
    assert_eq!(plugged.fill(60_000, &[7; 60_000]).unwrap(), 6000 - HEADER_LEN - HEAD.len());
    assert_eq!(plugged.used(), [6000]);
}

#[test]
fn nothing_is_sent_when_there_is_nothing_to_fill_in() {
    let mut plugged = plugged(true, &[6000]);
    assert_eq!(plugged.fill(1000, &[]).unwrap(), 0);
    assert!(plugged.used().is_empty());
    assert!(!plugged.port.is_blocked());
}

#[test]
fn a_port_without_room_is_blocked_until_the_guest_posts_enough() {
    let mut plugged = plugged(true, &[1000]);
    assert!(matches!(plugged.fill(60_000, &[7; 60_000]), Err(Unsent::Blocked)));
    plugged.post(DATA + 1000, &[1000]);
    assert!(plugged.port.is_blocked());
    plugged.post(DATA + 2000, &[4000]);
    assert!(!plugged.port.is_blocked());
    assert_eq!(plugged.fill(60_000, &[7; 60_000]).unwrap(), 6000 - HEADER_LEN - HEAD.len());
    assert_eq!(plugged.used(), [1000, 1000, 4000]);
}

#[test]
fn buffers_too_small_for_anything_block_nobody() {
    let mut plugged = plugged(false, &[100]);
    assert!(matches!(plugged.fill(60_000, &[7; 60_000]), Err(Unsent::Never)));
    assert!(!plugged.port.is_blocked());
}

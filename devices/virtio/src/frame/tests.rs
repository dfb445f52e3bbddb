use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

use super::*;

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

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;

use rustix::event::{EventfdFlags, eventfd};

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
fn a_frame_arrives_with_its_header() {
    let link = FrameLink::new().unwrap();
    link.stack.send(&large_segment(), &FRAME).unwrap();
    let mut buffer = vec![0; MAX_FRAME];

    let (header, len) = link.device.recv(&mut buffer).unwrap();

    assert_eq!(header, large_segment());
    assert_eq!(&buffer[..len], &FRAME);
}

#[test]
fn the_longest_frame_fits_both_ways() {
    let link = FrameLink::new().unwrap();
    let frame = vec![7; MAX_FRAME];
    let mut buffer = vec![0; MAX_FRAME];

    link.device.send(&FrameHeader::default(), &frame).unwrap();
    assert_eq!(link.stack.recv(&mut buffer).unwrap().1, MAX_FRAME);
    link.stack.send(&FrameHeader::default(), &frame).unwrap();
    assert_eq!(link.device.recv(&mut buffer).unwrap().1, MAX_FRAME);
}

#[test]
fn a_datagram_descriptor_carries_bare_frames() {
    let link = FrameLink::new().unwrap();
    let qemu = link.device.into_datagram_fd();
    assert!(link.stack.is_plain());

    rustix::net::send(&qemu, &FRAME, rustix::net::SendFlags::empty()).unwrap();
    let mut buffer = vec![0; MAX_FRAME];
    let (header, len) = link.stack.recv(&mut buffer).unwrap();
    assert_eq!((header, &buffer[..len]), (FrameHeader::default(), &FRAME[..]));

    link.stack.send(&FrameHeader::default(), &FRAME).unwrap();
    let (len, _) = rustix::net::recv(&qemu, &mut buffer[..], rustix::net::RecvFlags::empty()).unwrap();
    assert_eq!(&buffer[..len], &FRAME);
}

#[test]
fn a_full_link_says_would_block_and_loses_nothing() {
    let link = FrameLink::new().unwrap();
    let frame = vec![1; 9000];
    let mut sent = 0;
    let refusal = loop {
        match link.device.send(&FrameHeader::default(), &frame) {
            Ok(()) => sent += 1,
            Err(refusal) => break refusal,
        }
    };
    assert_eq!(refusal.kind(), io::ErrorKind::WouldBlock);

    let mut buffer = vec![0; MAX_FRAME];
    let received = std::iter::from_fn(|| link.stack.recv(&mut buffer).ok()).count();
    assert_eq!(received, sent);
}

#[test]
fn a_closed_peer_is_end_of_file() {
    let link = FrameLink::new().unwrap();
    drop(link.stack);
    let mut buffer = vec![0; MAX_FRAME];
    assert_eq!(link.device.recv(&mut buffer).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    assert_eq!(link.device.send(&FrameHeader::default(), &FRAME).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
}

#[test]
fn the_stack_sees_what_the_driver_takes() {
    let link = FrameLink::new().unwrap();
    assert_eq!(link.stack.offloads(), Offloads::default());
    let all = Offloads { checksum: true, tcp4_segments: true, tcp6_segments: true };
    link.device.set_offloads(all);
    assert_eq!(link.stack.offloads(), all);
    let _fd = link.device.into_datagram_fd();
    assert_eq!(link.stack.offloads(), Offloads::default());
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

    fn turn(&mut self) -> Turn {
        self.turns.fetch_add(1, Ordering::SeqCst);
        let _ = rustix::io::read(&self.bell, &mut [0; 8]);
        if self.is_over.load(Ordering::SeqCst) { Turn::Over } else { Turn::Idle }
    }
}

struct Seated {
    link: FrameLink,
    bell: OwnedFd,
    turns: Arc<AtomicUsize>,
    is_over: Arc<AtomicBool>,
    thread: JoinHandle<io::Result<()>>,
}

fn seated() -> Seated {
    let link = FrameLink::new().unwrap();
    let bell = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
    let (turns, is_over) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let stack = Counter { bell: bell.try_clone().unwrap(), turns: turns.clone(), is_over: is_over.clone() };
    let seat = link.stack.seat();
    let thread = std::thread::spawn(move || seat.run(Box::new(stack)));
    while turns.load(Ordering::SeqCst) == 0 {
        std::thread::yield_now();
    }
    Seated { link, bell, turns, is_over, thread }
}

impl Seated {
    fn ring(&self) {
        rustix::io::write(&self.bell, &1u64.to_ne_bytes()).unwrap();
    }

    fn end(self) {
        self.is_over.store(true, Ordering::SeqCst);
        self.ring();
        self.thread.join().unwrap().unwrap();
    }
}

#[test]
fn lent_stack_runs_for_the_card_alone_and_goes_back() {
    let seated = seated();
    let mut lent = seated.link.device.borrow_stack().unwrap();
    let before = seated.turns.load(Ordering::SeqCst);
    seated.ring();
    assert_eq!(lent.turn(), Turn::Idle);
    assert_eq!(seated.turns.load(Ordering::SeqCst), before + 1);
    assert!(seated.link.device.borrow_stack().is_none());

    drop(lent);
    seated.end();
}

#[test]
fn stack_that_ends_while_lent_ends_its_thread_once_it_is_back() {
    let seated = seated();
    let mut lent = seated.link.device.borrow_stack().unwrap();
    seated.is_over.store(true, Ordering::SeqCst);
    assert_eq!(lent.turn(), Turn::Over);
    drop(lent);
    seated.thread.join().unwrap().unwrap();
    assert!(seated.link.device.borrow_stack().is_none());
}

#[test]
fn link_without_a_stack_has_none_to_lend() {
    assert!(FrameLink::new().unwrap().device.borrow_stack().is_none());
}

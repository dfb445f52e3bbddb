use std::time::Duration;

use virtio::frame::{
    FrameHeader, FrameLink, HEADER_LEN, MAX_FRAME, Offloads, PartialChecksum, SegmentKind, Segmentation,
};
use virtio::test_kit::{
    Buffer, DATA, DriverQueue, Exchange, FakeStack, Framed, Local, PATIENCE, Subject, Transport, Used, hostile_chains,
    ram, ready_within,
};
use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_MRG_RXBUF,
};

use super::device::{QUEUE_SIZE, RX, TX};
use super::*;

const FRAME: [u8; 60] = [0x5a; 60];
const MERGEABLE: u64 = 1 << VIRTIO_NET_F_MRG_RXBUF;
const OFFLOADS: u64 =
    1 << VIRTIO_NET_F_CSUM | 1 << VIRTIO_NET_F_HOST_TSO4 | 1 << VIRTIO_NET_F_GUEST_CSUM | 1 << VIRTIO_NET_F_GUEST_TSO4;
/// Where the tests put what they send, out of the way of what hostile chains point at.
const TX_DATA: u64 = 3 << 20;
/// Where the tests put receive buffers.
const RX_DATA: u64 = DATA + 0x2_0000;

fn net() -> Subject {
    let FrameLink { device, stack } = FrameLink::new().unwrap();
    Subject::new(Net::new(device, NetConfig::default()), &[TX]).keeping(FakeStack::start(stack))
}

mod contract {
    virtio::contract_suite!(super::net);
}

struct Bench {
    local: Local,
    rx: DriverQueue,
    tx: DriverQueue,
    stack: FakeStack,
}

fn served(features: u64) -> Bench {
    let FrameLink { device, stack } = FrameLink::new().unwrap();
    let ram = ram();
    let mut local = Local::serve(Box::new(Net::new(device, NetConfig::default())), &ram);
    let queues = [DriverQueue::new(&ram, RX, QUEUE_SIZE), DriverQueue::new(&ram, TX, QUEUE_SIZE)];
    local.start(features, &queues);
    let [rx, tx] = queues;
    Bench { local, rx, tx, stack: FakeStack::start(stack) }
}

impl Bench {
    fn transmit(&mut self, header: [u8; HEADER_LEN], frame: &[u8]) -> Used {
        let bytes = [&header[..], frame].concat();
        self.tx.write(TX_DATA, &bytes);
        let length = u32::try_from(bytes.len()).unwrap();
        self.local.exchange(TX, &mut self.tx, &[Buffer::readable(TX_DATA, length)])
    }

    fn offer(&mut self, lengths: &[u32]) {
        self.offer_at(RX_DATA, lengths);
    }

    fn offer_at(&mut self, mut address: u64, lengths: &[u32]) {
        for length in lengths {
            self.rx.send(&[Buffer::writable(address, *length)]);
            address += u64::from(*length);
        }
        self.local.kick(RX);
    }

    fn at_stack(&self) -> Option<Framed> {
        self.stack.receive()
    }
}

fn large_segment() -> FrameHeader {
    FrameHeader {
        checksum: Some(PartialChecksum { start: 34, offset: 16 }),
        segmentation: Some(Segmentation { kind: SegmentKind::Tcp4, size: 1460 }),
        header_len: 54,
    }
}

#[test]
fn a_frame_reaches_the_stack_with_its_header() {
    let mut bench = served(OFFLOADS);
    for header in [FrameHeader::default(), large_segment()] {
        assert_eq!(bench.transmit(header.to_bytes(0), &FRAME).length, 0);
        assert_eq!(bench.at_stack(), Some((header, FRAME.to_vec())));
    }
}

#[test]
fn lying_headers_never_reach_the_stack() {
    let mut bench = served(OFFLOADS);
    let with = |change: &dyn Fn(&mut [u8; HEADER_LEN])| {
        let mut bytes = large_segment().to_bytes(0);
        change(&mut bytes);
        bytes
    };
    let lies = [
        with(&|header| header[4..6].fill(0)),
        with(&|header| header[6..8].fill(0xff)),
        with(&|header| header[8..10].fill(0xff)),
        with(&|header| header[2] = 61),
        with(&|header| header[1] = 3),
        with(&|header| header[1] = 4),
        with(&|header| header[0] = 0),
    ];
    for lie in lies {
        assert_eq!(bench.transmit(lie, &FRAME).length, 0);
    }
    bench.transmit([0; HEADER_LEN], &[1; 14]);
    assert_eq!(bench.at_stack(), Some((FrameHeader::default(), vec![1; 14])));
}

#[test]
fn offloads_that_were_not_negotiated_are_refused() {
    let mut bench = served(0);
    bench.transmit(large_segment().to_bytes(0), &FRAME);
    bench.transmit(FrameHeader { segmentation: None, ..large_segment() }.to_bytes(0), &FRAME);
    bench.transmit([0; HEADER_LEN], &[1; 14]);
    assert_eq!(bench.at_stack().unwrap().1, [1; 14]);
}

#[test]
fn frames_of_impossible_length_are_given_back() {
    let mut bench = served(0);
    bench.transmit([0; HEADER_LEN], &[]);
    bench.transmit([0; HEADER_LEN], &[1; 13]);
    bench.transmit([0; HEADER_LEN], &vec![2; MAX_FRAME + 1]);
    bench.transmit([0; HEADER_LEN], &vec![3; MAX_FRAME]);
    assert!(bench.at_stack().unwrap().1 == vec![3; MAX_FRAME]);
    assert_eq!(bench.stack.received(), None);
}

#[test]
fn a_stack_that_takes_no_frames_loses_none() {
    let mut bench = served(0);
    bench.transmit([0; HEADER_LEN], &FRAME);
    bench.stack.hold(true);
    bench.tx.write(DATA, &[&[0; HEADER_LEN][..], &[7; 60_000]].concat());
    let length = u32::try_from(HEADER_LEN + 60_000).unwrap();
    for _ in 0..QUEUE_SIZE {
        bench.tx.send(&[Buffer::readable(DATA, length)]);
    }
    bench.local.kick(TX);
    // The interrupt for the first one may still be on its way.
    bench.local.interrupted(TX, Duration::from_millis(100));
    assert!(!bench.local.interrupted(TX, Duration::from_millis(100)), "a frame nobody took was returned");

    bench.stack.hold(false);
    assert_eq!(bench.at_stack().unwrap().1, FRAME);
    for _ in 0..QUEUE_SIZE {
        assert!(bench.at_stack().unwrap().1 == [7; 60_000]);
        bench.local.next_used(TX, &mut bench.tx);
    }
    assert_eq!(bench.stack.received(), None);
}

#[test]
fn a_frame_for_the_guest_fills_one_buffer() {
    let mut bench = served(MERGEABLE | OFFLOADS);
    bench.offer(&[1500]);
    bench.stack.send(&large_segment(), &FRAME);
    let used = bench.local.next_used(RX, &mut bench.rx);
    assert_eq!(usize::try_from(used.length).unwrap(), HEADER_LEN + FRAME.len());
    assert_eq!(bench.rx.read(RX_DATA, HEADER_LEN), large_segment().to_bytes(1));
    assert_eq!(bench.rx.read(RX_DATA + 12, FRAME.len()), FRAME);
}

#[test]
fn a_long_frame_is_merged_from_as_many_buffers_as_it_takes() {
    let mut bench = served(MERGEABLE);
    let frame: Vec<u8> = (0..4000u32).map(|index| u8::try_from(index % 251).unwrap()).collect();
    bench.stack.send(&FrameHeader::default(), &frame);
    // Not enough yet; and one that cannot even hold a header.
    bench.offer(&[1500, 1500, 11]);
    bench.offer_at(RX_DATA + 3000, &[1500, 1500]);

    let used: Vec<u32> = (0..4).map(|_| bench.local.next_used(RX, &mut bench.rx).length).collect();

    let mut lengths = used.clone();
    lengths.sort_unstable();
    assert_eq!(lengths, [0, 1012, 1500, 1500]);
    let bytes = bench.rx.read(RX_DATA, HEADER_LEN + frame.len());
    assert_eq!(bytes[..HEADER_LEN], FrameHeader::default().to_bytes(3));
    assert!(bytes[HEADER_LEN..] == frame);
}

#[test]
fn without_mergeable_buffers_a_frame_that_does_not_fit_is_lost_and_the_next_is_not() {
    let mut bench = served(0);
    bench.stack.send(&FrameHeader::default(), &[1; 200]);
    bench.stack.send(&FrameHeader::default(), &FRAME);
    bench.offer(&[100]);
    let used = bench.local.next_used(RX, &mut bench.rx);
    assert_eq!(usize::try_from(used.length).unwrap(), HEADER_LEN + FRAME.len());
    assert_eq!(bench.rx.read(RX_DATA + 12, FRAME.len()), FRAME);
}

#[test]
fn frames_wait_for_buffers_in_their_order() {
    let mut bench = served(MERGEABLE);
    for mark in 0..100 {
        bench.stack.send(&FrameHeader::default(), &[mark; 60]);
    }
    bench.offer(&[128; 100]);
    for mark in 0..100 {
        bench.local.next_used(RX, &mut bench.rx);
        assert_eq!(bench.rx.read(RX_DATA + 128 * u64::from(mark) + 12, 60), [mark; 60]);
    }
}

#[test]
fn a_frame_the_driver_cannot_take_is_lost() {
    let mut bench = served(MERGEABLE);
    bench.offer(&[1500]);
    bench.stack.send(&large_segment(), &FRAME);
    bench.stack.send(&FrameHeader::default(), &[1; 60]);
    bench.local.next_used(RX, &mut bench.rx);
    assert_eq!(bench.rx.read(RX_DATA + 12, 60), [1; 60]);
}

#[test]
fn buffers_the_guest_lies_about_do_no_harm() {
    for hostile in hostile_chains() {
        let mut bench = served(MERGEABLE);
        hostile.send(&mut bench.rx);
        bench.offer(&[1500]);
        bench.stack.send(&FrameHeader::default(), &FRAME);
        bench.transmit([0; HEADER_LEN], &FRAME);
        let sent = bench.at_stack().map(|(_, frame)| frame);
        assert_eq!(sent.as_deref(), Some(&FRAME[..]), "{} {:?}", hostile.name, bench.local.faults());
    }
}

#[test]
fn the_stack_knows_what_the_driver_takes() {
    let mut bench = served(OFFLOADS);
    assert!(bench.stack.sees(Offloads { checksum: true, tcp4_segments: true, tcp6_segments: false }));
    bench.local.reset();
    assert!(bench.stack.sees(Offloads::default()));
}

#[test]
fn the_guest_reads_its_address_mtu_and_link_state() {
    let mut bench = served(0);
    let config = bench.local.config(0, 12);
    assert_eq!(config, [0x02, 0x76, 0x6d, 0x6d, 0, 2, 1, 0, 1, 0, 0xf0, 0xff]);
}

#[test]
fn a_stack_that_is_gone_takes_the_link_down() {
    let Bench { mut local, mut tx, stack, .. } = served(0);
    drop(stack);
    assert!(ready_within(local.interrupts().config_fd(), PATIENCE));
    assert_eq!(local.config(6, 2), [0, 0]);
    tx.write(DATA, &[0; 72]);
    local.exchange(TX, &mut tx, &[Buffer::readable(DATA, 72)]);
}

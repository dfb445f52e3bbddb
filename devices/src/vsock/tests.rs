//! The device against a driver that plays the guest's side of the protocol by hand.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

use proptest::{prelude::any, proptest};
use virtio::Ram;
use virtio::test_kit::{Buffer, DATA, DriverQueue, Exchange, Local, PATIENCE, Subject, Transport, ram};

use super::device::MAX_REPLIES;
use super::header::{HEADER_LEN, Halves, Header, Op, STREAM};
use super::{BUFFER, MAX_CONNECTIONS, Vsock, VsockHost, VsockListener};

const CID: u64 = 3;
const RX: u16 = 0;
const TX: u16 = 1;
const QUEUE_SIZE: u16 = 128;
/// Receive buffers lie from here on, the packet being sent from `DATA` on.
const RX_DATA: u64 = DATA + (256 << 10);
const RX_LEN: u32 = 4096;
const GUEST_PORT: u32 = 700;
const HOST_PORT: u32 = 800;
const PLENTY: u32 = 1 << 20;

fn device() -> Subject {
    let (device, host) = Vsock::new(CID).unwrap();
    Subject::new(device, &[TX]).keeping(host)
}

mod contract {
    virtio::contract_suite!(super::device);
}

struct Guest {
    ram: Ram,
    local: Local,
    queues: Vec<DriverQueue>,
    buffers: BTreeMap<u16, u64>,
}

fn queues(ram: &Ram) -> Vec<DriverQueue> {
    (0..3).map(|index| DriverQueue::new(ram, index, QUEUE_SIZE)).collect()
}

impl Guest {
    /// A started device without receive buffers.
    fn bare() -> (Self, VsockHost) {
        let ram = ram();
        let (device, host) = Vsock::new(CID).unwrap();
        let mut local = Local::serve(Box::new(device), &ram);
        let queues = queues(&ram);
        local.start(0, &queues);
        (Self { ram, local, queues, buffers: BTreeMap::new() }, host)
    }

    fn new() -> (Self, VsockHost) {
        let (mut guest, host) = Self::bare();
        guest.post(QUEUE_SIZE);
        (guest, host)
    }

    /// Gives the device `count` receive buffers.
    fn post(&mut self, count: u16) {
        for slot in 0..count {
            let address = RX_DATA + u64::from(RX_LEN) * u64::from(slot);
            self.post_at(address);
        }
        self.local.kick(RX);
    }

    fn post_at(&mut self, address: u64) {
        let head = self.queues[usize::from(RX)].send(&[Buffer::writable(address, RX_LEN)]);
        self.buffers.insert(head, address);
    }

    /// The next packet from the device, its buffer given back.
    fn next(&mut self) -> (Header, Vec<u8>) {
        let used = self.local.next_used(RX, &mut self.queues[usize::from(RX)]);
        let address = self.buffers.remove(&used.head).unwrap();
        let packet = self.queues[usize::from(RX)].read(address, usize::try_from(used.length).unwrap());
        self.post_at(address);
        self.local.kick(RX);
        let (header, payload) = packet.split_first_chunk::<HEADER_LEN>().unwrap();
        let header = Header::parse(header);
        assert_eq!(usize::try_from(header.len).unwrap(), payload.len());
        (header, payload.to_vec())
    }

    fn expect(&mut self, op: Op) -> Header {
        let (header, _) = self.next();
        assert_eq!(header.op, Some(op), "{header:?}");
        header
    }

    /// Sends a packet in pieces of the given lengths, the last taking the rest, and waits until it is taken.
    fn send_in(&mut self, packet: &[u8], pieces: &[usize]) {
        self.offer(packet, pieces);
        self.local.answer(TX, &mut self.queues[usize::from(TX)]);
    }

    fn offer(&mut self, packet: &[u8], pieces: &[usize]) {
        let tx = &mut self.queues[usize::from(TX)];
        tx.write(DATA, packet);
        let mut buffers = Vec::new();
        let mut start = 0;
        for len in pieces.iter().copied().chain([packet.len()]) {
            let end = packet.len().min(start + len);
            buffers.push(Buffer::readable(DATA + u64::try_from(start).unwrap(), u32::try_from(end - start).unwrap()));
            start = end;
        }
        tx.send(&buffers);
    }

    fn send(&mut self, header: Header, payload: &[u8]) {
        let header = Header { len: u32::try_from(payload.len()).unwrap(), ..header };
        self.send_in(&[&header.bytes(), payload].concat(), &[]);
    }

    /// Accepts what the host just requested.
    fn accept(&mut self) -> Header {
        let request = self.expect(Op::Request);
        let response = answer(&request, Op::Response);
        self.send(response, &[]);
        response
    }

    /// Opens a connection from the guest.
    fn connect(&mut self, guest_port: u32) -> Header {
        let header = packet(guest_port, Op::Request);
        self.send(header, &[]);
        self.expect(Op::Response);
        header
    }
}

fn packet(guest_port: u32, op: Op) -> Header {
    Header {
        src_cid: CID,
        dst_cid: 2,
        src_port: guest_port,
        dst_port: HOST_PORT,
        len: 0,
        kind: STREAM,
        op: Some(op),
        flags: 0,
        buf_alloc: PLENTY,
        fwd_cnt: 0,
    }
}

/// A packet of the guest on the connection that `to` came on.
fn answer(to: &Header, op: Op) -> Header {
    Header { src_port: to.dst_port, dst_port: to.src_port, ..packet(0, op) }
}

fn op(header: Header, op: Op) -> Header {
    Header { op: Some(op), ..header }
}

/// A connection from the guest: its header for packets and the host's end.
fn established(guest: &mut Guest, host: &VsockHost) -> (Header, UnixStream, VsockListener) {
    let listener = host.listen(HOST_PORT).unwrap();
    let header = guest.connect(GUEST_PORT);
    let stream = listener.accept().unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    (header, stream, listener)
}

fn read_exactly(stream: &mut UnixStream, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    stream.read_exact(&mut bytes).unwrap();
    bytes
}

#[test]
fn host_connects_and_bytes_flow_both_ways() {
    let (mut guest, host) = Guest::new();
    let connecting = thread::spawn(move || host.connect(GUEST_PORT, PATIENCE));
    let header = guest.accept();
    assert_eq!(header.src_port, GUEST_PORT);
    let mut stream = connecting.join().unwrap().unwrap();
    guest.send(op(header, Op::Data), b"from the guest");
    assert_eq!(read_exactly(&mut stream, 14), b"from the guest");
    stream.write_all(b"from the host").unwrap();
    let (header, payload) = guest.next();
    assert_eq!((header.op, payload.as_slice()), (Some(Op::Data), &b"from the host"[..]));
}

#[test]
fn a_port_nobody_listens_on_refuses_on_either_side() {
    let (mut guest, host) = Guest::new();
    let connecting = thread::spawn(move || host.connect(GUEST_PORT, PATIENCE).map(drop));
    let request = guest.expect(Op::Request);
    guest.send(answer(&request, Op::Reset), &[]);
    assert_eq!(connecting.join().unwrap().unwrap_err().kind(), ErrorKind::ConnectionRefused);
    guest.send(packet(GUEST_PORT, Op::Request), &[]);
    let refusal = guest.expect(Op::Reset);
    assert_eq!((refusal.src_port, refusal.dst_port), (HOST_PORT, GUEST_PORT));
}

#[test]
fn a_connect_waits_for_the_driver_to_start() {
    let ram = ram();
    let (device, host) = Vsock::new(CID).unwrap();
    let mut local = Local::serve(Box::new(device), &ram);
    let connecting = thread::spawn(move || host.connect(GUEST_PORT, PATIENCE).map(drop));
    let queues = queues(&ram);
    local.start(0, &queues);
    let mut guest = Guest { ram, local, queues, buffers: BTreeMap::new() };
    guest.post(QUEUE_SIZE);
    guest.accept();
    connecting.join().unwrap().unwrap();
}

#[test]
fn a_connect_nobody_answers_times_out_and_its_late_answer_is_reset() {
    let (mut guest, host) = Guest::new();
    let error = host.connect(GUEST_PORT, Duration::from_millis(1)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    guest.accept();
    guest.expect(Op::Reset);
}

#[test]
fn headers_may_be_split_anywhere() {
    let (mut guest, host) = Guest::new();
    let (header, mut stream, _listener) = established(&mut guest, &host);
    for split in 0..=HEADER_LEN {
        let data = Header { len: 4, ..op(header, Op::Data) };
        guest.send_in(&[&data.bytes(), &b"data"[..]].concat(), &[split]);
        assert_eq!(read_exactly(&mut stream, 4), b"data", "split at {split}");
    }
}

#[test]
fn payload_may_lie_in_many_descriptors() {
    let (mut guest, host) = Guest::new();
    let (header, mut stream, _listener) = established(&mut guest, &host);
    let payload: Vec<u8> = (0..5000u32).map(|index| index.to_le_bytes()[0]).collect();
    let data = Header { len: 5000, ..op(header, Op::Data) };
    guest.send_in(&[&data.bytes(), payload.as_slice()].concat(), &[3, 40, 1, 100, 7, 1000, 1, 1, 1500]);
    assert_eq!(read_exactly(&mut stream, 5000), payload);
}

#[test]
fn a_guest_that_outruns_a_slow_host_is_cut_off_and_what_fitted_arrives() {
    let (mut guest, host) = Guest::new();
    let (header, mut stream, _listener) = established(&mut guest, &host);
    let chunk = vec![7; 64 << 10];
    // As much as the socket pair takes and the device's buffer, and then some.
    let mut sent = 0;
    let mut resets = 0;
    while resets == 0 && sent < 64 {
        guest.send(op(header, Op::Data), &chunk);
        sent += 1;
        while let Some(used) = guest.queues[usize::from(RX)].used() {
            let bytes = guest.queues[usize::from(RX)].read(guest.buffers[&used.head], HEADER_LEN);
            resets += usize::from(bytes[30] == 3);
        }
    }
    assert_eq!(resets, 1, "after {sent} packets of 64 KiB");
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    assert_eq!(all.len(), (sent - 1) * chunk.len());
}

#[test]
fn reading_gives_the_guest_credit_again() {
    let (mut guest, host) = Guest::new();
    let (header, mut stream, _listener) = established(&mut guest, &host);
    let chunk = vec![7; 64 << 10];
    guest.send(op(header, Op::Data), &chunk);
    read_exactly(&mut stream, chunk.len());
    let update = guest.expect(Op::CreditUpdate);
    assert_eq!((update.buf_alloc, update.fwd_cnt), (BUFFER, 64 << 10));
    guest.send(op(header, Op::CreditRequest), &[]);
    assert_eq!(guest.expect(Op::CreditUpdate).fwd_cnt, 64 << 10);
}

#[test]
fn the_host_sends_no_more_than_the_guest_has_room_for() {
    let (mut guest, host) = Guest::new();
    let listener = host.listen(HOST_PORT).unwrap();
    let header = Header { buf_alloc: 10, ..packet(GUEST_PORT, Op::Request) };
    guest.send(header, &[]);
    guest.expect(Op::Response);
    let mut stream = listener.accept().unwrap();
    stream.write_all(b"0123456789abcdefghij").unwrap();
    assert_eq!(guest.next().1, b"0123456789");
    guest.expect(Op::CreditRequest);
    guest.send(Header { buf_alloc: 10, fwd_cnt: 4, ..op(header, Op::CreditUpdate) }, &[]);
    assert_eq!(guest.next().1, b"abcd");
    guest.expect(Op::CreditRequest);
    guest.send(Header { buf_alloc: PLENTY, fwd_cnt: 14, ..op(header, Op::CreditUpdate) }, &[]);
    assert_eq!(guest.next().1, b"efghij");
}

#[test]
fn each_half_closes_by_itself() {
    let (mut guest, host) = Guest::new();
    let (header, mut stream, _listener) = established(&mut guest, &host);
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(Halves::from_flags(guest.expect(Op::Shutdown).flags), Halves { receive: false, send: true });
    guest.send(op(header, Op::Data), b"still here");
    assert_eq!(read_exactly(&mut stream, 10), b"still here");
    let send_over = Halves { receive: false, send: true }.flags();
    guest.send(Header { flags: send_over, ..op(header, Op::Shutdown) }, &[]);
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
}

#[test]
fn a_guest_that_closes_gets_its_reset_and_the_host_its_bytes() {
    let (mut guest, host) = Guest::new();
    let (header, mut stream, _listener) = established(&mut guest, &host);
    guest.send(op(header, Op::Data), b"last words");
    guest.send(Header { flags: Halves::BOTH.flags(), ..op(header, Op::Shutdown) }, &[]);
    guest.expect(Op::Reset);
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    assert_eq!(all, b"last words");
}

#[test]
fn a_host_that_hangs_up_is_told_to_the_guest_after_its_bytes() {
    let (mut guest, host) = Guest::new();
    let (_, mut stream, _listener) = established(&mut guest, &host);
    stream.write_all(b"bye").unwrap();
    drop(stream);
    let mut told = Halves::default();
    let mut bytes = Vec::new();
    while told != Halves::BOTH {
        let (header, payload) = guest.next();
        bytes.extend(payload);
        if header.op == Some(Op::Shutdown) {
            told = Halves::from_flags(header.flags);
        }
    }
    assert_eq!(bytes, b"bye");
}

/// A device without receive buffers that was offered a queue full of packets it must answer.
fn flooded() -> Guest {
    let (mut guest, _host) = Guest::bare();
    for _ in 0..QUEUE_SIZE {
        guest.offer(&packet(GUEST_PORT, Op::Data).bytes(), &[]);
    }
    guest.local.kick(TX);
    guest
}

#[test]
fn answers_without_receive_buffers_leave_packets_in_the_transmit_queue() {
    let mut guest = flooded();
    for _ in 0..MAX_REPLIES {
        guest.local.next_used(TX, &mut guest.queues[usize::from(TX)]);
    }
    // Whatever the worker was doing is done after this.
    guest.local.reset();
    assert_eq!(guest.queues[usize::from(TX)].used(), None);
}

#[test]
fn receive_buffers_let_a_held_up_transmit_queue_go_on() {
    let mut guest = flooded();
    guest.local.next_used(TX, &mut guest.queues[usize::from(TX)]);
    guest.post(QUEUE_SIZE);
    for _ in 0..QUEUE_SIZE {
        guest.expect(Op::Reset);
    }
}

#[test]
fn connections_beyond_the_limit_are_refused() {
    let (mut guest, host) = Guest::new();
    let listener = host.listen(HOST_PORT).unwrap();
    let mut held = Vec::new();
    for port in 0..u32::from(MAX_CONNECTIONS) {
        guest.connect(port);
        held.push(listener.accept().unwrap());
    }
    guest.send(packet(9999, Op::Request), &[]);
    guest.expect(Op::Reset);
    held.pop();
    while guest.next().0.flags != Halves::BOTH.flags() {}
    guest.send(packet(9999, Op::Request), &[]);
    let ops = [guest.next().0.op, guest.next().0.op];
    assert!(ops.contains(&Some(Op::Reset)) && ops.contains(&Some(Op::Response)), "{ops:?}");
}

#[test]
fn a_guest_reset_ends_connections_and_the_host_goes_on() {
    let (mut guest, host) = Guest::new();
    let (_, mut stream, _listener) = established(&mut guest, &host);
    let again = host.clone();
    let calling = thread::spawn(move || host.connect(GUEST_PORT, PATIENCE).map(drop));
    guest.expect(Op::Request);
    guest.local.reset();
    assert_eq!(calling.join().unwrap().unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    guest.queues = queues(&guest.ram);
    guest.local.start(0, &guest.queues);
    guest.post(QUEUE_SIZE);
    let connecting = thread::spawn(move || again.connect(GUEST_PORT, PATIENCE));
    guest.accept();
    let _stream = connecting.join().unwrap().unwrap();
    guest.connect(GUEST_PORT + 1);
}

#[test]
fn a_host_outliving_its_device_is_told() {
    let (device, host) = Vsock::new(CID).unwrap();
    let listener = host.listen(HOST_PORT).unwrap();
    drop(device);
    assert_eq!(host.connect(GUEST_PORT, PATIENCE).unwrap_err().kind(), ErrorKind::NotConnected);
    assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::NotConnected);
    assert_eq!(host.listen(1).unwrap_err().kind(), ErrorKind::NotConnected);
}

#[test]
fn forged_addresses_are_dropped_and_other_socket_types_refused() {
    let (mut guest, _host) = Guest::new();
    guest.send(Header { src_cid: CID + 1, ..packet(GUEST_PORT, Op::Request) }, &[]);
    guest.send(Header { kind: 2, ..packet(GUEST_PORT, Op::Request) }, &[]);
    assert_eq!(guest.expect(Op::Reset).kind, 2);
}

#[test]
fn a_megabyte_arrives_whole_in_both_directions() {
    const TOTAL: usize = 1 << 20;
    let (mut guest, host) = Guest::new();
    let (header, stream, _listener) = established(&mut guest, &host);
    let mut source = stream.try_clone().unwrap();
    let pattern: Vec<u8> = (0..TOTAL).map(|index| index.to_le_bytes()[0] ^ index.to_le_bytes()[1]).collect();
    let expected = pattern.clone();
    let writer = thread::spawn(move || source.write_all(&pattern));
    let mut reader = stream.try_clone().unwrap();
    let echo = thread::spawn(move || {
        let mut bytes = vec![0; TOTAL];
        reader.read_exact(&mut bytes).map(|()| bytes)
    });
    let (mut received, mut sent) = (Vec::new(), 0);
    while sent < TOTAL {
        let (from, payload) = guest.next();
        if from.op == Some(Op::Data) {
            received.extend_from_slice(&payload);
        }
        // What came goes back as far as the host's buffer has room; its updates tell of more.
        let room = usize::try_from(from.buf_alloc.wrapping_sub(u32::try_from(sent).unwrap() - from.fwd_cnt)).unwrap();
        let batch = received.len().min(sent + room);
        for chunk in received[sent..batch].chunks(4096) {
            let fwd_cnt = u32::try_from(received.len()).unwrap();
            guest.send(Header { fwd_cnt, ..op(header, Op::Data) }, chunk);
        }
        sent = batch;
    }
    writer.join().unwrap().unwrap();
    assert_eq!(received, expected);
    assert_eq!(echo.join().unwrap().unwrap(), expected);
}

proptest! {
    #![proptest_config(proptest::test_runner::Config::with_cases(40))]
    #[test]
    fn no_packet_stops_the_device(packets in proptest::collection::vec((0..9u16, 0..3u32, any::<u32>(), any::<u32>(), 0..3u32, 0..200usize, any::<bool>()), 1..40)) {
        let (mut guest, host) = Guest::new();
        let listener = host.listen(HOST_PORT).unwrap();
        let mut streams = Vec::new();
        for (code, port, buf_alloc, fwd_cnt, flags, len, is_honest) in packets {
            let len_field = if is_honest { u32::try_from(len).unwrap() } else { buf_alloc };
            let header = Header { src_port: port, len: len_field, flags, buf_alloc, fwd_cnt, ..packet(0, Op::Data) };
            let mut bytes = header.bytes().to_vec();
            bytes[30..32].copy_from_slice(&code.to_le_bytes());
            bytes.resize(HEADER_LEN + len, 1);
            guest.send_in(&bytes, &[]);
            while let Some(used) = guest.queues[usize::from(RX)].used() {
                let address = guest.buffers.remove(&used.head).unwrap();
                guest.post_at(address);
            }
            if let Ok(mut stream) = listener.accept_timeout(Duration::ZERO) {
                stream.set_nonblocking(true).unwrap();
                // The connection may be over already.
                let _: io::Result<usize> = stream.write(&[0; 1000]);
                streams.push(stream);
            }
        }
        proptest::prop_assert_eq!(guest.local.faults(), Vec::<String>::new());
    }
}

//! Both directions, and a host that does not play along.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use virtio::test_kit::{Buffer, DATA, DriverQueue, Exchange, Local, PATIENCE, Subject, Transport, ram, ready_within};

use super::*;

const SIZE_FEATURE: u64 = 1;
const RX: u16 = 0;
const TX: u16 = 1;

struct Bench {
    local: Local,
    rx: DriverQueue,
    tx: DriverQueue,
    host: UnixStream,
    handle: ConsoleHandle,
}

fn console() -> (Console, ConsoleHandle, UnixStream) {
    let (host, far) = UnixStream::pair().unwrap();
    let (console, handle) = Console::new(far.into()).unwrap();
    (console, handle, host)
}

fn bench() -> Bench {
    let (console, handle, host) = console();
    host.set_read_timeout(Some(PATIENCE)).unwrap();
    let ram = ram();
    let queues = [DriverQueue::new(&ram, RX, 64), DriverQueue::new(&ram, TX, 64)];
    let mut local = Local::serve(Box::new(console), &ram);
    local.start(SIZE_FEATURE, &queues);
    let [rx, tx] = queues;
    Bench { local, rx, tx, host, handle }
}

impl Bench {
    fn print(&mut self, text: &[u8]) {
        self.tx.write(DATA, text);
        let length = u32::try_from(text.len()).unwrap();
        self.local.exchange(TX, &mut self.tx, &[Buffer::readable(DATA, length)]);
    }
}

fn subject() -> Subject {
    let (console, handle, host) = console();
    Subject::new(console, &[TX]).keeping((handle, host))
}

mod contract {
    virtio::contract_suite!(super::subject);
}

#[test]
fn output_reaches_the_host() {
    let mut bench = bench();
    bench.print(b"hello ");
    bench.print(b"world");
    let mut text = [0; 11];
    bench.host.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"hello world");
}

#[test]
fn input_waits_for_the_guest_to_make_room() {
    let mut bench = bench();
    bench.host.write_all(b"typed early").unwrap();
    let used = bench.local.exchange(RX, &mut bench.rx, &[Buffer::writable(DATA, 5)]);
    assert_eq!((used.length, bench.rx.read(DATA, 6)), (5, b"typed\0".to_vec()));
    let used = bench.local.exchange(RX, &mut bench.rx, &[Buffer::writable(DATA, 64)]);
    assert_eq!((used.length, bench.rx.read(DATA, 6)), (6, b" early".to_vec()));
}

#[test]
fn guest_that_waits_is_given_input_when_it_comes() {
    let mut bench = bench();
    let head = bench.rx.send(&[Buffer::writable(DATA, 64)]);
    bench.local.kick(RX);
    bench.host.write_all(b"now").unwrap();
    let used = bench.local.next_used(RX, &mut bench.rx);
    assert_eq!((used.head, used.length), (head, 3));
}

#[test]
fn hundred_mib_nobody_reads_stay_within_the_limit_and_the_guest_goes_on() {
    const PIECE: usize = 64 << 10;
    let mut bench = bench();
    for _ in 0..(100 << 20) / PIECE {
        bench.print(&[b'.'; PIECE]);
    }
    // What the device kept and what the socket took can be read; everything else is gone.
    bench.host.set_nonblocking(true).unwrap();
    let mut kept = 0;
    let mut piece = vec![0; 1 << 20];
    while ready_within(&bench.host, Duration::from_millis(200)) {
        kept += bench.host.read(&mut piece).unwrap();
    }
    assert!(kept >= MAX_PENDING, "{kept} bytes");
    assert!(kept <= MAX_PENDING + (1 << 20), "{kept} bytes");
}

#[test]
fn kept_output_arrives_before_later_output() {
    let mut bench = bench();
    for piece in 0..40u8 {
        bench.print(&[piece; 8192]);
    }
    let mut text = vec![0; 40 * 8192];
    bench.host.read_exact(&mut text).unwrap();
    bench.print(b"after");
    let mut after = [0; 5];
    bench.host.read_exact(&mut after).unwrap();
    assert!(text.is_sorted());
    assert_eq!(&after, b"after");
}

#[test]
fn host_that_closes_its_end_costs_nothing() {
    let mut bench = bench();
    bench.rx.send(&[Buffer::writable(DATA, 64)]);
    bench.local.kick(RX);
    drop(bench.host);
    for _ in 0..100 {
        bench.tx.write(DATA, b"anybody?");
        bench.local.exchange(TX, &mut bench.tx, &[Buffer::readable(DATA, 8)]);
    }
    assert_eq!(bench.local.faults(), [""; 0]);
    assert!(bench.rx.used().is_none());
}

#[test]
fn resized_window_is_announced_once() {
    let bench = bench();
    let mut local = bench.local;
    assert_eq!(local.config(0, 4), [0; 4]);
    let size = WindowSize { columns: 132, rows: 43 };
    bench.handle.resize(size).unwrap();
    assert!(ready_within(local.interrupts().config_fd(), PATIENCE));
    assert_eq!(local.config(0, 6), [132, 0, 43, 0, 0, 0]);
    local.interrupts().config_fd().read().unwrap();
    bench.handle.resize(size).unwrap();
    // Answered after the announcement could have been made.
    local.reset();
    assert!(local.interrupts().config_fd().read().is_err());
}

//! What the ring's rules let through, and as what.

use std::io::{Read, Write};

use virtio_queue::{Queue, QueueOwnedT};
use vm_memory::GuestAddressSpace;

use super::*;
use crate::Ram;
use crate::test_kit::{Buffer, DATA, DriverQueue, HOLE, LOW_SEAM, hostile_chains, ram};

const SIZE: u16 = 256;

struct Bench {
    ram: Ram,
    driver: DriverQueue,
    device: Queue,
}

impl Bench {
    fn new() -> Self {
        let ram = ram();
        let driver = DriverQueue::new(&ram, 0, SIZE);
        let device = driver.device_side(false);
        Self { ram, driver, device }
    }

    fn pop(&mut self) -> Result<Request, Malformed> {
        let chain = self.device.iter(self.ram.memory()).unwrap().next().unwrap();
        Request::parse(chain, self.ram.memory())
    }
}

#[test]
fn readable_bytes_come_before_writable_room() {
    let mut bench = Bench::new();
    bench.driver.write(DATA, b"question");
    let buffers = [Buffer::readable(DATA, 4), Buffer::readable(DATA + 4, 4), Buffer::writable(DATA + 16, 6)];
    let head = bench.driver.send(&buffers);

    let request = bench.pop().unwrap();

    assert_eq!(request.head(), head);
    let mut question = String::new();
    request.reader().read_to_string(&mut question).unwrap();
    assert_eq!(question, "question");
    assert_eq!(request.writer().write(b"answers and more").unwrap(), 6);
    assert_eq!(bench.driver.read(DATA + 16, 8), b"answer\0\0");
}

#[test]
fn indirect_chain_reads_like_a_direct_one() {
    let mut bench = Bench::new();
    bench.driver.write(DATA, b"ab");
    bench.driver.send_indirect(&[
        Buffer::readable(DATA, 1),
        Buffer::readable(DATA + 1, 1),
        Buffer::writable(DATA + 8, 3),
    ]);
    let request = bench.pop().unwrap();
    assert_eq!(request.reader().available_bytes(), 2);
    assert_eq!(request.writer().available_bytes(), 3);
}

#[test]
fn buffer_across_two_mappings_is_one_buffer() {
    let mut bench = Bench::new();
    bench.driver.write(LOW_SEAM - 3, b"seam!!");
    bench.driver.send(&[Buffer::readable(LOW_SEAM - 3, 6)]);
    let mut bytes = [0; 6];
    bench.pop().unwrap().reader().read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"seam!!");
}

#[test]
fn writable_ranges_are_the_guests_own_addresses() {
    let mut bench = Bench::new();
    bench.driver.send(&[
        Buffer::readable(DATA, 4),
        Buffer::writable(LOW_SEAM - 4096, 8192),
        Buffer::writable(DATA, 16),
    ]);
    let request = bench.pop().unwrap();
    let ranges: Vec<_> = request.writable_ranges().map(|(start, len)| (start.0, len)).collect();
    assert_eq!(ranges, [(LOW_SEAM - 4096, 4096), (LOW_SEAM, 4096), (DATA, 16)]);
}

#[test]
fn descriptors_changed_after_the_pop_change_nothing() {
    let mut bench = Bench::new();
    bench.driver.write(DATA, b"first");
    bench.driver.send(&[Buffer::readable(DATA, 5)]);
    let request = bench.pop().unwrap();
    let [table, ..] = bench.driver.addresses();
    bench.driver.write(table, &HOLE.to_le_bytes());
    let mut bytes = [0; 5];
    request.reader().read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"first");
}

#[test]
fn every_chain_is_either_malformed_or_usable() {
    let mut bench = Bench::new();
    for hostile in hostile_chains() {
        let head = hostile.send(&mut bench.driver);
        let parsed = bench.pop();
        assert_eq!(parsed.is_err(), hostile.malformed, "{}: {parsed:?}", hostile.name);
        assert_eq!(parsed.map_or_else(|malformed| malformed.head, |request| request.head()), head);
    }
}

#[test]
fn chains_longer_than_the_limit_are_malformed() {
    let mut bench = Bench::new();
    bench.driver.send_indirect(&vec![Buffer::writable(DATA, 1); MAX_CHAIN]);
    assert_eq!(bench.pop().unwrap().writer().available_bytes(), MAX_CHAIN);
    bench.driver.send_indirect(&vec![Buffer::writable(DATA, 1); MAX_CHAIN + 1]);
    assert!(bench.pop().is_err());
}

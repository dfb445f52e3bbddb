//! Pages given back, and page numbers that are none.

use std::os::unix::fs::MetadataExt;

use virtio::Ram;
use virtio::test_kit::{
    Buffer, DATA, DriverQueue, Exchange, HIGH_START, HOLE, Local, PATIENCE, Subject, Transport, ram, ready_within,
};
use vm_memory::{GuestAddressSpace, GuestMemoryBackend, GuestMemoryRegion};

use super::*;

const PAGE: u64 = 4096;
const FEATURES: u64 = 1 << 1 | 1 << 2 | 1 << 5;
/// The list of page numbers lies here, the pages themselves in high RAM.
const LIST: u64 = DATA;

struct Bench {
    local: Local,
    queues: Vec<DriverQueue>,
    handle: BalloonHandle,
    ram: Ram,
}

fn bench() -> Bench {
    let (balloon, handle) = Balloon::new().unwrap();
    let ram = ram();
    let queues: Vec<_> = (0..5).map(|index| DriverQueue::new(&ram, index, 128)).collect();
    let mut local = Local::serve(Box::new(balloon), &ram);
    local.start(FEATURES, &queues);
    Bench { local, queues, handle, ram }
}

impl Bench {
    fn send(&mut self, queue: u16, buffers: &[Buffer]) {
        self.local.exchange(queue, &mut self.queues[usize::from(queue)], buffers);
    }

    fn list(&mut self, queue: u16, numbers: &[u32]) {
        let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        self.queues[0].write(LIST, &bytes);
        self.send(queue, &[Buffer::readable(LIST, u32::try_from(bytes.len()).unwrap())]);
    }

    fn fill(&self, address: u64, pages: usize) {
        self.queues[0].write(address, &vec![7; pages * 4096]);
    }

    fn byte(&self, address: u64) -> u8 {
        self.queues[0].read(address, 1)[0]
    }

    /// Memory the host spends on guest RAM.
    fn host_bytes(&self) -> u64 {
        let memory = self.ram.memory();
        let file = memory.iter().next().unwrap().file_offset().unwrap().file().metadata().unwrap();
        file.blocks() * 512
    }
}

fn page_number(address: u64) -> u32 {
    u32::try_from(address / PAGE).unwrap()
}

fn subject() -> Subject {
    let (balloon, handle) = Balloon::new().unwrap();
    Subject::new(balloon, &[0, 1, 3, 4]).keeping(handle)
}

mod contract {
    virtio::contract_suite!(super::subject);
}

#[test]
fn inflated_pages_return_to_the_host_and_read_as_zeroes() {
    let mut bench = bench();
    bench.fill(HIGH_START, 4);
    bench.fill(LIST, 1);
    let before = bench.host_bytes();
    let first = page_number(HIGH_START);
    bench.list(0, &[first + 3, first + 1, first + 2]);
    assert_eq!(before - bench.host_bytes(), 3 * PAGE);
    assert_eq!([0, 1, 2, 3].map(|page| bench.byte(HIGH_START + page * PAGE)), [7, 0, 0, 0]);
}

#[test]
fn reported_buffers_return_to_the_host_on_either_queue() {
    for queue in [3, 4] {
        let mut bench = bench();
        bench.fill(HIGH_START, 4);
        bench.send(queue, &[Buffer::writable(HIGH_START, 8192), Buffer::writable(HIGH_START + 3 * PAGE, 4096)]);
        assert_eq!([0, 1, 2, 3].map(|page| bench.byte(HIGH_START + page * PAGE)), [0, 0, 7, 0]);
    }
}

#[test]
fn deflated_pages_keep_what_they_hold() {
    let mut bench = bench();
    bench.fill(HIGH_START, 1);
    bench.list(1, &[page_number(HIGH_START)]);
    assert_eq!(bench.byte(HIGH_START), 7);
}

#[test]
fn page_numbers_outside_ram_release_nothing() {
    let mut bench = bench();
    bench.fill(HOLE - PAGE, 1);
    bench.fill(HIGH_START, 1);
    let before = bench.host_bytes();
    bench.list(0, &[u32::MAX, u32::MAX - 1, page_number(HOLE), page_number(HIGH_START) - 1, 1 << 20]);
    assert!(bench.host_bytes() >= before);
    assert_eq!([HOLE - PAGE, HIGH_START].map(|address| bench.byte(address)), [7, 7]);
    assert_eq!(bench.local.faults(), [""; 0]);
}

#[test]
fn target_is_announced_and_progress_heard() {
    let bench = bench();
    let mut local = bench.local;
    bench.handle.set_target(5 * PAGE + 1).unwrap();
    assert!(ready_within(local.interrupts().config_fd(), PATIENCE));
    assert_eq!(local.config(0, 8), [5, 0, 0, 0, 0, 0, 0, 0]);
    local.write_config(4, &3u32.to_le_bytes());
    assert_eq!(bench.handle.actual(), 3 * PAGE);
    assert_eq!(local.config(0, 8), [5, 0, 0, 0, 3, 0, 0, 0]);
}

#[test]
fn driver_cannot_change_the_target() {
    let bench = bench();
    let mut local = bench.local;
    local.write_config(0, &9u32.to_le_bytes());
    local.write_config(0, &[9; 8]);
    assert_eq!(local.config(0, 8), [0; 8]);
}

#[test]
fn statistics_are_asked_for_by_returning_the_last_answer() {
    let mut bench = bench();
    let entry = |tag: u16, value: u64| [&tag.to_le_bytes()[..], &value.to_le_bytes()].concat();
    let answer = [entry(4, 1000), entry(5, 2000), entry(99, 1), entry(6, 1500)].concat();
    bench.queues[2].write(LIST, &answer);
    let first = bench.queues[2].send(&[Buffer::readable(LIST, 40)]);
    bench.local.kick(2);

    bench.handle.ask_for_statistics().unwrap();

    assert_eq!(bench.local.next_used(2, &mut bench.queues[2]).head, first);
    let expected = Statistics { free: Some(1000), total: Some(2000), available: Some(1500), caches: None };
    assert_eq!(bench.handle.statistics(), Some(expected));
}

#[test]
fn second_answer_without_a_question_returns_the_first() {
    let mut bench = bench();
    let first = bench.queues[2].send(&[Buffer::readable(LIST, 10)]);
    bench.queues[2].send(&[Buffer::readable(LIST, 10)]);
    assert_eq!(bench.local.answer(2, &mut bench.queues[2]).head, first);
    assert!(bench.queues[2].used().is_none());
}

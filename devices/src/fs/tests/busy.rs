//! A guest with several requests on their way, of which it can call some off.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::{Deref, DerefMut};
use std::rc::Rc;
use std::time::Instant;

use rustix::io::Errno;
use tempfile::TempDir;
use virtio::test_kit::{Buffer, DriverQueue, Exchange, HIGH_START, Local, PATIENCE, Transport, Used, ram};
use zerocopy::{FromBytes, IntoBytes};

use crate::fs::test_kit::{Backend, Guest, MINOR, REQUESTS, folders, queues};
use crate::fs::wire::{InHeader, InterruptIn, OutHeader, opcode};
use crate::fs::{Access, Fs, Monitor, Share};

const URGENT: u16 = 0;
/// The queue of requests that are not waited for.
const POSTED: u16 = 2;
const QUEUE_SIZE: u16 = 1024;
/// Where those lie, each with its answer: half a slot for either.
const SLOTS_START: u64 = HIGH_START;
const SLOT: u64 = 16 << 10;
/// As many may be on their way at the same time; the last is for INTERRUPT.
const SLOTS: u64 = 64;

/// A device that several drivers' queues lead to.
#[derive(Debug, Clone)]
pub(super) struct Device(Rc<RefCell<Local>>);

impl Backend for Device {
    fn answer(&mut self, driver: &mut DriverQueue) -> Used {
        Exchange::answer(&*self.0.borrow(), REQUESTS, driver)
    }
}

/// The guest: what it waits for goes through [`Guest`], everything else through a queue of its own.
#[derive(Debug)]
pub(super) struct Busy {
    guest: Guest<Device>,
    device: Device,
    /// What the server says of itself.
    pub(super) monitor: Monitor,
    urgent: DriverQueue,
    queue: DriverQueue,
    unique: u64,
    /// Requests sent and not answered, by head: number and where the answer goes.
    posted: HashMap<u16, (u64, u64)>,
    /// Answers nobody has asked for yet, by number.
    answers: HashMap<u64, Vec<u8>>,
}

impl Busy {
    /// A guest with one share for each access, as [`Guest::with_access`] has it.
    pub(super) fn with_access(access: &[Access]) -> Self {
        let (host, shares) = folders(access);
        Self::serving(shares, host)
    }

    /// A guest of these shares.
    pub(super) fn serving(shares: Vec<Share>, host: TempDir) -> Self {
        let ram = ram();
        let device = Fs::new(shares).unwrap().with_request_queues(2);
        let monitor = device.monitor();
        let [urgent, waited] = queues(&ram);
        let all = [urgent, waited, DriverQueue::new(&ram, POSTED, QUEUE_SIZE)];
        let mut local = Local::serve(Box::new(device), &ram);
        local.start(0, &all);
        let [urgent, waited, queue] = all;
        let device = Device(Rc::new(RefCell::new(local)));
        let mut guest = Guest::of(device.clone(), waited, host);
        guest.init(MINOR).unwrap();
        // Far from the numbers of the requests that are waited for.
        let unique = 1 << 32;
        Self { guest, device, monitor, urgent, queue, unique, posted: HashMap::new(), answers: HashMap::new() }
    }

    fn message(&mut self, opcode: u32, nodeid: u64, body: &[u8]) -> Vec<u8> {
        let len = u32::try_from(size_of::<InHeader>() + body.len()).unwrap();
        self.unique += 1;
        let header = InHeader { len, opcode, unique: self.unique, nodeid, ..InHeader::default() };
        [header.as_bytes(), body].concat()
    }

    /// Sends a message without waiting for its answer; returns its number.
    pub(super) fn post(&mut self, opcode: u32, nodeid: u64, body: &[&[u8]]) -> u64 {
        let message = self.message(opcode, nodeid, &body.concat());
        let address = SLOTS_START + self.unique % (SLOTS - 1) * SLOT;
        let answer = address + SLOT / 2;
        assert!(self.posted.values().all(|(_, taken)| *taken != answer));
        self.queue.write(address, &message);
        let request = Buffer::readable(address, u32::try_from(message.len()).unwrap());
        let head = self.queue.send(&[request, Buffer::writable(answer, u32::try_from(SLOT / 2).unwrap())]);
        self.posted.insert(head, (self.unique, answer));
        self.device.0.borrow().kick(POSTED);
        self.unique
    }

    fn note(&mut self, used: Used) {
        let (number, address) = self.posted.remove(&used.head).unwrap();
        self.answers.insert(number, self.queue.read(address, usize::try_from(used.length).unwrap()));
    }

    /// Whether a posted message has been answered; looks without a descriptor of the test's own.
    pub(super) fn is_answered(&mut self, number: u64) -> bool {
        while let Some(used) = self.queue.used() {
            self.note(used);
        }
        self.answers.contains_key(&number)
    }

    /// The answer to a posted message.
    pub(super) fn answer_to(&mut self, number: u64) -> Result<Vec<u8>, Errno> {
        let deadline = Instant::now() + PATIENCE;
        while !self.is_answered(number) {
            assert!(Instant::now() < deadline, "{number} is not answered");
            std::thread::yield_now();
        }
        let answer = self.answers.remove(&number).unwrap();
        let (head, rest) = OutHeader::read_from_prefix(&answer).unwrap();
        assert_eq!((head.unique, usize::try_from(head.len).unwrap()), (number, answer.len()));
        if head.error == 0 { Ok(rest.to_vec()) } else { Err(Errno::from_raw_os_error(-head.error)) }
    }

    /// Tells that a posted message is not wanted any more; returns when the device knows.
    pub(super) fn interrupt(&mut self, number: u64) {
        let message = self.message(opcode::INTERRUPT, 0, InterruptIn { unique: number }.as_bytes());
        let address = SLOTS_START + (SLOTS - 1) * SLOT;
        self.urgent.write(address, &message);
        let buffers = [Buffer::readable(address, u32::try_from(message.len()).unwrap())];
        let used = self.device.0.borrow().exchange(URGENT, &mut self.urgent, &buffers);
        assert_eq!(used.length, 0, "INTERRUPT has no answer");
    }

    /// How many requests have been handed over to other threads.
    pub(super) fn handed_over(&self) -> u64 {
        self.monitor.requests().unwrap().handed_over
    }

    /// Waits until so many have been.
    pub(super) fn await_handed_over(&self, count: u64) {
        let deadline = Instant::now() + PATIENCE;
        while self.handed_over() < count {
            assert!(Instant::now() < deadline);
            std::thread::yield_now();
        }
    }

    /// Resets the device, as a driver does that goes away.
    pub(super) fn reset(&mut self) {
        self.device.0.borrow_mut().reset();
    }
}

impl Deref for Busy {
    type Target = Guest<Device>;

    fn deref(&self) -> &Self::Target {
        &self.guest
    }
}

impl DerefMut for Busy {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.guest
    }
}

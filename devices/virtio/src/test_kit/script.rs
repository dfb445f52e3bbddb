//! A driver whose every step is chosen by bytes: for fuzzers and property tests of devices.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::sync::Arc;

use vm_memory::{Bytes, GuestAddress, GuestAddressSpace};
use vmm_sys_util::epoll::EventSet;

use super::{DATA, Descriptor, DriverQueue, HIGH_END, HIGH_START, HOLE, InterruptRecorder, LOW_SEAM, Subject, ram};
use crate::{Fault, LocalRings, Ram, VirtioDevice, Watch, serve_event, serve_pending, serve_queue};

/// Places where buffers are interesting.
const PLACES: [u64; 12] = [
    DATA,
    DATA + 0x100,
    DATA + 0x1000,
    LOW_SEAM - 8,
    HOLE - 8,
    HOLE,
    HIGH_START,
    HIGH_END - 8,
    HIGH_END,
    u64::MAX - 8,
    0,
    0x1_0000,
];

const LENGTHS: [u32; 12] = [0, 1, 4, 8, 16, 20, 44, 512, 4096, 1 << 20, 1 << 22, u32::MAX];

/// Turns that pending work gets after each step; what is left waits for the next.
const TURNS: usize = 4;

/// Plays a driver that does whatever `script` says to a device, and then checks that a reset brings it back.
///
/// # Panics
/// When the device panics, blames the host for what the guest did, or does not work after a reset.
pub fn play(subject: Subject, script: &[u8]) {
    let Subject { device, answering, keep: _keep } = subject;
    let mut stage = Stage::new(device);
    let mut script = Script(script);
    stage.restart(u64::MAX);
    while let Some(step) = script.byte() {
        stage.step(step, &mut script);
    }
    stage.restart(0);
    for queue in answering {
        let Some(driver) = stage.queues.get_mut(usize::from(queue)) else { continue };
        driver.send(&[super::Buffer::writable(DATA, 64)]);
        stage.kick(queue);
        let returned = stage.queues.get_mut(usize::from(queue)).and_then(DriverQueue::used);
        assert!(returned.is_some(), "queue {queue} is dead after a reset");
    }
}

/// The bytes not yet used.
struct Script<'a>(&'a [u8]);

impl Script<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    /// A number; 0 when the script is at its end.
    fn number(&mut self, bytes: usize) -> u64 {
        (0..bytes).fold(0, |number, _| number << 8 | u64::from(self.byte().unwrap_or(0)))
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        let index = usize::from(self.byte().unwrap_or(0)) % from.len();
        *from.get(index).expect("within the list")
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.byte().unwrap_or(0)).collect()
    }

    fn short(&mut self) -> u16 {
        u16::try_from(self.number(2)).expect("two bytes")
    }
}

/// A device served without a thread, so that whatever it does happens within the step that caused it.
struct Stage {
    device: Box<dyn VirtioDevice>,
    ram: Ram,
    queues: Vec<DriverQueue>,
    rings: Option<LocalRings>,
    watch: Watched,
}

impl Stage {
    fn new(device: Box<dyn VirtioDevice>) -> Self {
        Self { device, ram: ram(), queues: Vec::new(), rings: None, watch: Watched::default() }
    }

    fn step(&mut self, step: u8, script: &mut Script<'_>) {
        let queue = script.byte().unwrap_or(0);
        let queue = u16::from(queue) % u16::try_from(self.queues.len()).expect("few queues");
        match step % 10 {
            0 | 1 => {
                let bytes = script.bytes(24);
                let place = script.pick(&[DATA, DATA + 0x100, DATA + 0x1000, HIGH_START]);
                self.ram.memory().write_slice(&bytes, GuestAddress(place)).expect("in RAM");
            }
            2..=4 => self.send(queue, script),
            5 => self.kick(queue),
            6 => {
                let (offset, count) = (script.number(1), script.pick(&[1, 2, 4, 8]));
                let bytes = script.bytes(count);
                let config = self.device.config();
                config.write(offset, &bytes);
                config.read(offset, &mut vec![0; count]);
            }
            7 => self.event(script.short() % 4),
            8 => match script.byte().unwrap_or(0) % 4 {
                0 => self.restart(script.number(8)),
                1 => {
                    let distance = script.short();
                    self.driver(queue).jump(distance);
                }
                2 => {
                    let head = script.short();
                    self.driver(queue).publish(head);
                }
                _ => {
                    // Straight into descriptor table and rings.
                    let [table, ..] = self.driver(queue).addresses();
                    let bytes = script.bytes(16);
                    let offset = u64::from(script.short() % 0x8000);
                    self.driver(queue).write(table + offset, &bytes);
                }
            },
            _ => while self.driver(queue).poll_used().is_some() {},
        }
    }

    fn driver(&mut self, queue: u16) -> &mut DriverQueue {
        self.queues.get_mut(usize::from(queue)).expect("a queue of the device")
    }

    fn send(&mut self, queue: u16, script: &mut Script<'_>) {
        let count = usize::from(script.byte().unwrap_or(0) % 6) + 1;
        let indirect = script.byte().unwrap_or(0).is_multiple_of(4);
        let chain: Vec<Descriptor> = (1..=count)
            .map(|next| {
                let last = next == count;
                let kind = script.byte().unwrap_or(0);
                // Mostly a proper chain, with what the script wants now and then.
                let flags = if kind < 240 { u16::from(!last) | u16::from(kind & 1) << 1 } else { script.short() % 8 };
                let next = if kind < 250 { u16::try_from(next).expect("short chain") } else { script.short() };
                Descriptor { address: script.pick(&PLACES), length: script.pick(&LENGTHS), flags, next }
            })
            .collect();
        let driver = self.driver(queue);
        if driver.free_descriptors() >= count {
            if indirect {
                driver.send_table(&chain)
            } else {
                driver.send_raw(&chain)
            };
        }
    }

    fn restart(&mut self, features: u64) {
        self.device.reset(&mut self.watch);
        self.watch.0.clear();
        let info = self.device.info().clone();
        self.queues =
            (0u16..).zip(&info.queue_sizes).map(|(index, size)| DriverQueue::new(&self.ram, index, *size)).collect();
        let event_idx = features & 1 << 29 != 0;
        let device_side = self.queues.iter().map(|queue| queue.device_side(event_idx)).collect();
        let interrupts = Arc::new(InterruptRecorder::new(info.queue_sizes.len()));
        let rings = LocalRings::new(self.ram.clone(), device_side, interrupts);
        let started = self.device.start(features & (info.features | 1 << 32 | 1 << 29), &self.ram, &mut self.watch);
        self.rings = Some(rings);
        self.judge(started);
    }

    fn kick(&mut self, queue: u16) {
        let Some(rings) = &mut self.rings else { return };
        let mut result = serve_queue(&mut *self.device, rings, queue, &mut self.watch);
        for _ in 0..TURNS {
            if result.is_ok() && rings.pending() {
                result = serve_pending(&mut *self.device, rings, &mut self.watch);
            }
        }
        self.judge(result);
    }

    fn event(&mut self, token: u16) {
        let Some(rings) = self.rings.as_mut().filter(|_| self.watch.0.contains_key(&token)) else { return };
        let result = serve_event(&mut *self.device, rings, token, &mut self.watch);
        self.judge(result);
    }

    fn judge(&mut self, result: Result<(), Fault>) {
        match result {
            Ok(()) => {}
            Err(Fault::Host(error)) => panic!("the guest made the host fail: {error}"),
            Err(Fault::Guest { .. } | Fault::Ring { .. }) => {
                self.device.reset(&mut self.watch);
                self.rings = None;
            }
        }
    }
}

/// Remembers what is watched; the script says when it is ready.
#[derive(Debug, Default)]
struct Watched(BTreeMap<u16, RawFd>);

impl Watch for Watched {
    fn add(&mut self, fd: BorrowedFd<'_>, token: u16, _events: EventSet) -> io::Result<()> {
        match self.0.insert(token, fd.as_raw_fd()) {
            None => Ok(()),
            Some(_) => Err(io::ErrorKind::AlreadyExists.into()),
        }
    }

    fn modify(&mut self, _fd: BorrowedFd<'_>, token: u16, _events: EventSet) -> io::Result<()> {
        if self.0.contains_key(&token) { Ok(()) } else { Err(io::ErrorKind::NotFound.into()) }
    }

    fn remove(&mut self, _fd: BorrowedFd<'_>, token: u16) -> io::Result<()> {
        self.0.remove(&token).map(|_| ()).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

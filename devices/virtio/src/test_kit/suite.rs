//! What every device owes every driver, however hostile; each function is one promise.
//!
//! [`contract_suite!`](crate::contract_suite) turns them into tests of one device on one transport.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};

use super::{Buffer, DATA, DriverQueue, Exchange, PATIENCE, Subject, Transport, hostile_chains, ram};
use crate::Ram;

/// Makes the contract's tests for a device: `contract_suite!(make_device)` in process, or
/// `contract_suite!(make_device, over SomeTransport)`. `make_device` is a `fn() -> Subject`. Use it in a module of its
/// own.
#[macro_export]
macro_rules! contract_suite {
    ($make:path) => {
        $crate::contract_suite!($make, over $crate::test_kit::Local);
    };
    ($make:path, over $transport:ty) => {
        $crate::contract_suite!(@tests $make, $transport,
            describes_itself_within_the_rules
            config_reads_past_the_end_are_zeroes
            reset_is_idempotent
            reset_with_work_in_flight_leaves_ram_alone
            second_start_begins_anew
            hostile_chains_come_back_and_the_device_lives
            bad_head_stops_the_device_until_reset
            available_index_jump_stops_the_device_until_reset
            unready_queues_are_left_alone
            every_subset_of_features_works
            event_index_loses_no_interrupt
            stops_in_time_while_the_guest_keeps_a_ring_full);
    };
    (@tests $make:path, $transport:ty, $($promise:ident)+) => {
        $(#[test]
        fn $promise() {
            $crate::test_kit::suite::$promise::<$transport>($make);
        })+
    };
}

const RING_FEATURES: u64 = 1 << VIRTIO_F_VERSION_1 | 1 << VIRTIO_RING_F_INDIRECT_DESC;
/// Feature bits that belong to transports (virtio 1.2, section 2.2).
const RESERVED_FEATURES: u64 = ((1 << 42) - 1) & !((1 << 24) - 1);
const STOP_LIMIT: Duration = Duration::from_millis(100);

/// One device on one transport with a driver for it.
struct Bench<T> {
    transport: T,
    queues: Vec<DriverQueue>,
    answering: Vec<u16>,
    sizes: Vec<u16>,
    features: u64,
    ram: Ram,
    _keep: Box<dyn std::any::Any>,
}

impl<T: Transport> Bench<T> {
    fn new(make: fn() -> Subject) -> Self {
        let ram = ram();
        let Subject { device, answering, keep } = make();
        let (sizes, features) = (device.info().queue_sizes.clone(), device.info().features);
        let transport = T::serve(device, &ram);
        Self { transport, queues: Vec::new(), answering, sizes, features, ram, _keep: keep }
    }

    fn started(make: fn() -> Subject) -> Self {
        let mut bench = Self::new(make);
        bench.start(bench.features | RING_FEATURES);
        bench
    }

    fn lay_out(&mut self) {
        self.queues =
            (0u16..).zip(&self.sizes).map(|(index, size)| DriverQueue::new(&self.ram, index, *size)).collect();
    }

    fn start(&mut self, features: u64) {
        self.lay_out();
        self.transport.start(features, &self.queues);
    }

    fn driver(&mut self, queue: u16) -> (&T, &mut DriverQueue) {
        (&self.transport, self.queues.get_mut(usize::from(queue)).expect("a queue of the device"))
    }

    /// The device still answers on every queue that can.
    fn assert_alive(&mut self) {
        for queue in self.answering.clone() {
            let (transport, driver) = self.driver(queue);
            let head = driver.send(&[Buffer::writable(DATA, 64)]);
            let used = transport.answer(queue, driver);
            assert_eq!(used.head, head);
            assert!(used.length <= 64, "claims {} bytes in a buffer of 64", used.length);
        }
    }

    fn assert_no_faults(&self) {
        assert_eq!(self.transport.faults(), [""; 0]);
    }

    fn assert_faults_then_revives(&mut self) {
        assert!(self.transport.faulted(PATIENCE), "device goes on with a broken ring");
        self.transport.reset();
        self.start(self.features | RING_FEATURES);
        self.assert_alive();
    }
}

/// Label, kind, queue sizes and features are what a transport can work with.
pub fn describes_itself_within_the_rules<T: Transport>(make: fn() -> Subject) {
    let Subject { device, .. } = make();
    let info = device.info();
    assert!(!info.label.is_empty());
    assert_ne!(info.kind, 0);
    assert!((1..=14).contains(&info.queue_sizes.len()), "{} queues", info.queue_sizes.len());
    assert!(info.queue_sizes.iter().all(|size| size.is_power_of_two() && *size <= 1024), "{:?}", info.queue_sizes);
    assert_eq!(info.features & RESERVED_FEATURES, 0, "features of the transport");
}

/// Configuration space can be read anywhere, in any width.
pub fn config_reads_past_the_end_are_zeroes<T: Transport>(make: fn() -> Subject) {
    let Subject { device, keep: _keep, .. } = make();
    let config = device.config();
    for offset in (0..300).chain([4095, u64::from(u32::MAX), u64::MAX - 1, u64::MAX]) {
        for length in [0, 1, 2, 3, 4, 8, 256] {
            config.read(offset, &mut vec![0xaa; length]);
            config.write(offset, &vec![0xaa; length]);
        }
    }
    for offset in [4096, u64::MAX] {
        let mut data = [0xaa; 64];
        config.read(offset, &mut data);
        assert_eq!(data, [0; 64], "at {offset:#x}");
    }
    let mut bench = Bench::<T>::new(make);
    assert_eq!(bench.transport.config(0, 64).len(), 64);
    assert_eq!(bench.transport.config(192, 64), [0; 64]);
}

/// Any number of resets, before and after a start.
pub fn reset_is_idempotent<T: Transport>(make: fn() -> Subject) {
    let mut bench = Bench::<T>::new(make);
    bench.transport.reset();
    bench.transport.reset();
    bench.start(bench.features | RING_FEATURES);
    bench.assert_alive();
    bench.transport.reset();
    bench.transport.reset();
    bench.start(bench.features | RING_FEATURES);
    bench.assert_alive();
    bench.assert_no_faults();
}

/// After a reset nothing is written to the buffers and rings the driver took back.
pub fn reset_with_work_in_flight_leaves_ram_alone<T: Transport>(make: fn() -> Subject) {
    const PATTERN: u8 = 0x5a;
    let mut bench = Bench::<T>::started(make);
    for queue in &mut bench.queues {
        for _ in 0..queue.size() {
            queue.send(&[Buffer::writable(DATA, 4096)]);
        }
    }
    for queue in 0..u16::try_from(bench.queues.len()).expect("few queues") {
        bench.transport.kick(queue);
    }
    bench.transport.reset();
    let rings: Vec<u16> = bench.queues.iter().map(DriverQueue::device_used_index).collect();
    let first = bench.queues.first().expect("a device has queues");
    first.write(DATA, &[PATTERN; 4096]);
    // The second reset is answered after whatever the first may have left running.
    bench.transport.reset();
    let first = bench.queues.first().expect("a device has queues");
    assert_eq!(first.read(DATA, 4096), [PATTERN; 4096]);
    assert_eq!(bench.queues.iter().map(DriverQueue::device_used_index).collect::<Vec<_>>(), rings);
    bench.start(bench.features | RING_FEATURES);
    bench.assert_alive();
}

/// A driver that sets DRIVER_OK twice gets a device that works.
pub fn second_start_begins_anew<T: Transport>(make: fn() -> Subject) {
    let mut bench = Bench::<T>::started(make);
    bench.start(bench.features | RING_FEATURES);
    bench.assert_alive();
}

/// Every bad chain is returned, a malformed one with length 0, and the device answers the next request.
pub fn hostile_chains_come_back_and_the_device_lives<T: Transport>(make: fn() -> Subject) {
    let mut bench = Bench::<T>::started(make);
    for queue in bench.answering.clone() {
        for hostile in hostile_chains() {
            let (transport, driver) = bench.driver(queue);
            let head = hostile.send(driver);
            let used = transport.answer(queue, driver);
            assert_eq!(used.head, head, "{}", hostile.name);
            assert!(!hostile.malformed || used.length == 0, "{}: claims {} bytes", hostile.name, used.length);
            bench.assert_alive();
        }
    }
    bench.assert_no_faults();
}

/// A head past the descriptor table cannot be returned: the device needs a reset, and works after it.
pub fn bad_head_stops_the_device_until_reset<T: Transport>(make: fn() -> Subject) {
    for queue in make().answering {
        let mut bench = Bench::<T>::started(make);
        let (transport, driver) = bench.driver(queue);
        driver.publish(driver.size());
        transport.kick(queue);
        bench.assert_faults_then_revives();
    }
}

/// More requests available than the ring holds: the device needs a reset, and works after it.
pub fn available_index_jump_stops_the_device_until_reset<T: Transport>(make: fn() -> Subject) {
    for queue in make().answering {
        let mut bench = Bench::<T>::started(make);
        let (transport, driver) = bench.driver(queue);
        driver.jump(u16::MAX);
        transport.kick(queue);
        bench.assert_faults_then_revives();
    }
}

/// A driver may use fewer queues than there are, and kick the others all the same.
pub fn unready_queues_are_left_alone<T: Transport>(make: fn() -> Subject) {
    let mut bench = Bench::<T>::new(make);
    for queue in bench.answering.clone() {
        bench.lay_out();
        for (index, other) in (0u16..).zip(&mut bench.queues) {
            other.set_enabled(index == queue);
        }
        bench.transport.start(bench.features | RING_FEATURES, &bench.queues);
        for index in 0..u16::try_from(bench.queues.len()).expect("few queues") {
            bench.transport.kick(index);
        }
        let (transport, driver) = bench.driver(queue);
        transport.exchange(queue, driver, &[Buffer::writable(DATA, 64)]);
        bench.transport.reset();
    }
    bench.assert_no_faults();
}

/// No optional feature is taken for granted: none, each alone, all.
pub fn every_subset_of_features_works<T: Transport>(make: fn() -> Subject) {
    let mut bench = Bench::<T>::new(make);
    let single = (0..64).map(|bit| 1 << bit).filter(|bit| bench.features & bit != 0);
    let subsets: Vec<u64> = [0, bench.features].into_iter().chain(single).collect();
    for subset in subsets {
        bench.start(subset | 1 << VIRTIO_F_VERSION_1);
        bench.assert_alive();
        bench.transport.reset();
    }
}

/// With EVENT_IDX the driver asks for an interrupt after every request and gets it.
pub fn event_index_loses_no_interrupt<T: Transport>(make: fn() -> Subject) {
    let mut bench = Bench::<T>::new(make);
    bench.start(bench.features | RING_FEATURES | 1 << VIRTIO_RING_F_EVENT_IDX);
    for _ in 0..600 {
        bench.assert_alive();
    }
}

/// A guest that refills a ring as fast as it empties cannot keep a device from stopping within 100 ms.
pub fn stops_in_time_while_the_guest_keeps_a_ring_full<T: Transport>(make: fn() -> Subject) {
    // The best of some tries: a busy host delays any thread now and then.
    let stopped_after = (0..5).map(|_| time_to_stop::<T>(make)).find(|time| *time < STOP_LIMIT);
    assert!(stopped_after.is_some(), "never stopped within {STOP_LIMIT:?}");
}

fn time_to_stop<T: Transport>(make: fn() -> Subject) -> Duration {
    let Bench { transport, mut queues, answering, _keep, .. } = Bench::<T>::started(make);
    let queue = *answering.first().expect("a queue that answers");
    let mut driver = queues.swap_remove(usize::from(queue));
    for _ in 0..driver.size() {
        driver.send(&[Buffer::writable(DATA, 4096)]);
    }
    transport.answer(queue, &mut driver);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                while driver.used().is_some() {
                    driver.send(&[Buffer::writable(DATA, 4096)]);
                }
            }
        });
        let begin = Instant::now();
        drop(transport);
        let time = begin.elapsed();
        stop.store(true, Ordering::Relaxed);
        time
    })
}

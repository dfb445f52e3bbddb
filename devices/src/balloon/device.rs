//! The state machine: what each queue is for.

use std::io;
use std::sync::Arc;

use virtio::{ConfigSpace, DeviceInfo, Fault, Ram, RateLimit, Request, Rings, VirtioDevice, Watch};
use virtio_bindings::virtio_ids::VIRTIO_ID_BALLOON;
use vmm_sys_util::epoll::EventSet;

use super::config::BalloonHandle;
use super::pages::release_listed;
use super::statistics::Statistics;

const FEATURE_STATISTICS: u32 = 1;
const FEATURE_DEFLATE_ON_OOM: u32 = 2;
const FEATURE_REPORTING: u32 = 5;

const INFLATE: u16 = 0;
const STATISTICS: u16 = 2;
/// The specification gives page reporting queue 4; drivers that number only the queues they use, as Linux long did,
/// find it here, where free page hints would be if they were offered.
const REPORTING_AS_NUMBERED: u16 = 3;
const REPORTING: u16 = 4;

const QUEUE_SIZE: u16 = 128;

const BELL: u16 = 0;

/// The guest's memory balloon.
#[derive(Debug)]
pub struct Balloon {
    info: DeviceInfo,
    handle: BalloonHandle,
    /// Guest RAM while the device is started.
    ram: Option<Ram>,
    /// The request that waits for the host to ask for statistics.
    question: Option<u16>,
    warnings: RateLimit,
}

impl Balloon {
    /// A balloon without a target: it reports free pages and waits for what the host wants.
    pub fn new() -> io::Result<(Self, BalloonHandle)> {
        let info = DeviceInfo {
            kind: VIRTIO_ID_BALLOON,
            label: "balloon".into(),
            queue_sizes: vec![QUEUE_SIZE; 5],
            features: 1 << FEATURE_STATISTICS | 1 << FEATURE_DEFLATE_ON_OOM | 1 << FEATURE_REPORTING,
        };
        let handle = BalloonHandle::new()?;
        let balloon = Self { info, handle: handle.clone(), ram: None, question: None, warnings: RateLimit::default() };
        Ok((balloon, handle))
    }

    fn inflate(&mut self, request: &Request) {
        let result = self.ram.as_ref().map_or(Ok(0), |ram| release_listed(ram, &mut request.reader()));
        self.note(result);
    }

    /// The guest names free memory by buffers that lie in it; it uses them again only when they are returned.
    fn report(&mut self, request: &Request) {
        let result = self.ram.as_ref().map_or(Ok(0), |ram| {
            request.writable_ranges().try_fold(0, |sum, (start, len)| Ok(sum + virtio::release(ram, start, len)?))
        });
        self.note(result);
    }

    /// Memory that cannot be released stays where it is: the guest works, the host only saves less.
    fn note(&mut self, released: io::Result<u64>) {
        match released {
            Ok(bytes) => tracing::trace!(bytes, "Guest memory released"),
            Err(error) if self.warnings.allow() => tracing::warn!(%error, "Guest memory cannot be released"),
            Err(_) => {}
        }
    }

    /// Keeps the newest answer's buffer: returning it is how the host asks again.
    fn hear_statistics(&mut self, request: &Request, rings: &mut dyn Rings) -> Result<(), Fault> {
        if let Ok(statistics) = Statistics::parse(&mut request.reader()) {
            self.handle.set_statistics(statistics);
        }
        match self.question.replace(request.head()) {
            Some(earlier) => rings.finish(STATISTICS, earlier, 0),
            None => Ok(()),
        }
    }

    fn ask_for_statistics(&mut self, rings: &mut dyn Rings) -> Result<(), Fault> {
        match self.question.take() {
            Some(head) => rings.finish(STATISTICS, head, 0),
            None => Ok(()),
        }
    }
}

impl VirtioDevice for Balloon {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn config(&self) -> Arc<dyn ConfigSpace> {
        self.handle.space()
    }

    fn start(&mut self, _features: u64, ram: &Ram, watch: &mut dyn Watch) -> Result<(), Fault> {
        self.ram = Some(ram.clone());
        Ok(watch.add(self.handle.bell(), BELL, EventSet::IN)?)
    }

    fn on_queue(&mut self, queue: u16, rings: &mut dyn Rings, _watch: &mut dyn Watch) -> Result<(), Fault> {
        while let Some(request) = rings.pop(queue)? {
            match queue {
                INFLATE => self.inflate(&request),
                STATISTICS => {
                    self.hear_statistics(&request, rings)?;
                    continue;
                }
                REPORTING_AS_NUMBERED | REPORTING => self.report(&request),
                // Deflating: pages the guest takes back fill with zeroes when it touches them.
                _ => {}
            }
            rings.finish(queue, request.head(), 0)?;
        }
        Ok(())
    }

    fn on_event(&mut self, _token: u16, rings: &mut dyn Rings, _watch: &mut dyn Watch) -> Result<(), Fault> {
        self.handle.silence();
        rings.config_changed();
        if self.handle.take_question() { self.ask_for_statistics(rings) } else { Ok(()) }
    }

    fn reset(&mut self, watch: &mut dyn Watch) {
        (self.ram, self.question) = (None, None);
        self.handle.forget_driver();
        // Not watched before the first start.
        let _ = watch.remove(self.handle.bell(), BELL);
    }
}

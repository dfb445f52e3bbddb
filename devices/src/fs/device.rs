//! The device around the server: takes requests from the queues, serves the quick ones and hands on the slow.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Instant;

use rustix::io::Errno;
use virtio::{ConfigSpace, DeviceInfo, Fault, Ram, Request, Rings, Subtree, VirtioDevice, Watch};
use virtio_bindings::virtio_ids::VIRTIO_ID_FS;
use vmm_sys_util::epoll::EventSet;

use super::linger::Linger;
use super::notifier::Notifier;
use super::outbox::{self, Outbox};
use super::pool::{Lane, Pool};
use super::report::Monitor;
use super::server::{Server, Treatment};
use super::share::{OwnerSeen, Share};
use super::watch::{self, Pace};

/// The name under which the guest mounts the device.
pub const TAG: &str = "vmm-shares";

/// Bytes of `virtio_fs_config.tag`.
const TAG_LEN: usize = 36;
/// More of them than any guest has CPUs to go with would only be memory.
const MAX_REQUEST_QUEUES: u16 = 64;
/// The queue of requests that nobody waits for, or that are about others.
const URGENT: u16 = 0;
/// The event that requests were served elsewhere.
const SERVED: u16 = 0;
/// 256 pages of payload, as many as INIT grants, need a descriptor each.
const QUEUE_SIZE: u16 = 1024;

/// A virtio-fs device (virtio 1.2, section 5.11) that exports any number of shares.
///
/// Its root is a directory that cannot be written; the shares are its entries `0`, `1`, ... in the order given.
#[derive(Debug)]
pub struct Fs {
    info: DeviceInfo,
    server: Arc<Server>,
    pool: Pool,
    outbox: Outbox,
    pace: Pace,
    linger: Linger,
}

impl Fs {
    /// A device for these shares; fails when one of them is neither a directory nor a regular file.
    pub fn new(shares: Vec<Share>) -> io::Result<Self> {
        Self::among(shares, &watch::WATCHERS)
    }

    /// The same, with one of these `watchers`.
    pub(super) fn among(shares: Vec<Share>, watchers: &'static AtomicUsize) -> io::Result<Self> {
        let info = DeviceInfo {
            kind: VIRTIO_ID_FS,
            label: "fs".to_owned(),
            // The first queue is for urgent requests.
            queue_sizes: vec![QUEUE_SIZE; 2],
            features: 0,
        };
        let server = Arc::new(Server::new(shares, watchers)?);
        let pool = Pool::new(server.clone())?;
        Ok(Self { info, server, pool, outbox: Outbox::new()?, pace: Pace::new()?, linger: Linger::new() })
    }

    /// Serves a request or hands it on.
    fn take(&mut self, queue: u16, request: Request, rings: &mut dyn Rings) -> Result<(), Fault> {
        match self.server.treatment(&request) {
            Treatment::Quick => rings.finish(queue, request.head(), self.server.serve(&request))?,
            Treatment::Slow(lane, number) => {
                let served = if lane == Lane::Local { self.server.serve_from_memory(&request) } else { None };
                if let Some(written) = served {
                    return rings.finish(queue, request.head(), written);
                }
                self.server.count_handed_over();
                self.pool.push(lane, number, queue, request)?;
            }
            Treatment::CallOff(number) => {
                rings.finish(queue, request.head(), 0)?;
                if let Some((queue, request)) = self.pool.call_off(number) {
                    rings.finish(queue, request.head(), Server::refuse(&request, Errno::INTR))?;
                }
            }
        }
        Ok(())
    }

    fn on_stream(&mut self, token: u16, watch: &mut dyn Watch) -> io::Result<()> {
        self.outbox.on_event(token, watch)?;
        self.server.watcher().set_heard(self.outbox.is_connected());
        Ok(())
    }

    fn on_change(&mut self, token: u16, watch: &mut dyn Watch) -> io::Result<()> {
        let Some(bell) = self.server.watcher().bell() else { return Ok(()) };
        self.pace.on_event(token, bell, watch)?;
        if token == watch::CHANGED {
            self.outbox.send(&self.server.take_changes(), watch)?;
            self.server.watcher().set_heard(self.outbox.is_connected());
        }
        Ok(())
    }

    /// How to have the guest told of changes made on the host.
    pub fn notifier(&self) -> Notifier {
        self.outbox.notifier()
    }

    /// Gives the guest so many queues for requests, one unless told otherwise and 64 at most. Linux deals its CPUs out
    /// to them evenly. It is one thread that takes requests from all of them, so that they gain nothing but less
    /// waiting for each other in the guest: with two emulated CPUs, two queues were no faster than one at anything that
    /// was measured.
    #[must_use]
    pub fn with_request_queues(mut self, count: u16) -> Self {
        let count = count.clamp(1, MAX_REQUEST_QUEUES);
        self.info.queue_sizes = vec![QUEUE_SIZE; usize::from(count) + 1];
        self
    }

    /// Tells the guest when files were born (STATX), which is not done unless asked for: it is the one thing that the
    /// guest's kernel does not learn when it looks up a name, and programs that ask for whatever there is, as all in
    /// Rust and for Node.js do, would cost a second request for every file they look at.
    #[must_use]
    pub fn with_birth_times(self) -> Self {
        self.server.tell_birth_times();
        self
    }

    /// Tells what the server has in force, now and once the device runs.
    pub fn monitor(&self) -> Monitor {
        Monitor::new(&self.server)
    }

    /// Says whose the shares' files are in the guest, also once the device runs.
    pub fn owner_seen(&self) -> OwnerSeen {
        OwnerSeen::new(&self.server)
    }

    /// How many queues for requests there are.
    fn request_queues(&self) -> u32 {
        u32::try_from(self.info.queue_sizes.len() - 1).unwrap_or(u32::MAX)
    }
}

impl VirtioDevice for Fs {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn config(&self) -> Arc<dyn ConfigSpace> {
        Arc::new(Space { request_queues: self.request_queues() })
    }

    fn subtrees(&self) -> io::Result<Vec<Subtree>> {
        self.server.subtrees()
    }

    fn start(&mut self, _features: u64, _ram: &Ram, watch: &mut dyn Watch) -> Result<(), Fault> {
        watch.add(self.pool.bell(), SERVED, EventSet::IN)?;
        self.outbox.start(watch)?;
        if let Some(bell) = self.server.watcher().bell() {
            self.pace.start(bell, watch)?;
        }
        Ok(())
    }

    fn on_queue(&mut self, queue: u16, rings: &mut dyn Rings, watch: &mut dyn Watch) -> Result<(), Fault> {
        let (found, mut is_served) = (Instant::now(), false);
        while let Some(request) = rings.pop_quietly(queue)? {
            self.take(queue, request, rings)?;
            is_served = true;
        }
        let now = Instant::now();
        if is_served && queue != URGENT {
            self.linger.served(found, now);
        }
        if queue != URGENT && self.linger.goes_on(now) {
            // The driver has not been asked for kicks: it need not give any until this ends.
            rings.call_again(queue);
        } else {
            while let Some(request) = rings.pop(queue)? {
                self.take(queue, request, rings)?;
            }
        }
        if let Some(notice) = self.server.sweep() {
            self.outbox.send(&[notice], watch)?;
        }
        Ok(())
    }

    fn on_event(&mut self, token: u16, rings: &mut dyn Rings, watch: &mut dyn Watch) -> Result<(), Fault> {
        match token {
            outbox::CONNECTED | outbox::STREAM => return Ok(self.on_stream(token, watch)?),
            watch::CHANGED | watch::RESTED => return Ok(self.on_change(token, watch)?),
            _ => {}
        }
        for done in self.pool.take_done() {
            rings.finish(done.queue, done.head, done.written?)?;
        }
        Ok(())
    }

    fn reset(&mut self, watch: &mut dyn Watch) {
        // Fails when it is not watched.
        let _ = watch.remove(self.pool.bell(), SERVED);
        self.outbox.reset(watch);
        self.server.watcher().set_heard(false);
        if let Some(bell) = self.server.watcher().bell() {
            self.pace.reset(bell, watch);
        }
        self.pool.clear();
        self.server.reset();
    }
}

/// `struct virtio_fs_config` without the notification queue's field.
#[derive(Debug)]
struct Space {
    request_queues: u32,
}

impl ConfigSpace for Space {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let tag = TAG.bytes().chain(std::iter::repeat(0)).take(TAG_LEN);
        let bytes = tag.chain(self.request_queues.to_le_bytes()).chain(std::iter::repeat(0));
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(TAG_LEN + size_of::<u32>());
        data.iter_mut().zip(bytes.skip(start)).for_each(|(to, from)| *to = from);
    }
}

#[cfg(test)]
mod tests {
    use rustix::fs::{MemfdFlags, memfd_create};
    use virtio::test_kit::Subject;

    use super::*;
    use crate::fs::{Access, Ownership};

    fn exporting_a_directory() -> Subject {
        let directory = tempfile::tempdir().unwrap();
        let share = Share::open(directory.path(), Access::ReadWrite).unwrap();
        Subject::new(Fs::new(vec![share]).unwrap(), &[0, 1]).keeping(directory)
    }

    mod contract {
        virtio::contract_suite!(super::exporting_a_directory);
    }

    #[test]
    fn config_tells_tag_and_number_of_queues() {
        let mut bytes = [0xff; 44];
        let space = Space { request_queues: 1 };
        space.read(0, &mut bytes);
        assert_eq!(bytes[..12], *b"vmm-shares\0\0");
        assert_eq!(bytes[12..], [&[0; 24][..], &[1, 0, 0, 0], &[0; 4]].concat());
        let mut queues = [0xff; 4];
        space.read(36, &mut queues);
        assert_eq!(queues, [1, 0, 0, 0]);
    }

    #[test]
    fn there_are_as_many_request_queues_as_asked_for_within_reason() {
        for (asked, given) in [(0, 1), (1, 1), (4, 4), (u16::MAX, 64)] {
            let device = Fs::new(Vec::new()).unwrap().with_request_queues(asked);
            let mut queues = [0xff; 4];
            device.config().read(36, &mut queues);
            assert_eq!(u32::from_le_bytes(queues), given);
            assert_eq!(device.info().queue_sizes, vec![1024; usize::try_from(given).unwrap() + 1]);
        }
    }

    #[test]
    fn only_directories_and_regular_files_are_shared() {
        let share = |root| {
            let ownership = Ownership::of_this_process();
            vec![Share { root, access: Access::ReadOnly, ownership, guarded: Vec::new() }]
        };
        assert!(Fs::new(share(memfd_create("file", MemfdFlags::CLOEXEC).unwrap())).is_ok());
        let device = Share::open(std::path::Path::new("/dev/null"), Access::ReadOnly).unwrap();
        assert!(Fs::new(vec![device]).is_err());
    }
}

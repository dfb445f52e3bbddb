//! The device around the server: takes requests from the queues, serves the quick ones and hands on the slow.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use virtio::{ConfigSpace, DeviceInfo, Fault, Ram, Rings, Subtree, VirtioDevice, Watch};
use virtio_bindings::virtio_ids::VIRTIO_ID_FS;
use vmm_sys_util::epoll::EventSet;

use super::notifier::Notifier;
use super::outbox::{self, Outbox};
use super::pool::Pool;
use super::server::Server;
use super::share::Share;
use super::watch::{self, Pace};

/// The name under which the guest mounts the device.
pub const TAG: &str = "vmm-shares";

/// Bytes of `virtio_fs_config.tag`.
const TAG_LEN: usize = 36;
const REQUEST_QUEUES: u32 = 1;
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
        Ok(Self { info, server, pool, outbox: Outbox::new()?, pace: Pace::new()? })
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
}

impl VirtioDevice for Fs {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn config(&self) -> Arc<dyn ConfigSpace> {
        Arc::new(Space)
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
        while let Some(request) = rings.pop(queue)? {
            match self.server.lane(&request) {
                Some(lane) => self.pool.push(lane, queue, request)?,
                None => rings.finish(queue, request.head(), self.server.serve(&request))?,
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
struct Space;

impl ConfigSpace for Space {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let tag = TAG.bytes().chain(std::iter::repeat(0)).take(TAG_LEN);
        let bytes = tag.chain(REQUEST_QUEUES.to_le_bytes()).chain(std::iter::repeat(0));
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
        Space.read(0, &mut bytes);
        assert_eq!(bytes[..12], *b"vmm-shares\0\0");
        assert_eq!(bytes[12..], [&[0; 24][..], &[1, 0, 0, 0], &[0; 4]].concat());
        let mut queues = [0xff; 4];
        Space.read(36, &mut queues);
        assert_eq!(queues, [1, 0, 0, 0]);
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

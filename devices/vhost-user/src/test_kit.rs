//! A monitor in a box: the contract suite's driver on a real vhost-user connection.

use std::collections::BTreeMap;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use vhost::vhost_user::message::{
    VhostUserConfigFlags, VhostUserHeaderFlag, VhostUserProtocolFeatures, VhostUserVirtioFeatures,
};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use virtio::test_kit::{DriverQueue, FaultRecorder, Transport, ready_within};
use virtio::{Ram, VirtioDevice};
use vm_memory::{GuestAddressSpace, GuestMemoryBackend, GuestMemoryRegion};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::Server;

/// The made-up monitor's address of guest-physical address 0.
const MONITOR_BASE: u64 = 0x7000_0000_0000;

/// A device behind a vhost-user connection.
pub struct Socket {
    // Dropped first, as a monitor that goes away would.
    pub(crate) frontend: Frontend,
    pub(crate) server: Server,
    faults: Arc<FaultRecorder>,
    ram: Ram,
    lines: BTreeMap<u16, Lines>,
    has_config: bool,
}

/// A started ring's descriptors.
struct Lines {
    kick: EventFd,
    call: EventFd,
    error: EventFd,
}

impl std::fmt::Debug for Socket {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Socket").field("server", &self.server).finish_non_exhaustive()
    }
}

fn eventfd() -> EventFd {
    EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK).expect("an eventfd")
}

impl Socket {
    /// The protocol's own messages, for tests that leave the beaten path.
    pub fn frontend(&mut self) -> &mut Frontend {
        &mut self.frontend
    }

    /// The eventfd by which the device reports a broken ring to the monitor.
    pub fn error_line(&self, queue: u16) -> &EventFd {
        &self.lines.get(&queue).expect("a started queue").error
    }

    /// Passes the memory table.
    pub fn share_memory(&self) {
        let ram = self.ram.memory();
        let regions: Vec<_> = ram
            .iter()
            .map(|region| {
                let file = region.file_offset().expect("RAM on a memfd");
                VhostUserMemoryRegionInfo {
                    guest_phys_addr: region.start_addr().0,
                    memory_size: region.len(),
                    userspace_addr: MONITOR_BASE + region.start_addr().0,
                    mmap_offset: file.start(),
                    mmap_handle: file.file().as_raw_fd(),
                }
            })
            .collect();
        self.frontend.set_mem_table(&regions).expect("memory is taken");
    }

    fn start_ring(&mut self, index: u16, driver: &DriverQueue) {
        let queue = usize::from(index);
        let [table, avail, used] = driver.addresses().map(|address| MONITOR_BASE + address);
        let config = VringConfigData {
            queue_max_size: driver.size(),
            queue_size: driver.size(),
            flags: 0,
            desc_table_addr: table,
            used_ring_addr: used,
            avail_ring_addr: avail,
            log_addr: None,
        };
        let lines = Lines { kick: eventfd(), call: eventfd(), error: eventfd() };
        self.frontend.set_vring_num(queue, driver.size()).expect("size is taken");
        self.frontend.set_vring_base(queue, 0).expect("position is taken");
        self.frontend.set_vring_addr(queue, &config).expect("addresses are taken");
        self.frontend.set_vring_err(queue, &lines.error).expect("descriptor is taken");
        self.frontend.set_vring_call(queue, &lines.call).expect("descriptor is taken");
        self.frontend.set_vring_kick(queue, &lines.kick).expect("descriptor is taken");
        self.frontend.set_vring_enable(queue, true).expect("ring is enabled");
        self.lines.insert(index, lines);
    }
}

impl Transport for Socket {
    fn serve(device: Box<dyn VirtioDevice>, ram: &Ram) -> Self {
        let queues = device.info().queue_sizes.len();
        let faults = Arc::new(FaultRecorder::default());
        let (server, end) = Server::start(device, faults.clone()).expect("threads");
        let mut frontend = Frontend::from_stream(UnixStream::from(end), u64::try_from(queues).expect("few queues"));
        frontend.set_owner().expect("a session");
        frontend.get_features().expect("features");
        let protocol = frontend.get_protocol_features().expect("protocol features");
        frontend.set_protocol_features(protocol).expect("protocol features");
        // Every message is confirmed before the next, so that a test sees which one is refused.
        frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
        let has_config = protocol.contains(VhostUserProtocolFeatures::CONFIG);
        let socket = Self { frontend, server, faults, ram: ram.clone(), lines: BTreeMap::new(), has_config };
        socket.share_memory();
        socket
    }

    fn start(&mut self, features: u64, queues: &[DriverQueue]) {
        let features = features | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
        self.frontend.set_features(features).expect("features are taken");
        for (index, driver) in (0u16..).zip(queues).filter(|(_, driver)| driver.is_enabled()) {
            self.start_ring(index, driver);
        }
    }

    fn kick(&self, queue: u16) {
        // A queue the driver left out has no descriptor to kick.
        if let Some(lines) = self.lines.get(&queue) {
            lines.kick.write(1).expect("an eventfd takes a count");
        }
    }

    fn reset(&mut self) {
        for queue in std::mem::take(&mut self.lines).into_keys() {
            self.frontend.get_vring_base(queue.into()).expect("ring stops");
        }
    }

    fn config(&mut self, offset: u32, length: u32) -> Vec<u8> {
        let buffer = vec![0; usize::try_from(length).expect("64-bit host")];
        if !self.has_config {
            return buffer;
        }
        // This answer is a reply of its own.
        self.frontend.set_hdr_flags(VhostUserHeaderFlag::empty());
        let answer = self.frontend.get_config(offset, length, VhostUserConfigFlags::empty(), &buffer);
        self.frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
        answer.expect("configuration space is read").1
    }

    fn interrupted(&self, queue: u16, patience: Duration) -> bool {
        let call = &self.lines.get(&queue).expect("a started queue").call;
        let interrupted = ready_within(call, patience);
        if interrupted {
            call.read().expect("it was ready");
        }
        interrupted
    }

    fn faulted(&self, patience: Duration) -> bool {
        ready_within(self.faults.bell(), patience)
    }

    fn faults(&self) -> Vec<String> {
        self.faults.texts()
    }
}

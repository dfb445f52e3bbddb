//! What the monitor told about one ring so far.

use std::io;
use std::sync::atomic::Ordering;

use virtio_queue::{Queue, QueueT};
use vm_memory::{GuestAddress, GuestAddressSpace};
use vmm_sys_util::eventfd::EventFd;

use crate::memory::Memory;

/// The longest ring a monitor may set up. It is the monitor that tells the guest how long rings may be, not the device:
/// behind QEMU's MMIO transport the guest is offered this length for every ring.
const MAX_SIZE: u16 = 1024;

/// A ring between its set-up messages; [`Ring::queue`] makes the real thing when it starts.
#[derive(Debug)]
pub(crate) struct Ring {
    size: u16,
    /// Descriptor table, available ring, used ring, in the monitor's addresses.
    addresses: Option<[u64; 3]>,
    /// Position in the available ring to go on from.
    pub(crate) base: u16,
    pub(crate) kick: Option<EventFd>,
    pub(crate) enabled: bool,
    /// The worker serves it.
    pub(crate) running: bool,
}

impl Ring {
    /// A ring as long as its device suggests, until the monitor says otherwise.
    pub(crate) fn new(size: u16) -> Self {
        Self { size, addresses: None, base: 0, kick: None, enabled: false, running: false }
    }

    pub(crate) fn set_size(&mut self, size: u32) -> io::Result<()> {
        let size = u16::try_from(size).map_err(|_| invalid("ring size"))?;
        if size > MAX_SIZE || !size.is_power_of_two() {
            return Err(invalid("ring size"));
        }
        self.size = size;
        Ok(())
    }

    pub(crate) fn set_addresses(&mut self, addresses: [u64; 3]) {
        self.addresses = Some(addresses);
    }

    /// Whether everything a ring needs to be served was said.
    pub(crate) fn is_complete(&self) -> bool {
        self.enabled && self.kick.is_some() && self.addresses.is_some()
    }

    /// The ring in guest-physical addresses, ready to be served.
    pub(crate) fn queue(&self, memory: &Memory, event_idx: bool) -> io::Result<Queue> {
        let addresses = self.addresses.ok_or_else(|| invalid("ring without addresses"))?;
        let mut queue = Queue::new(MAX_SIZE).map_err(io::Error::other)?;
        queue.try_set_size(self.size).map_err(io::Error::other)?;
        let [table, avail, used] = addresses.map(|address| memory.translate(address));
        let outside = || invalid("ring outside guest RAM");
        let address = |translated: Option<u64>| translated.map(GuestAddress).ok_or_else(outside);
        queue.try_set_desc_table_address(address(table)?).map_err(io::Error::other)?;
        queue.try_set_avail_ring_address(address(avail)?).map_err(io::Error::other)?;
        queue.try_set_used_ring_address(address(used)?).map_err(io::Error::other)?;
        queue.set_event_idx(event_idx);
        queue.set_next_avail(self.base);
        queue.set_ready(true);
        let ram = memory.ram().memory();
        if !queue.is_valid(&*ram) {
            return Err(outside());
        }
        // The monitor passes the position in the available ring only. The used ring's is where the guest saw it last.
        let used_index = queue.used_idx(&*ram, Ordering::Acquire).map_err(io::Error::other)?;
        queue.set_next_used(used_index.0);
        Ok(queue)
    }
}

pub(crate) fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, what)
}

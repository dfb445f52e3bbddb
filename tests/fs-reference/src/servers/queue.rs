//! The device's side of a queue, for servers that are built on an older set of crates than ours.
//!
//! They map the same memory once more with their own types; what they read and write is what the driver wrote and
//! reads.

use std::sync::Arc;

use old_virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueT};
use old_vm_memory::bitmap::{Bitmap, NewBitmap};
use old_vm_memory::{FileOffset, GuestAddress, GuestMemoryMmap};
use virtio::Ram;
use virtio::test_kit::DriverQueue;
use vm_memory::{Address, GuestAddressSpace, GuestMemoryBackend, GuestMemoryRegion};

/// Guest memory as the other servers have it.
pub type Memory<B> = Arc<GuestMemoryMmap<B>>;

/// The queue of requests.
pub struct Requests<B> {
    queue: Queue,
    memory: Memory<B>,
}

impl<B: Bitmap + NewBitmap + 'static> Requests<B> {
    /// The other side of the driver's queue in this memory.
    pub fn new(ram: &Ram, driver: &DriverQueue) -> Self {
        let mut queue = Queue::new(driver.size()).expect("a size that a queue can have");
        let [table, avail, used] = driver.addresses().map(|address| u32::try_from(address).expect("below 4 GiB"));
        queue.set_desc_table_address(Some(table), Some(0));
        queue.set_avail_ring_address(Some(avail), Some(0));
        queue.set_used_ring_address(Some(used), Some(0));
        queue.set_ready(true);
        let ram = ram.memory();
        let ranges: Vec<_> = ram
            .iter()
            .map(|region| {
                let offset = region.file_offset().expect("memory on a memfd");
                let file = FileOffset::from_arc(offset.arc().clone(), offset.start());
                let length = usize::try_from(region.len()).expect("a host of 64 bits");
                (GuestAddress(region.start_addr().raw_value()), length, Some(file))
            })
            .collect();
        let memory = GuestMemoryMmap::from_ranges_with_files(ranges).expect("the memory maps once more");
        Self { queue, memory: Arc::new(memory) }
    }

    /// Serves all requests that are there; `serve` returns the number of bytes it wrote.
    pub fn serve(&mut self, serve: impl Fn(&GuestMemoryMmap<B>, DescriptorChain<Memory<B>>) -> usize) {
        let memory = self.memory.clone();
        while let Some(chain) = self.queue.iter(memory.clone()).expect("a ring in memory").next() {
            let head = chain.head_index();
            let written = u32::try_from(serve(&memory, chain)).expect("less than 4 GiB");
            self.queue.add_used(&*memory, head, written).expect("a ring in memory");
        }
    }
}

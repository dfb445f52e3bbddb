//! The driver's side of one split virtqueue (virtio 1.2, section 2.7), with no manners enforced.

use std::collections::BTreeMap;
use std::sync::atomic::{Ordering, fence};

use virtio_queue::{Queue, QueueT};
use vm_memory::{ByteValued, Bytes, GuestAddress, GuestAddressSpace};

use crate::Ram;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// Bytes of guest RAM set aside for one queue.
const WINDOW: u64 = 0x1_0000;
const AVAIL: u64 = 0x4000;
const USED: u64 = 0x6000;
const INDIRECT_TABLE: u64 = 0xa000;

/// One descriptor as it lies in guest RAM (section 2.7.5).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Descriptor {
    /// Guest-physical address of the buffer.
    pub address: u64,
    /// Its length in bytes.
    pub length: u32,
    /// NEXT, WRITE, INDIRECT.
    pub flags: u16,
    /// Index of the next descriptor, with NEXT.
    pub next: u16,
}

// SAFETY: plain integers without padding (8 + 4 + 2 + 2 bytes); every bit pattern is valid.
unsafe impl ByteValued for Descriptor {}

/// A buffer an honest chain is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Buffer {
    address: u64,
    length: u32,
    writable: bool,
}

impl Buffer {
    /// Bytes for the device to read.
    pub fn readable(address: u64, length: u32) -> Self {
        Self { address, length, writable: false }
    }

    /// Room for the device to write.
    pub fn writable(address: u64, length: u32) -> Self {
        Self { address, length, writable: true }
    }

    fn flags(self) -> u16 {
        if self.writable { WRITE } else { 0 }
    }
}

/// A request the device returned (section 2.7.8).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Used {
    /// First descriptor of its chain.
    pub head: u16,
    /// Bytes the device says it wrote.
    pub length: u32,
}

/// The driver's view of one queue.
#[derive(Debug)]
pub struct DriverQueue {
    ram: Ram,
    base: u64,
    size: u16,
    enabled: bool,
    free: Vec<u16>,
    /// Descriptors of every chain in flight, by head.
    in_flight: BTreeMap<u16, Vec<u16>>,
    avail_index: u16,
    used_index: u16,
}

impl DriverQueue {
    /// Lays the queue with that index out in its own window of `ram`, empty.
    pub fn new(ram: &Ram, index: u16, size: u16) -> Self {
        let base = WINDOW * (u64::from(index) + 1);
        let queue = Self {
            ram: ram.clone(),
            base,
            size,
            enabled: true,
            free: (0..size).rev().collect(),
            in_flight: BTreeMap::new(),
            avail_index: 0,
            used_index: 0,
        };
        queue.write(base, &[0; 0x1_0000]);
        queue
    }

    /// Guest-physical addresses of descriptor table, available ring and used ring.
    pub fn addresses(&self) -> [u64; 3] {
        [self.base, self.base + AVAIL, self.base + USED]
    }

    /// Whether the driver sets this queue up at all.
    pub fn set_enabled(&mut self, enabled: bool) {
        self.enabled = enabled;
    }

    /// Whether the driver sets this queue up at all.
    pub fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// Descriptors in the table.
    pub fn size(&self) -> u16 {
        self.size
    }

    /// The device's side of the same queue, set up and ready.
    pub fn device_side(&self, event_idx: bool) -> Queue {
        let mut queue = Queue::new(self.size).expect("size is a power of two");
        let [table, avail, used] = self.addresses().map(|address| u32::try_from(address).expect("below 4 GiB"));
        queue.set_desc_table_address(Some(table), Some(0));
        queue.set_avail_ring_address(Some(avail), Some(0));
        queue.set_used_ring_address(Some(used), Some(0));
        queue.set_event_idx(event_idx);
        queue.set_ready(self.enabled);
        queue
    }

    /// Makes an honest chain of `buffers` available and returns its head.
    pub fn send(&mut self, buffers: &[Buffer]) -> u16 {
        let indices: Vec<u16> = buffers.iter().map(|_| self.take_descriptor()).collect();
        for (position, (buffer, index)) in buffers.iter().zip(&indices).enumerate() {
            let next = indices.get(position + 1);
            let descriptor = Descriptor {
                address: buffer.address,
                length: buffer.length,
                flags: buffer.flags() | if next.is_some() { NEXT } else { 0 },
                next: next.copied().unwrap_or(0),
            };
            self.place(*index, descriptor);
        }
        self.make_available(indices)
    }

    /// Makes an honest chain available through an indirect table and returns its head.
    pub fn send_indirect(&mut self, buffers: &[Buffer]) -> u16 {
        let count = u16::try_from(buffers.len()).expect("short chain");
        let table: Vec<Descriptor> = (1..=count)
            .zip(buffers)
            .map(|(next, buffer)| Descriptor {
                address: buffer.address,
                length: buffer.length,
                flags: buffer.flags() | if next < count { NEXT } else { 0 },
                next,
            })
            .collect();
        self.send_table(&table)
    }

    /// Makes one descriptor available that points to `table`, whatever is in it.
    pub fn send_table(&mut self, table: &[Descriptor]) -> u16 {
        let address = self.base + INDIRECT_TABLE;
        let bytes: Vec<u8> = table.iter().flat_map(|descriptor| descriptor.as_slice().to_vec()).collect();
        self.write(address, &bytes);
        let length = u32::try_from(bytes.len()).expect("short table");
        self.send_raw(&[Descriptor { address, length, flags: INDIRECT, next: 0 }])
    }

    /// Makes a chain available whose descriptors are written as they are, except that `next` counts from the chain's
    /// first descriptor when there is such a one (and is taken literally when there is not).
    pub fn send_raw(&mut self, chain: &[Descriptor]) -> u16 {
        let indices: Vec<u16> = chain.iter().map(|_| self.take_descriptor()).collect();
        for (descriptor, index) in chain.iter().zip(&indices) {
            let next = indices.get(usize::from(descriptor.next)).copied().unwrap_or(descriptor.next);
            self.place(*index, Descriptor { next, ..*descriptor });
        }
        self.make_available(indices)
    }

    /// Puts any head into the available ring.
    pub fn publish(&mut self, head: u16) {
        let slot = self.base + AVAIL + 4 + 2 * u64::from(self.avail_index % self.size);
        self.write(slot, &head.to_le_bytes());
        self.jump(1);
    }

    /// Moves the available index by any distance.
    pub fn jump(&mut self, distance: u16) {
        self.avail_index = self.avail_index.wrapping_add(distance);
        fence(Ordering::SeqCst);
        let address = GuestAddress(self.base + AVAIL + 2);
        self.ram.memory().store(self.avail_index.to_le(), address, Ordering::Release).expect("ring is in RAM");
        fence(Ordering::SeqCst);
    }

    /// Takes the next returned request, if there is one.
    ///
    /// # Panics
    /// When what the device returned is no head at all.
    pub fn used(&mut self) -> Option<Used> {
        self.poll_used().map(|used| used.expect("heads are below 32768"))
    }

    /// Takes the next entry of a used ring that the driver itself may have scribbled over.
    pub fn poll_used(&mut self) -> Option<Option<Used>> {
        if self.device_used_index() == self.used_index {
            return None;
        }
        let slot = self.base + USED + 4 + 8 * u64::from(self.used_index % self.size);
        let [head, length]: [u32; 2] = self.ram.memory().read_obj(GuestAddress(slot)).expect("ring is in RAM");
        self.used_index = self.used_index.wrapping_add(1);
        // With EVENT_IDX: interrupt me for the next one (section 2.7.7).
        let used_event = self.base + AVAIL + 4 + 2 * u64::from(self.size);
        self.write(used_event, &self.used_index.to_le_bytes());
        fence(Ordering::SeqCst);
        let Ok(head) = u16::try_from(u32::from_le(head)) else { return Some(None) };
        self.free.extend(self.in_flight.remove(&head).unwrap_or_default());
        Some(Some(Used { head, length: u32::from_le(length) }))
    }

    /// The used index as the device last wrote it.
    pub fn device_used_index(&self) -> u16 {
        let address = GuestAddress(self.base + USED + 2);
        u16::from_le(self.ram.memory().load(address, Ordering::Acquire).expect("ring is in RAM"))
    }

    /// Descriptors that are in no chain.
    pub fn free_descriptors(&self) -> usize {
        self.free.len()
    }

    /// The descriptor that the next chain begins with.
    ///
    /// # Panics
    /// When all are in use.
    pub fn next_free(&self) -> u16 {
        *self.free.last().expect("a free descriptor")
    }

    /// Writes guest memory.
    pub fn write(&self, address: u64, bytes: &[u8]) {
        self.ram.memory().write_slice(bytes, GuestAddress(address)).expect("address is in RAM");
    }

    /// Reads guest memory.
    pub fn read(&self, address: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.ram.memory().read_slice(&mut bytes, GuestAddress(address)).expect("address is in RAM");
        bytes
    }

    fn take_descriptor(&mut self) -> u16 {
        self.free.pop().expect("a free descriptor")
    }

    fn place(&self, index: u16, descriptor: Descriptor) {
        self.write(self.base + 16 * u64::from(index), descriptor.as_slice());
    }

    fn make_available(&mut self, indices: Vec<u16>) -> u16 {
        let head = *indices.first().expect("a chain has descriptors");
        self.in_flight.insert(head, indices);
        self.publish(head);
        head
    }
}

//! One request taken from a virtqueue, checked once and for all.
//!
//! [`Request::parse`] walks the descriptor chain a single time and resolves every descriptor to host memory, so nothing
//! the guest changes in the ring afterwards matters, and neither a device nor a file operation can leave guest RAM.
//! Called by transports; the chain is the guest's and is not trusted.

use std::ops::Deref;

use virtio_queue::DescriptorChain;
use virtio_queue::desc::split::Descriptor;
use vm_memory::{Address, GuestAddress, GuestMemory, GuestMemoryMmap, Permissions};

use crate::segment::Segment;
use crate::{RamGuard, Reader, Writer};

/// Longest chain served, indirect tables included. QEMU has the same limit; it bounds what a guest makes us allocate.
pub const MAX_CHAIN: usize = 1024;

/// A descriptor chain: device-readable bytes first, device-writable bytes after.
#[derive(Debug)]
pub struct Request {
    head: u16,
    segments: Vec<Segment>,
    /// How many of `segments` are device-readable; they come first.
    readable: usize,
    /// Keeps the mapping that `segments` point into.
    _ram: RamGuard,
}

/// A chain that breaks the rules of virtio 1.2, section 2.7; it goes back to the driver with length 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed {
    /// Index of the chain's first descriptor.
    pub head: u16,
    /// The rule it breaks, for one log line.
    pub what: &'static str,
}

impl Request {
    /// Checks a chain popped from a queue and resolves it in `ram`.
    pub fn parse<M>(chain: DescriptorChain<M>, ram: RamGuard) -> Result<Self, Malformed>
    where
        M: Deref<Target = GuestMemoryMmap>,
    {
        let head = chain.head_index();
        match resolve(chain, &ram) {
            Ok((segments, readable)) => Ok(Self { head, segments, readable, _ram: ram }),
            Err(what) => Err(Malformed { head, what }),
        }
    }

    /// Index of the chain's first descriptor, the name by which it is finished.
    pub fn head(&self) -> u16 {
        self.head
    }

    /// The device-readable bytes.
    pub fn reader(&self) -> Reader<'_> {
        Reader::new(self.segments.get(..self.readable).unwrap_or_default())
    }

    /// Where the device-writable bytes lie, in guest-physical addresses: for devices whose requests name memory instead
    /// of carrying data.
    pub fn writable_ranges(&self) -> impl Iterator<Item = (GuestAddress, u64)> + '_ {
        self.segments.iter().skip(self.readable).map(Segment::guest_range)
    }

    /// The device-writable bytes.
    pub fn writer(&self) -> Writer<'_> {
        Writer::new(self.writable())
    }

    /// The device-writable pieces; they are guest RAM for as long as the request is there.
    pub(crate) fn writable(&self) -> &[Segment] {
        self.segments.get(self.readable..).unwrap_or_default()
    }
}

const OUTSIDE: &str = "descriptor points outside guest RAM";

/// The host memory of a chain, and how many segments of it are device-readable.
fn resolve(
    chain: impl Iterator<Item = Descriptor>,
    ram: &GuestMemoryMmap,
) -> Result<(Vec<Segment>, usize), &'static str> {
    let mut segments = Vec::new();
    let mut readable = 0;
    let mut writable_seen = false;
    let mut last: Option<Descriptor> = None;
    for (position, descriptor) in chain.enumerate() {
        if position >= MAX_CHAIN {
            return Err("chain is longer than 1024 descriptors");
        }
        let access = if descriptor.is_write_only() { Permissions::Write } else { Permissions::Read };
        if descriptor.is_write_only() {
            writable_seen = true;
        } else if writable_seen {
            return Err("device-readable descriptor after a device-writable one");
        }
        let length = usize::try_from(descriptor.len()).map_err(|_| "descriptor is too long")?;
        let slices = GuestMemory::get_slices(ram, descriptor.addr(), length, access).map_err(|_| OUTSIDE)?;
        let mut guest = descriptor.addr();
        for slice in slices {
            let segment = Segment::new(&slice.map_err(|_| OUTSIDE)?, guest);
            guest = guest.unchecked_add(segment.guest_range().1);
            segments.push(segment);
        }
        if !writable_seen {
            readable = segments.len();
        }
        last = Some(descriptor);
    }
    // The iterator ends early, without a word, when the next descriptor cannot be had: an index past the table, a loop,
    // an indirect table that is misplaced or nested, more than 4 GiB in all.
    match last {
        Some(descriptor) if !descriptor.has_next() => Ok((segments, readable)),
        Some(_) => Err("chain does not end"),
        None => Err("chain does not begin"),
    }
}

#[cfg(test)]
mod tests;

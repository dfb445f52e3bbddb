//! Guest RAM with every boundary a descriptor can fall over.

use std::fs::File;
use std::sync::Arc;

use rustix::fs::{MemfdFlags, memfd_create};
use vm_memory::{FileOffset, GuestAddress, GuestMemoryMmap};

use crate::Ram;

/// Where two mappings meet that are one piece of guest RAM.
pub const LOW_SEAM: u64 = 2 << 20;
/// End of low RAM: nothing is mapped from here to [`HIGH_START`], as in the MMIO hole of a PC.
pub const HOLE: u64 = 4 << 20;
/// Start of high RAM.
pub const HIGH_START: u64 = 8 << 20;
/// End of all RAM.
pub const HIGH_END: u64 = 10 << 20;
/// First address that tests may use for data; rings lie below.
pub const DATA: u64 = 1 << 20;

/// Zeroed RAM on a memfd, as both engines have it, in three mappings.
pub fn ram() -> Ram {
    let file = Arc::new(File::from(memfd_create("test-ram", MemfdFlags::CLOEXEC).expect("a memfd")));
    file.set_len(HIGH_END).expect("memfd grows");
    let range = |start: u64, end: u64| {
        let len = usize::try_from(end - start).expect("64-bit host");
        (GuestAddress(start), len, Some(FileOffset::from_arc(file.clone(), start)))
    };
    let ranges = [range(0, LOW_SEAM), range(LOW_SEAM, HOLE), range(HIGH_START, HIGH_END)];
    Ram::new(GuestMemoryMmap::from_ranges_with_files(ranges).expect("guest RAM maps"))
}

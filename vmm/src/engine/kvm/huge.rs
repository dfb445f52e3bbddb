//! Huge pages for the memory a starting kernel touches anyway.
//!
//! Every page of RAM costs an exit into the host's kernel when the guest first touches it. A starting Linux touches its
//! own image, and the map of its pages (1/64 of RAM), which it puts at the top. Backing these by 2 MiB pages takes away
//! most such exits, 7,700 in a small VM, and what would make a boot slower the more memory a VM has. Hosts rarely give
//! memfds huge pages on their own (`shmem_enabled` is `never`), but collapse what they are asked to since Linux 6.1.

use std::ops::Range;

use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use crate::boot::{GuestRam, HUGE_PAGE, KernelImage};

/// Linux: describes a page in 64 bytes.
const PAGE_MAP_SHARE: u64 = 64;
/// Other large tables at the top of memory, and the initramfs.
const OTHER_TABLES: u64 = 4 << 20;
const PAGE: u64 = HUGE_PAGE as u64;

/// Backs the memory that `kernel` will touch; whatever the host cannot do is left as it is.
pub(super) fn back(ram: &GuestRam, kernel: &KernelImage) {
    let top = ram.end();
    let tables = (ram.size() / PAGE_MAP_SHARE + OTHER_TABLES).min(ram.size() / 4);
    for range in [kernel.start..kernel.end, top - tables..top] {
        if !whole_pages(range).step_by(HUGE_PAGE).all(|page| collapse(ram, page)) {
            tracing::debug!("The host has no huge pages for the guest");
            return;
        }
    }
}

/// The huge pages that `range` covers at least half.
fn whole_pages(range: Range<u64>) -> Range<u64> {
    let nearest = |address: u64| address.saturating_add(PAGE / 2) / PAGE * PAGE;
    nearest(range.start)..nearest(range.end)
}

/// Makes one huge page of the memory at `page`.
fn collapse(ram: &GuestRam, page: u64) -> bool {
    let Ok(slice) = ram.memory().get_slice(GuestAddress(page), HUGE_PAGE) else { return false };
    // A range without any page cannot be collapsed. Nobody else has this memory yet.
    if ram.memory().write_obj(0u8, GuestAddress(page)).is_err() {
        return false;
    }
    let address = slice.ptr_guard_mut().as_ptr();
    // SAFETY: the range is mapped, as `slice` shows, and collapsing changes no content.
    unsafe { libc::madvise(address.cast(), HUGE_PAGE, libc::MADV_COLLAPSE) == 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn pages_covered_by_half_are_taken() {
        assert_eq!(whole_pages(16 * MIB..35 * MIB), 16 * MIB..36 * MIB);
        assert_eq!(whole_pages(17 * MIB..34 * MIB + 1), 18 * MIB..34 * MIB);
        assert!(whole_pages(16 * MIB..16 * MIB + 1).is_empty());
    }

    #[test]
    fn collapsing_keeps_what_is_around_and_stays_inside() {
        let ram = GuestRam::new(64 * MIB).unwrap();
        ram.write(&[7; 4096], 20 * MIB + 4096).unwrap();
        collapse(&ram, 20 * MIB);
        let mut bytes = [0; 4096];
        ram.memory().read_slice(&mut bytes, GuestAddress(20 * MIB + 4096)).unwrap();
        assert_eq!(bytes, [7; 4096]);
        assert!(!collapse(&ram, 63 * MIB), "half of it is past the end");
    }
}

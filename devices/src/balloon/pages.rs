//! Lists of page numbers, as the guest sends them.

use std::io::{self, Read};

use vm_memory::GuestAddress;

use virtio::{Ram, Reader};

/// Bytes in a page of the balloon, whatever the guest's own pages are (virtio 1.2, section 5.5.6).
pub(super) const PAGE_SIZE: u64 = 4096;

/// Page numbers looked at in one request; Linux sends up to 256.
const MAX_PAGES: usize = 4096;

/// Releases the pages whose numbers are in a request, in as few pieces as possible.
pub(super) fn release_listed(ram: &Ram, list: &mut Reader<'_>) -> io::Result<u64> {
    let mut released = 0;
    for (start, len) in runs(&mut numbers(list)?) {
        released += virtio::release(ram, start, len)?;
    }
    Ok(released)
}

fn numbers(list: &mut Reader<'_>) -> io::Result<Vec<u32>> {
    let count = (list.available_bytes() / 4).min(MAX_PAGES);
    let mut bytes = vec![0; count * 4];
    list.read_exact(&mut bytes)?;
    let (numbers, _) = bytes.as_chunks::<4>();
    Ok(numbers.iter().map(|number| u32::from_le_bytes(*number)).collect())
}

/// Adjacent pages become one range.
fn runs(numbers: &mut [u32]) -> Vec<(GuestAddress, u64)> {
    numbers.sort_unstable();
    numbers
        .chunk_by(|page, next| next - page <= 1)
        .filter_map(|run| {
            let (first, last) = (u64::from(*run.first()?), u64::from(*run.last()?));
            Some((GuestAddress(first * PAGE_SIZE), (last - first + 1) * PAGE_SIZE))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(numbers: &[u32]) -> Vec<(u64, u64)> {
        runs(&mut numbers.to_vec()).into_iter().map(|(start, len)| (start.0 / PAGE_SIZE, len / PAGE_SIZE)).collect()
    }

    #[test]
    fn neighbours_in_any_order_are_one_range() {
        assert_eq!(ranges(&[9, 3, 4, 5, 8, 4]), [(3, 3), (8, 2)]);
    }

    #[test]
    fn highest_page_numbers_do_not_overflow() {
        assert_eq!(ranges(&[u32::MAX, 0, u32::MAX - 1]), [(0, 1), (u64::from(u32::MAX) - 1, 2)]);
        assert_eq!(ranges(&[]), []);
    }
}

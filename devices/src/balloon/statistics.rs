//! What the guest says about its memory (virtio 1.2, section 5.5.6.3).

use std::io;

use virtio::Reader;

/// Entries looked at in one answer; sixteen kinds are known.
const MAX_ENTRIES: usize = 32;

const FREE: u16 = 4;
const TOTAL: u16 = 5;
const AVAILABLE: u16 = 6;
const CACHES: u16 = 7;

/// The guest's own figures, in bytes, as far as it gives them. They are the guest's word and nothing to rely on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Statistics {
    /// Memory nothing uses.
    pub free: Option<u64>,
    /// All memory the guest's kernel manages.
    pub total: Option<u64>,
    /// Memory programs could get without swapping.
    pub available: Option<u64>,
    /// Memory holding copies of files.
    pub caches: Option<u64>,
}

impl Statistics {
    pub(super) fn parse(answer: &mut Reader<'_>) -> io::Result<Self> {
        let mut statistics = Self::default();
        for _ in 0..MAX_ENTRIES.min(answer.available_bytes() / 10) {
            let tag = u16::from_le(answer.read_obj()?);
            let value = Some(u64::from_le(answer.read_obj()?));
            match tag {
                FREE => statistics.free = value,
                TOTAL => statistics.total = value,
                AVAILABLE => statistics.available = value,
                CACHES => statistics.caches = value,
                _ => {}
            }
        }
        Ok(statistics)
    }
}

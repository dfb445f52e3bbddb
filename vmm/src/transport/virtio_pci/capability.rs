//! The virtio capabilities (virtio 1.2, 4.1.4): which structure lies where in BAR 0.

use crate::transport::pci::Config;

/// Vendor-specific capability.
const VENDOR: u8 = 0x09;
/// Types of structures (virtio 1.2, 4.1.4).
const TYPE_COMMON: u8 = 1;
const TYPE_NOTIFY: u8 = 2;
const TYPE_ISR: u8 = 3;
const TYPE_DEVICE: u8 = 4;
const TYPE_CONFIG_ACCESS: u8 = 5;
/// BAR 0: each structure has a page or more of its own.
pub(super) const BAR_SIZE: u32 = 0x8000;
pub(super) const COMMON: Area = Area { start: 0x0000, size: 0x40 };
pub(super) const ISR: Area = Area { start: 0x1000, size: 1 };
pub(super) const DEVICE: Area = Area { start: 0x2000, size: 0x1000 };
pub(super) const NOTIFY: Area = Area { start: 0x3000, size: 0x1000 };
pub(super) const MSIX_TABLE: Area = Area { start: 0x4000, size: 0x1000 };
pub(super) const MSIX_PENDING: Area = Area { start: 0x5000, size: 0x1000 };
/// Doorbells of queues lie this far apart.
pub(super) const NOTIFY_STRIDE: u32 = 4;
/// As many queues as vectors, one of which is for configuration changes, fit into the table's page.
pub(super) const MAX_QUEUES: usize = 255;

/// A part of BAR 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Area {
    pub(super) start: u32,
    pub(super) size: u32,
}

impl Area {
    /// The offset of `at` in this area, if it is in it.
    pub(super) fn offset(self, at: u64) -> Option<u64> {
        at.checked_sub(u64::from(self.start)).filter(|offset| *offset < u64::from(self.size))
    }
}

/// Adds all of them; returns where the configuration access capability is.
pub(super) fn add_all(config: &mut Config) -> u16 {
    add(config, TYPE_COMMON, COMMON, &[]);
    add(config, TYPE_NOTIFY, NOTIFY, &NOTIFY_STRIDE.to_le_bytes());
    add(config, TYPE_ISR, ISR, &[]);
    add(config, TYPE_DEVICE, DEVICE, &[]);
    // The driver writes BAR, offset and length here, and reaches the bytes through the data field behind them.
    let body = body(TYPE_CONFIG_ACCESS, Area { start: 0, size: 0 }, &[0; 4]);
    let mut writable = [0xff; 18];
    // Not the length of the capability, its type, its id and the padding.
    writable[..2].fill(0);
    writable[3..6].fill(0);
    config.add_capability(VENDOR, &body, &writable)
}

fn add(config: &mut Config, kind: u8, area: Area, extra: &[u8]) {
    config.add_capability(VENDOR, &body(kind, area, extra), &[]);
}

/// `struct virtio_pci_cap` behind its two-byte head: length, type, BAR, id, padding, offset, length; then what the type
/// adds.
fn body(kind: u8, area: Area, extra: &[u8]) -> Vec<u8> {
    const HEAD: usize = 2;
    const FIXED: usize = 14;
    let length = u8::try_from(HEAD + FIXED + extra.len()).unwrap_or_default();
    let mut body = vec![length, kind, 0, 0, 0, 0];
    body.extend(area.start.to_le_bytes());
    body.extend(area.size.to_le_bytes());
    body.extend(extra);
    body
}

/// A driver's access through the configuration access capability: offset in BAR 0 and width.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) offset: u64,
    pub(super) width: usize,
}

/// Offset of the data field in the capability.
pub(super) const WINDOW_DATA: u16 = 16;
/// Size of the capability.
pub(super) const WINDOW_END: u16 = 20;

impl Window {
    /// What the capability at `at` asks for; only BAR 0 exists, only natural widths are accesses.
    pub(super) fn read(config: &Config, at: u16) -> Option<Self> {
        let (bar, offset, length) = (config.byte(at + 4), config.word(at + 8), config.word(at + 12));
        let width = usize::try_from(length).ok().filter(|width| matches!(width, 1 | 2 | 4))?;
        let fits = u64::from(offset) + u64::from(length) <= u64::from(BAR_SIZE) && offset.is_multiple_of(length);
        (bar == 0 && fits).then_some(Self { offset: u64::from(offset), width })
    }
}

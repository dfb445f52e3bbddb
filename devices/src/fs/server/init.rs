//! The beginning of a session: versions and features.

use std::sync::atomic::Ordering;

use rustix::io::Errno;

use super::call::Call;
use super::{Answer, MAX_IO, Server};
use crate::fs::wire::{self, InitIn, InitOut, feature};

/// What this server makes use of, where the guest's kernel has it. Left out on purpose: POSIX_ACL and SECURITY_CTX
/// (nothing of the kind is stored), WRITEBACK_CACHE (the host would see writes late), POSIX_LOCKS and FLOCK_LOCKS
/// (locks work within the guest), EXPORT_SUPPORT (`..` is never looked up), ATOMIC_O_TRUNC (a program that runs would
/// be cut short before the guest's kernel sees that it runs: ETXTBSY).
const FEATURES: u64 = feature::ASYNC_READ
    | feature::BIG_WRITES
    | feature::AUTO_INVAL_DATA
    | feature::DO_READDIRPLUS
    | feature::READDIRPLUS_AUTO
    | feature::ASYNC_DIO
    | feature::PARALLEL_DIROPS
    | feature::MAX_PAGES
    | feature::CACHE_SYMLINKS
    | feature::SUBMOUNTS
    | feature::HANDLE_KILLPRIV_V2
    | feature::INIT_EXT
    | feature::NO_EXPORT_SUPPORT
    | feature::ANSWERS_SOON
    | feature::ATTR_NO_OPEN
    | feature::ONLY_USER_XATTR;

/// Not a feature of the protocol: marks a session that negotiated none.
const STARTED: u64 = 1 << 63;

const PAGE: u32 = 4096;
/// Requests the driver sends on its own (reading ahead, writing back) at the same time, and from how many on it slows
/// down.
const MAX_BACKGROUND: u16 = 64;
const CONGESTED: u16 = 48;

impl Server {
    pub(super) fn init(&self, call: &mut Call<'_>) -> Answer {
        let asked: InitIn = call.take()?;
        call.check_room(size_of::<InitOut>())?;
        if asked.major > wire::MAJOR {
            // The driver tries again with our version.
            return call.put(&InitOut { major: wire::MAJOR, minor: wire::MINOR, ..InitOut::default() });
        }
        if asked.major < wire::MAJOR || asked.minor < wire::OLDEST_MINOR {
            return Err(Errno::PROTO);
        }
        let mut offered = u64::from(asked.flags);
        if offered & feature::INIT_EXT != 0 {
            offered |= u64::from(call.take::<u32>()?) << 32;
        }
        let mut features = offered & FEATURES;
        if !self.answers_soon {
            features &= !feature::ANSWERS_SOON;
        }
        // A driver that starts over remembers nothing of what it was told before.
        self.reset();
        self.session.store(features | STARTED, Ordering::Release);
        let [low, high] = halves(features);
        call.put(&InitOut {
            major: wire::MAJOR,
            minor: wire::MINOR,
            max_readahead: asked.max_readahead.min(MAX_IO),
            flags: low,
            max_background: MAX_BACKGROUND,
            congestion_threshold: CONGESTED,
            max_write: MAX_IO,
            time_gran: 1,
            max_pages: u16::try_from(MAX_IO / PAGE).unwrap_or(u16::MAX),
            flags2: high,
            ..InitOut::default()
        })
    }

    pub(super) fn end_session(&self) {
        self.session.store(0, Ordering::Release);
    }

    pub(super) fn is_in_session(&self) -> bool {
        self.session.load(Ordering::Acquire) & STARTED != 0
    }

    /// Whether the guest's kernel reads without opening what it is told to.
    pub(super) fn has_no_open(&self) -> bool {
        self.session.load(Ordering::Acquire) & feature::ATTR_NO_OPEN != 0
    }

    /// Whether the guest's kernel takes roots of other file systems for what they are.
    pub(super) fn has_submounts(&self) -> bool {
        self.session.load(Ordering::Acquire) & feature::SUBMOUNTS != 0
    }
}

impl Server {
    /// Whether extended attributes are served: to a driver that asks for what programs keep and for nothing else. Any
    /// other would ask for `security.capability` before every single write, shares being mounts within a mount (Linux
    /// does not carry SB_NOSEC over to those), and is told once that there are none.
    pub(super) fn has_attributes(&self) -> bool {
        self.session.load(Ordering::Acquire) & feature::ONLY_USER_XATTR != 0
    }
}

fn halves(features: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = features.to_le_bytes();
    [u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h])]
}

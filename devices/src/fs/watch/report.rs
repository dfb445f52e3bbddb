//! The kernel's reports (fanotify(7), events with `FAN_REPORT_DFID_NAME`), taken apart.
//!
//! They come from the host's kernel, which is trusted, but names in them are anybody's.

use std::ffi::{CStr, CString};

use nix::sys::fanotify::MaskFlags;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::Key;

/// Kinds of information about an event.
const DIRECTORY_AND_NAME: u8 = 2;
const DIRECTORY: u8 = 3;
const OLD_NAME: u8 = 10;
const NEW_NAME: u8 = 12;

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Head {
    length: u32,
    version: u8,
    reserved: u8,
    head_length: u16,
    mask: u64,
    descriptor: i32,
    process: i32,
}

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Information {
    kind: u8,
    padding: u8,
    length: u16,
    system: [u32; 2],
    handle_length: u32,
    handle_kind: i32,
}

/// A name in a directory, known to the kernel or to us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::fs) struct Spot<D = u64> {
    pub(in crate::fs) directory: D,
    /// `.` for the directory itself.
    pub(in crate::fs) name: CString,
}

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    mask: MaskFlags,
    pub(super) process: i32,
    /// Where it happened.
    at: Option<Spot<Key>>,
    /// Where something moved from and to, as far as that is watched.
    old: Option<Spot<Key>>,
    new: Option<Spot<Key>>,
}

/// A change in a directory the guest knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::fs) enum Report {
    /// Something happened to a name, or several things in the order of the bits; the mask is fanotify's and inotify's.
    At(Spot, MaskFlags),
    /// Something moved, to or from where nobody watches if there is no spot.
    Moved { from: Option<Spot>, to: Option<Spot>, is_directory: bool },
    /// Anything may have happened.
    Lost,
}

impl Record {
    /// All events in what was read.
    pub(super) fn all(mut bytes: &[u8]) -> Vec<Self> {
        let mut records = Vec::new();
        while let Ok((head, _)) = Head::read_from_prefix(bytes) {
            let length = usize::try_from(head.length).unwrap_or(usize::MAX);
            let Some(event) = bytes.get(..length).filter(|event| event.len() >= size_of::<Head>()) else { break };
            records.push(Self::read(head, event.get(usize::from(head.head_length)..).unwrap_or_default()));
            bytes = bytes.get(length..).unwrap_or_default();
        }
        records
    }

    fn read(head: Head, mut rest: &[u8]) -> Self {
        let mask = MaskFlags::from_bits_retain(head.mask);
        let mut record = Self { mask, process: head.process, at: None, old: None, new: None };
        while let Ok((information, _)) = Information::read_from_prefix(rest) {
            let length = usize::from(information.length);
            let Some(whole) = rest.get(..length).filter(|_| length > 0) else { break };
            let spot = spot(&information, whole.get(size_of::<Information>()..).unwrap_or_default());
            match information.kind {
                DIRECTORY_AND_NAME | DIRECTORY => record.at = spot,
                OLD_NAME => record.old = spot,
                NEW_NAME => record.new = spot,
                _ => {}
            }
            rest = rest.get(length..).unwrap_or_default();
        }
        record
    }

    pub(super) fn is_overflow(&self) -> bool {
        self.mask.contains(MaskFlags::FAN_Q_OVERFLOW)
    }

    /// What happened, where directories are nodes; nothing if one of them is not known.
    pub(super) fn report(self, node: impl Fn(&Key) -> Option<u64>) -> Option<Report> {
        let known = |spot: Spot<Key>| Some(Spot { directory: node(&spot.directory)?, name: spot.name });
        let is_directory = self.mask.contains(MaskFlags::FAN_ONDIR);
        if self.mask.contains(MaskFlags::FAN_RENAME) {
            let (from, to) = (self.old.map(known), self.new.map(known));
            if from.is_none() && to.is_none() || from == Some(None) || to == Some(None) {
                return None;
            }
            return Some(Report::Moved { from: from.flatten(), to: to.flatten(), is_directory });
        }
        Some(Report::At(known(self.at?)?, self.mask))
    }
}

/// The handle and what follows it.
fn spot(information: &Information, rest: &[u8]) -> Option<Spot<Key>> {
    let (handle, name) = rest.split_at_checked(usize::try_from(information.handle_length).ok()?)?;
    let name = CStr::from_bytes_until_nul(name).ok().filter(|name| !name.is_empty()).unwrap_or(c".");
    // As statvfs(3) has it.
    let [low, high] = information.system.map(u64::from);
    Some(Spot { directory: (low | high << 32, information.handle_kind, handle.into()), name: name.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(id: u8) -> Key {
        (u64::from(id) << 32 | 5, 1, Box::new([id; 8]))
    }

    fn information(kind: u8, id: u8, name: &[u8]) -> Vec<u8> {
        let length = u16::try_from(size_of::<Information>() + 8 + name.len()).unwrap();
        let head = Information { kind, padding: 0, length, system: [5, id.into()], handle_length: 8, handle_kind: 1 };
        [head.as_bytes(), &[id; 8], name].concat()
    }

    fn event(mask: MaskFlags, parts: &[Vec<u8>]) -> Vec<u8> {
        let body = parts.concat();
        let length = u32::try_from(size_of::<Head>() + body.len()).unwrap();
        let head =
            Head { length, version: 3, reserved: 0, head_length: 24, mask: mask.bits(), descriptor: -1, process: 7 };
        [head.as_bytes(), &body].concat()
    }

    /// Directories 1 and 2 are nodes 1 and 2.
    fn reports(bytes: &[u8]) -> Vec<Option<Report>> {
        let node = |wanted: &Key| [1, 2].into_iter().find(|id| key(*id) == *wanted).map(u64::from);
        Record::all(bytes).into_iter().map(|record| record.report(node)).collect()
    }

    fn at(directory: u64, name: &CStr) -> Spot {
        Spot { directory, name: name.into() }
    }

    #[test]
    fn events_tell_where_and_what() {
        let modify = event(MaskFlags::FAN_MODIFY, &[information(DIRECTORY_AND_NAME, 1, b"file\0\0\0\0")]);
        let own = event(MaskFlags::FAN_ATTRIB, &[information(DIRECTORY, 2, b"")]);
        let expected = [
            Some(Report::At(at(1, c"file"), MaskFlags::FAN_MODIFY)),
            Some(Report::At(at(2, c"."), MaskFlags::FAN_ATTRIB)),
        ];
        assert_eq!(reports(&[modify, own].concat()), expected);
    }

    #[test]
    fn moves_have_one_end_or_two() {
        let (old, new) = (information(OLD_NAME, 1, b"a\0"), information(NEW_NAME, 2, b"b\0"));
        let moved = |parts: &[Vec<u8>]| reports(&event(MaskFlags::FAN_RENAME, parts)).remove(0);
        let report = |from, to| Some(Report::Moved { from, to, is_directory: false });
        assert_eq!(moved(&[old.clone(), new.clone()]), report(Some(at(1, c"a")), Some(at(2, c"b"))));
        assert_eq!(moved(&[old]), report(Some(at(1, c"a")), None));
        assert_eq!(moved(&[new]), report(None, Some(at(2, c"b"))));
        assert_eq!(moved(&[]), None);
    }

    #[test]
    fn unknown_directories_and_cut_off_events_are_not_understood() {
        let unknown = event(MaskFlags::FAN_MODIFY, &[information(DIRECTORY_AND_NAME, 3, b"x\0")]);
        let half = event(MaskFlags::FAN_RENAME, &[information(OLD_NAME, 3, b"x\0"), information(NEW_NAME, 1, b"y\0")]);
        assert_eq!(reports(&[unknown.clone(), half].concat()), [None, None]);
        assert_eq!(reports(&unknown[..unknown.len() - 1]), []);
        assert_eq!(reports(&event(MaskFlags::FAN_MODIFY, &[])), [None]);
        let mut endless = event(MaskFlags::FAN_MODIFY, &[information(DIRECTORY_AND_NAME, 1, b"x\0")]);
        endless[26] = 0;
        assert_eq!(reports(&endless), [None]);
        endless[0] = 0;
        assert_eq!(reports(&endless), []);
    }
}

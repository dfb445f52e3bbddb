//! What the guest's kernel is told of its own accord: messages nobody asked for.
//!
//! They have the form a FUSE server writes to `/dev/fuse` (Linux `fs/fuse/dev.c`, `fuse_notify`): a header without a
//! request's number, whose error field says what it is about. virtio-fs has no queue for them that Linux would read;
//! the guest's agent hands them to its kernel as they are.

use std::ffi::{CStr, CString};

use zerocopy::{Immutable, IntoBytes};

use super::wire::{InvalEntry, InvalInode, OutHeader, Told, notice};

/// One message.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Notice {
    /// What is known of a node's attributes is out of date; with `contents`, also what was read of it.
    Node { node: u64, contents: bool },
    /// What is known of a name in a directory is out of date, also that there is nothing.
    Entry { parent: u64, name: CString },
    /// Something happened to an entry of a directory, or (`.`) to itself; for programs that watch it. The mask is
    /// inotify's; both halves of a move have the same cookie.
    Event { parent: u64, name: CString, mask: u32, cookie: u32 },
    /// Everything that is known is out of date.
    Everything,
}

impl Notice {
    /// Appends the message.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Node { node, contents } => {
                // A negative offset spares the contents; a length of nothing means up to the end.
                let offset = if *contents { 0 } else { -1 };
                message(out, notice::INVAL_INODE, &InvalInode { node: *node, offset, length: 0 }, None);
            }
            Self::Entry { parent, name } => {
                // Merely expired: what is mounted on the entry, and who works in it, stays if it turns out to be the
                // same.
                let body = InvalEntry { parent: *parent, namelen: length(name), flags: notice::EXPIRE_ONLY };
                message(out, notice::INVAL_ENTRY, &body, Some(name));
            }
            Self::Event { parent, name, mask, cookie } => {
                let body = Told { parent: *parent, mask: *mask, cookie: *cookie, namelen: length(name), padding: 0 };
                message(out, notice::EVENT, &body, Some(name));
            }
            Self::Everything => message(out, notice::EPOCH, &[0; 0], None),
        }
    }
}

fn message<T: IntoBytes + Immutable + ?Sized>(out: &mut Vec<u8>, code: i32, body: &T, name: Option<&CStr>) {
    let name = name.map(CStr::to_bytes_with_nul).unwrap_or_default();
    let len = size_of::<OutHeader>() + size_of_val(body) + name.len();
    let header = OutHeader { len: u32::try_from(len).unwrap_or(u32::MAX), error: code, unique: 0 };
    out.extend_from_slice(header.as_bytes());
    out.extend_from_slice(body.as_bytes());
    out.extend_from_slice(name);
}

/// Names of directory entries are at most 255 bytes long.
fn length(name: &CStr) -> u32 {
    u32::try_from(name.count_bytes()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(notice: &Notice) -> Vec<u8> {
        let mut out = Vec::new();
        notice.write(&mut out);
        out
    }

    #[test]
    fn messages_are_as_the_kernel_reads_them() {
        let header = |len: u32, code: i32| [&len.to_le_bytes()[..], &code.to_le_bytes(), &[0; 8]].concat();
        let node = 7_u64.to_le_bytes();
        assert_eq!(
            bytes(&Notice::Node { node: 7, contents: true }),
            [header(40, 2), node.to_vec(), vec![0; 16]].concat()
        );
        let spared = [header(40, 2), node.to_vec(), vec![0xff; 8], vec![0; 8]].concat();
        assert_eq!(bytes(&Notice::Node { node: 7, contents: false }), spared);
        let entry = [header(37, 3), node.to_vec(), vec![4, 0, 0, 0, 1, 0, 0, 0], b"name\0".to_vec()].concat();
        assert_eq!(bytes(&Notice::Entry { parent: 7, name: c"name".into() }), entry);
        let event = Notice::Event { parent: 7, name: c"name".into(), mask: 2, cookie: 9 };
        let numbers = [2_u32, 9, 4, 0].as_bytes().to_vec();
        assert_eq!(bytes(&event), [header(45, notice::EVENT), node.to_vec(), numbers, b"name\0".to_vec()].concat());
        assert_eq!(bytes(&Notice::Everything), header(16, notice::EPOCH));
    }
}

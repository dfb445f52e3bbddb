//! Which requests may take long.
//!
//! Looked at before a request is served; whatever it says is believed only so far as to choose who serves it.

use std::os::fd::OwnedFd;

use rustix::fs::fstatfs;
use rustix::io::Errno;
use virtio::Request;

use super::Server;
use super::call::Call;
use crate::fs::pool::Lane;
use crate::fs::wire::{ROOT, ReadIn, opcode};

/// Reads and writes from this size on; below, most are a copy from memory that is over before another thread is awake.
const LARGE: u32 = 256 << 10;

/// File systems whose files are on another machine or served by another program (`linux/magic.h`, `f_type`).
const REMOTE: [u64; 7] = [
    0x6969,      // NFS
    0xfe53_4d42, // SMB
    0xff53_4d42, // CIFS
    0x6573_5546, // FUSE: sshfs and the like
    0x0102_1997, // 9p
    0x00c3_6400, // Ceph
    0x5346_414f, // AFS
];

impl Server {
    /// Who has to serve a request, if not whoever asks.
    pub(in crate::fs) fn lane(&self, request: &Request) -> Option<Lane> {
        let (mut call, _) = Call::read(request.reader())?;
        let is_slow = match call.header.opcode {
            // These change what all others find, or are not answered.
            opcode::INIT | opcode::DESTROY | opcode::FORGET | opcode::BATCH_FORGET | opcode::INTERRUPT => return None,
            opcode::FSYNC | opcode::FSYNCDIR | opcode::SYNCFS | opcode::COPY_FILE_RANGE | opcode::FALLOCATE => true,
            opcode::READ | opcode::WRITE => call.take::<ReadIn>().is_ok_and(|asked| asked.size >= LARGE),
            _ => false,
        };
        if call.header.nodeid == ROOT {
            // The tree's own root asks every share.
            let is_slow = is_slow || self.exports.iter().any(super::export::Export::is_remote);
            return is_slow.then_some(Lane::Local);
        }
        let share = self.nodes.find(call.header.nodeid).ok()?.identity.share;
        let is_remote = self.exports.get(usize::try_from(share).ok()?)?.is_remote();
        if is_remote { Some(Lane::Remote(share)) } else { is_slow.then_some(Lane::Local) }
    }
}

/// Whether what a descriptor names lies on another machine.
pub(super) fn is_remote(root: &OwnedFd) -> Result<bool, Errno> {
    let kind = fstatfs(root)?.f_type;
    // The number's 32 bits may have been extended with a sign.
    let kind = u64::try_from(kind).unwrap_or_default() & u64::from(u32::MAX);
    Ok(REMOTE.contains(&kind))
}

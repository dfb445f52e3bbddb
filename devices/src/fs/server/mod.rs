//! The FUSE server: one request in, one answer out, from any thread.
//!
//! It knows nothing of queues; everything that changes is inside tables with locks of their own, held only for moments
//! and never across a system call, so that several queues can be served at once. Operations are grouped by file:
//! session ([`init`]), names to nodes ([`lookup`]), attributes ([`attr`]), the tree's shape ([`tree`]), open files
//! ([`file`]) and directories ([`directory`]), extended attributes ([`xattr`]). [`reach`] is the only place where host
//! files are opened; what others do to them comes in by [`changes`], and [`pursuit`] keeps it from getting ahead of the
//! guest. [`pace`] says which requests may take long, [`away`] which shares.

mod attr;
mod away;
mod belief;
mod call;
mod changes;
mod directory;
mod export;
mod file;
mod init;
mod lookup;
mod pace;
mod pursuit;
mod reach;
mod tally;
mod tree;
mod xattr;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize};

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::process::{Resource, geteuid, getrlimit};
use virtio::{Request, Subtree};

use self::call::Call;
use self::export::{Export, kind};
pub(super) use self::export::{stat, stat_at};
pub(super) use self::pace::Treatment;
use self::pursuit::Pursuit;
pub use self::tally::Requests;
use self::tally::Tally;
use super::handle::Handles;
use super::implicit::Implicit;
use super::linger;
use super::node::{Limits, Nodes};
use super::report::ShareReport;
use super::share::{Owner, Share};
use super::watch::Watcher;
use super::wire::{self, opcode};

/// Most bytes read or written by one request.
const MAX_IO: u32 = 1 << 20;

/// An answer without contents, or the error to tell the guest.
type Answer = Result<(), Errno>;

/// Shares, and what the guest knows of them.
#[derive(Debug)]
pub(super) struct Server {
    exports: Vec<Export>,
    nodes: Nodes,
    handles: Handles,
    implicit: Implicit,
    pursuit: Pursuit,
    watcher: Watcher,
    /// Counts moves by others, from 1.
    moves: AtomicU32,
    /// `/proc/self/fd`, to open anew what an `O_PATH` descriptor names.
    descriptors: OwnedFd,
    /// This process is root: the host's kernel forbids it nothing.
    is_root: bool,
    /// Negotiated features; 0 until INIT.
    session: AtomicU64,
    tells_birth_times: AtomicBool,
    /// The worker stays awake for requests. Found out before it is confined: from then on it counts one CPU.
    answers_soon: bool,
    tally: Tally,
}

impl Server {
    /// A server for these shares, with one of the `watchers` of this process.
    pub(super) fn new(shares: Vec<Share>, watchers: &'static AtomicUsize) -> io::Result<Self> {
        let descriptors =
            openat(CWD, c"/proc/self/fd", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let (limits, handles, implicit) = limits();
        let nodes = Nodes::new(wire::ROOT + 1, limits);
        let exports: Vec<Export> =
            (0..).zip(shares).map(|(index, share)| Export::new(index, share)).collect::<Result<_, _>>()?;
        for export in &exports {
            let stat = stat(&export.root)?;
            nodes.add_share(export.identity(&stat), kind(&stat), export.root.clone(), export.root_position());
        }
        let session = AtomicU64::new(0);
        Ok(Self {
            exports,
            nodes,
            handles: Handles::new(handles),
            implicit: Implicit::new(implicit),
            pursuit: Pursuit::default(),
            watcher: Watcher::new(watchers),
            moves: AtomicU32::new(1),
            descriptors,
            is_root: geteuid().is_root(),
            session,
            tells_birth_times: AtomicBool::new(false),
            answers_soon: linger::has_company(),
            tally: Tally::new(),
        })
    }

    /// The shares, for the monitor that confines the serving threads.
    pub(super) fn subtrees(&self) -> io::Result<Vec<Subtree>> {
        let subtree = |export: &Export| {
            let is_writable = export.check_writable().is_ok();
            Ok(Subtree { root: export.root.try_clone()?, is_writable })
        };
        self.exports.iter().map(subtree).collect()
    }

    /// The requests so far.
    pub(super) fn requests(&self) -> Requests {
        self.tally.read()
    }

    /// From now on the files of each share's owner appear as this one's.
    pub(super) fn show_owner(&self, owner: Owner) {
        self.exports.iter().for_each(|export| export.show_owner(owner));
    }

    /// What is in force in each share.
    pub(super) fn report(&self) -> Vec<ShareReport> {
        self.exports.iter().map(Export::report).collect()
    }

    /// Serves one request and returns how many bytes were written for the guest.
    pub(super) fn serve(&self, request: &Request) -> u32 {
        let Some((mut call, whole)) = Call::read(request.reader()) else { return 0 };
        self.tally.count(call.header.opcode);
        if self.forget_or_interrupt(&mut call) {
            return 0;
        }
        answer(request, call, |call| {
            let answered = if whole { self.answer(call) } else { Err(Errno::INVAL) };
            if answered == Err(Errno::STALE) {
                self.pursuit.begin();
            }
            answered
        })
    }

    /// Answers a request with an error instead of serving it.
    pub(super) fn refuse(request: &Request, error: Errno) -> u32 {
        Call::read(request.reader()).map_or(0, |(call, _)| answer(request, call, |_| Err(error)))
    }

    /// Back to the state before INIT.
    pub(super) fn reset(&self) {
        if self.is_in_session() {
            let Requests { by_opcode, handed_over } = self.requests();
            let sent = (0..).zip(by_opcode).filter(|(_, count)| *count > 0).collect::<BTreeMap<u32, u64>>();
            tracing::debug!(?sent, handed_over, "The guest's session ends; requests by opcode");
        }
        self.end_session();
        let closed = (self.handles.clear(), self.implicit.clear());
        self.watcher.clear(|| self.nodes.clear());
        // Closing writes to another machine what it has not got yet, and waits for it.
        if !self.exports.iter().any(Export::is_remote) || closed.0.is_empty() && closed.1.is_empty() {
            return;
        }
        let closing = std::thread::Builder::new().name("fs".into()).spawn(move || drop(closed));
        if let Err(error) = closing {
            tracing::warn!(%error, "No thread to close files on another machine; closing them here");
        }
    }

    /// Requests that are not answered.
    fn forget_or_interrupt(&self, call: &mut Call<'_>) -> bool {
        match call.header.opcode {
            opcode::FORGET => self.forget(call),
            opcode::BATCH_FORGET => self.batch_forget(call),
            // Whom it is about has been taken out of the line, or is being served, which is left to end.
            opcode::INTERRUPT => {}
            _ => return false,
        }
        true
    }

    fn answer(&self, call: &mut Call<'_>) -> Answer {
        if call.header.opcode == opcode::INIT {
            return self.init(call);
        }
        if !self.is_in_session() {
            return Err(Errno::IO);
        }
        match call.header.opcode {
            opcode::LOOKUP => self.lookup(call),
            opcode::GETATTR => self.getattr(call),
            opcode::SETATTR => self.setattr(call),
            opcode::STATX if self.tells_birth_times() => self.statx(call),
            opcode::STATFS => self.statfs(call),
            opcode::READLINK => self.readlink(call),
            opcode::SYMLINK => self.symlink(call),
            opcode::MKNOD => self.mknod(call),
            opcode::MKDIR => self.mkdir(call),
            opcode::UNLINK => self.unlink(call),
            opcode::RMDIR => self.rmdir(call),
            opcode::RENAME => self.rename(call),
            opcode::RENAME2 => self.rename2(call),
            opcode::LINK => self.link(call),
            opcode::CREATE => self.create(call),
            opcode::TMPFILE => self.tmpfile(call),
            opcode::OPEN => self.open(call),
            opcode::READ => self.read(call),
            opcode::WRITE => self.write(call),
            opcode::FSYNC => self.fsync(call),
            opcode::LSEEK => self.lseek(call),
            opcode::FALLOCATE => self.fallocate(call),
            opcode::COPY_FILE_RANGE => self.copy_file_range(call),
            opcode::OPENDIR => self.opendir(call),
            opcode::READDIR => self.readdir(call),
            opcode::READDIRPLUS => self.readdirplus(call),
            opcode::FSYNCDIR => self.fsyncdir(call),
            opcode::RELEASE | opcode::RELEASEDIR => self.release(call),
            opcode::SYNCFS => self.syncfs(call),
            opcode::DESTROY => {
                self.reset();
                Ok(())
            }
            opcode::SETXATTR if self.has_attributes() => self.setxattr(call),
            opcode::GETXATTR if self.has_attributes() => self.getxattr(call),
            opcode::LISTXATTR if self.has_attributes() => self.listxattr(call),
            opcode::REMOVEXATTR if self.has_attributes() => self.removexattr(call),
            opcode::IOCTL => Err(Errno::NOTTY),
            // Also on purpose: FLUSH (nothing is held back from the host), ACCESS (the guest's kernel judges by the
            // attributes), locks (they are the guest's own affair), and STATX unless birth times are worth it.
            // The driver asks once and never again.
            _ => Err(Errno::NOSYS),
        }
    }
}

/// Puts what `serve` makes of a call, and the header before it, where the answer goes.
fn answer<'a>(request: &'a Request, mut call: Call<'a>, serve: impl FnOnce(&mut Call<'a>) -> Answer) -> u32 {
    let mut head = request.writer();
    let Some(out) = head.split_at(size_of::<wire::OutHeader>()) else { return 0 };
    call.out = Some(out);
    let (error, body) = match serve(&mut call) {
        Ok(()) => (0, call.written()),
        Err(error) => (-error.raw_os_error(), 0),
    };
    let len = u32::try_from(size_of::<wire::OutHeader>() + body).unwrap_or(u32::MAX);
    let header = wire::OutHeader { len, error, unique: call.header.unique };
    // The room was checked by `split_at`.
    call::put(&mut head, &header).map_or(0, |()| len)
}

/// How many descriptors the tables may hold, out of what the process may open.
fn limits() -> (Limits, usize, usize) {
    /// What a process may usually open when it does not ask for more.
    const USUAL: u64 = 1024;
    let open = usize::try_from(getrlimit(Resource::Nofile).current.unwrap_or(USUAL)).unwrap_or(usize::MAX);
    let nodes = Limits { cached: (open / 8).clamp(16, 1024), pinned: (open / 4).min(1 << 16) };
    (nodes, (open / 2).min(1 << 16), (open / 8).clamp(16, 2048))
}

/// Several queues may be served at once.
const _: fn() = || {
    fn shared_between_threads<T: Send + Sync>() {}
    shared_between_threads::<Server>();
};

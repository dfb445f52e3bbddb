//! A file system of the test's own, as the host's kernel would have one from another machine: it answers, fails with
//! any error, or does not answer at all.
//!
//! It is mounted nowhere: the share is all there is of it, and when the test ends, however it ends, it is gone.

use std::collections::HashMap;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen};
use virtio::test_kit::PATIENCE;
use zerocopy::{FromBytes, IntoBytes};

use crate::fs::wire::{
    self, Attr, AttrOut, EntryOut, GetxattrOut, InHeader, InitIn, InitOut, OpenOut, OutHeader, ROOT, StatfsOut,
    WriteIn, WriteOut, opcode,
};
use crate::fs::{Access, Ownership, Share};

/// Name, node and contents of its only file.
pub(super) const FILE: &[u8] = b"file";
const NODE: u64 = 2;
const CONTENTS: &[u8] = b"contents";
const FLUSH: u32 = 25;
/// Requests are read whole; none is larger than what INIT grants.
const LONGEST: usize = 1 << 20;

/// What becomes of requests of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// They fail.
    Fail(Errno),
    /// They are taken and never answered, until [`Remote::recover`].
    Hang,
}

#[derive(Debug, Default)]
struct State {
    fates: HashMap<u32, Fate>,
    /// Requests not answered.
    hanging: Vec<(InHeader, Vec<u8>)>,
    /// Opcodes in the order in which they came.
    seen: Vec<u32>,
}

/// The file system; its end lets everybody go who waits for it.
#[derive(Debug)]
pub(super) struct Remote {
    connection: Arc<OwnedFd>,
    state: Arc<Mutex<State>>,
    end: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Remote {
    /// The file system and a share that is all of it; nothing where this process may not mount.
    pub(super) fn share() -> Option<(Self, Share)> {
        let connection = openat(CWD, c"/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).ok()?;
        let context = fsopen("fuse", FsOpenFlags::FSOPEN_CLOEXEC).ok()?;
        let number = connection.as_raw_fd().to_string();
        for (key, value) in [("fd", number.as_str()), ("rootmode", "40000"), ("user_id", "0"), ("group_id", "0")] {
            fsconfig_set_string(&context, key, value).unwrap();
        }
        fsconfig_create(&context).unwrap();
        let root = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty()).unwrap();
        let connection = Arc::new(connection);
        let state = Arc::new(Mutex::new(State::default()));
        let end = Arc::new(eventfd(0, EventfdFlags::CLOEXEC).unwrap());
        let thread = thread::spawn({
            let (connection, state, end) = (connection.clone(), state.clone(), end.clone());
            move || serve(&connection, &state, &end)
        });
        let share =
            Share { root, access: Access::ReadWrite, ownership: Ownership::of_this_process(), guarded: Vec::new() };
        Some((Self { connection, state, end, thread: Some(thread) }, share))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// From now on, this becomes of requests of that kind.
    pub(super) fn decide(&self, opcode: u32, fate: Fate) {
        self.state().fates.insert(opcode, fate);
    }

    /// From now on, nothing is answered.
    pub(super) fn hang(&self) {
        for opcode in 0..=64 {
            self.decide(opcode, Fate::Hang);
        }
    }

    /// Answers everything, also what was not answered until now.
    pub(super) fn recover(&self) {
        let hanging = {
            let mut state = self.state();
            state.fates.clear();
            std::mem::take(&mut state.hanging)
        };
        for (header, body) in hanging {
            reply(&self.connection, &header, &answer(&header, &body));
        }
    }

    /// How many requests of a kind there have been.
    pub(super) fn count(&self, opcode: u32) -> usize {
        self.state().seen.iter().filter(|seen| **seen == opcode).count()
    }

    /// Waits until so many requests hang.
    pub(super) fn await_hanging(&self, count: usize) {
        let deadline = Instant::now() + PATIENCE;
        while self.state().hanging.len() < count {
            assert!(Instant::now() < deadline, "{:?}", self.state());
            thread::yield_now();
        }
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        rustix::io::write(&*self.end, &1u64.to_ne_bytes()).unwrap();
        self.thread.take().unwrap().join().unwrap();
    }
}

fn serve(connection: &OwnedFd, state: &Mutex<State>, end: &OwnedFd) {
    let mut buffer = vec![0; LONGEST + 4096];
    loop {
        let mut ready = [PollFd::new(connection, PollFlags::IN), PollFd::new(end, PollFlags::IN)];
        poll(&mut ready, None).unwrap();
        if !ready[1].revents().is_empty() {
            return;
        }
        let length = match rustix::io::read(connection, buffer.as_mut_slice()) {
            Ok(length) => length,
            // Called off before it was read.
            Err(Errno::NOENT | Errno::INTR | Errno::AGAIN) => continue,
            // Nobody holds the file system any more.
            Err(_) => return,
        };
        let (header, body) = InHeader::read_from_prefix(&buffer[..length]).unwrap();
        let fate = {
            let mut state = state.lock().unwrap();
            state.seen.push(header.opcode);
            let fate = state.fates.get(&header.opcode).copied();
            if fate == Some(Fate::Hang) {
                state.hanging.push((header, body.to_vec()));
            }
            fate
        };
        match fate {
            None => reply(connection, &header, &answer(&header, body)),
            Some(Fate::Fail(error)) => reply(connection, &header, &Err(error)),
            Some(Fate::Hang) => {}
        }
    }
}

fn answer(header: &InHeader, body: &[u8]) -> Result<Vec<u8>, Errno> {
    let attr = attr(header.nodeid);
    match header.opcode {
        opcode::INIT => {
            let (asked, _) = InitIn::read_from_prefix(body).unwrap();
            let granted = InitOut {
                major: 7,
                minor: 31,
                max_readahead: asked.max_readahead,
                max_write: 1 << 17,
                ..InitOut::default()
            };
            Ok(granted.as_bytes().to_vec())
        }
        opcode::LOOKUP if header.nodeid == ROOT && body == [FILE, b"\0"].concat() => {
            let entry = EntryOut { nodeid: NODE, attr: self::attr(NODE), ..EntryOut::default() };
            Ok(entry.as_bytes().to_vec())
        }
        opcode::LOOKUP => Err(Errno::NOENT),
        opcode::GETATTR | opcode::SETATTR => Ok(AttrOut { attr, ..AttrOut::default() }.as_bytes().to_vec()),
        opcode::OPEN | opcode::OPENDIR => Ok(OpenOut { fh: 1, ..OpenOut::default() }.as_bytes().to_vec()),
        opcode::READ => Ok(CONTENTS.to_vec()),
        opcode::WRITE => {
            let size = WriteIn::read_from_prefix(body).map_or(0, |(asked, _)| asked.size);
            Ok(WriteOut { size, padding: 0 }.as_bytes().to_vec())
        }
        opcode::STATFS => Ok(StatfsOut { bsize: 4096, namelen: 255, ..StatfsOut::default() }.as_bytes().to_vec()),
        opcode::GETXATTR => Ok(GetxattrOut::default().as_bytes().to_vec()),
        opcode::FSYNC | opcode::RELEASE | opcode::RELEASEDIR | opcode::SYNCFS | FLUSH => Ok(Vec::new()),
        _ => Err(Errno::NOSYS),
    }
}

fn attr(node: u64) -> Attr {
    let (mode, size) = if node == ROOT { (0o040_755, 0) } else { (0o100_644, CONTENTS.len()) };
    Attr { ino: node, mode, nlink: 1, size: size.try_into().unwrap(), blksize: 4096, ..Attr::default() }
}

fn reply(connection: &OwnedFd, header: &InHeader, answer: &Result<Vec<u8>, Errno>) {
    if matches!(header.opcode, opcode::FORGET | opcode::BATCH_FORGET | opcode::INTERRUPT) {
        return;
    }
    let (error, body) = match answer {
        Ok(body) => (0, body.as_slice()),
        Err(error) => (-error.raw_os_error(), &[][..]),
    };
    let len = u32::try_from(size_of::<OutHeader>() + body.len()).unwrap();
    let head = wire::OutHeader { len, error, unique: header.unique };
    // Whoever asked may be gone.
    let _ = rustix::io::write(connection, &[head.as_bytes(), body].concat());
}

//! The host's end of the console: bytes out without waiting, bytes in without keeping any.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use virtio::{Reader, Watch, Writer};
use vmm_sys_util::epoll::EventSet;

/// Output kept for a host that does not read at the moment.
pub const MAX_PENDING: usize = 256 << 10;

/// The longest piece of input for one buffer of the guest; the rest comes with the next.
const MAX_INPUT: usize = 64 << 10;

/// What came of trying to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Input {
    /// This many bytes, at least one.
    Bytes(usize),
    /// Nothing now.
    Later,
    /// Nothing ever again.
    End,
}

/// The descriptor and what waits to be written to it.
#[derive(Debug)]
pub(super) struct Port {
    fd: OwnedFd,
    token: u16,
    pending: VecDeque<u8>,
    dropped: u64,
    input_ended: bool,
    output_ended: bool,
    watched: Option<EventSet>,
}

impl Port {
    pub(super) fn new(fd: OwnedFd, token: u16) -> io::Result<Self> {
        fcntl_setfl(&fd, fcntl_getfl(&fd)? | OFlags::NONBLOCK)?;
        let pending = VecDeque::new();
        Ok(Self { fd, token, pending, dropped: 0, input_ended: false, output_ended: false, watched: None })
    }

    pub(super) fn into_fd(self) -> OwnedFd {
        self.fd
    }

    /// Whether output was dropped since it was counted last.
    pub(super) fn has_dropped(&self) -> bool {
        self.dropped > 0
    }

    /// Bytes of output that were dropped since this was asked last.
    pub(super) fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.dropped)
    }

    /// Takes output from the guest: as much as the host accepts goes out, some is kept, the rest is dropped.
    pub(super) fn output(&mut self, from: &mut Reader<'_>) {
        if self.pending.is_empty() && !self.output_ended {
            let all = from.available_bytes();
            let result = from.read_to(self.fd.as_fd(), all);
            self.note(&result);
        }
        if !self.output_ended {
            self.keep(from);
            self.dropped += u64::try_from(from.available_bytes()).unwrap_or(u64::MAX);
        }
    }

    fn keep(&mut self, from: &mut Reader<'_>) {
        let mut chunk = [0; 4096];
        let mut room = MAX_PENDING.saturating_sub(self.pending.len());
        while room > 0 {
            let (piece, _) = chunk.split_at_mut(room.min(4096));
            // Copying out of guest RAM does not fail.
            let count = from.read(piece).unwrap_or(0);
            if count == 0 {
                return;
            }
            self.pending.extend(piece.iter().take(count));
            room -= count;
        }
    }

    /// Writes what was kept, now that the host reads again.
    pub(super) fn drain(&mut self) {
        while !self.pending.is_empty() && !self.output_ended {
            let (front, _) = self.pending.as_slices();
            let result = rustix::io::write(&self.fd, front).map_err(io::Error::from);
            let done = self.note(&result);
            if done == 0 {
                return;
            }
            self.pending.drain(..done);
        }
    }

    /// How much went out; remembers when nothing ever will again.
    fn note(&mut self, result: &io::Result<usize>) -> usize {
        match result {
            Ok(count) => *count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => {
                tracing::debug!(%error, "Console output has no reader any more");
                self.output_ended = true;
                self.pending = VecDeque::new();
                0
            }
        }
    }

    /// Reads input straight into a buffer of the guest.
    pub(super) fn input(&mut self, into: &mut Writer<'_>) -> Input {
        match into.write_from(self.fd.as_fd(), MAX_INPUT) {
            Ok(0) => self.end_input(),
            Ok(count) => Input::Bytes(count),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Input::Later,
            // A terminal whose other end closed says EIO.
            Err(_) => self.end_input(),
        }
    }

    fn end_input(&mut self) -> Input {
        self.input_ended = true;
        Input::End
    }

    /// Waits for what can make progress: input if the guest has room for it, and room for output that was kept.
    pub(super) fn watch(&mut self, guest_has_room: bool, watch: &mut dyn Watch) -> io::Result<()> {
        let mut wanted = EventSet::empty();
        wanted.set(EventSet::IN, guest_has_room && !self.input_ended);
        wanted.set(EventSet::OUT, !self.pending.is_empty());
        // A descriptor watched for nothing still reports its hangup, again and again.
        let wanted = (!wanted.is_empty()).then_some(wanted);
        let (fd, token): (BorrowedFd<'_>, u16) = (self.fd.as_fd(), self.token);
        match (self.watched, wanted) {
            (Some(before), Some(now)) if before != now => watch.modify(fd, token, now)?,
            (None, Some(now)) => watch.add(fd, token, now)?,
            (Some(_), None) => watch.remove(fd, token)?,
            _ => {}
        }
        self.watched = wanted;
        Ok(())
    }

    /// Forgets the guest's output, and watches nothing.
    pub(super) fn reset(&mut self, watch: &mut dyn Watch) {
        self.pending = VecDeque::new();
        if self.watched.take().is_some() {
            // It was added with this token, and is open.
            let _ = watch.remove(self.fd.as_fd(), self.token);
        }
    }
}

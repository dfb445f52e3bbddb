//! Where whoever runs the VM says that the guest can be told of changes.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use rustix::event::{EventfdFlags, eventfd};

/// Tells the guest what changes on the host, so that it may believe what it knows until then.
///
/// Outlives resets of its device; of the device itself it keeps nothing alive.
///
/// Changes made by this process count as the guest's own, which knows of them. A program that runs the VM inside itself
/// and changes files in a share at the same time does so from another process, or the guest may not see it.
#[derive(Debug, Clone)]
pub struct Notifier(Weak<Mailbox>);

impl Notifier {
    /// Sends the messages of a FUSE server to the guest's kernel over `stream`, one after another, from now until it ends
    /// or another one takes its place; whoever reads it hands them on. The first says that all the guest knows is out of
    /// date. While there is a stream, the guest is told to believe what it learns of watched directories for a day.
    pub fn connect(&self, stream: UnixStream) -> io::Result<()> {
        let mailbox = self.0.upgrade().ok_or(io::ErrorKind::NotConnected)?;
        stream.set_nonblocking(true)?;
        *mailbox.stream.lock().unwrap_or_else(PoisonError::into_inner) = Some(stream);
        // Cannot overflow: the count is far below 2^64.
        rustix::io::write(&mailbox.bell, &1u64.to_ne_bytes())?;
        Ok(())
    }
}

/// A stream on its way to the worker.
#[derive(Debug)]
pub(super) struct Mailbox {
    stream: Mutex<Option<UnixStream>>,
    bell: OwnedFd,
}

impl Mailbox {
    pub(super) fn new() -> io::Result<Arc<Self>> {
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Arc::new(Self { stream: Mutex::default(), bell }))
    }

    pub(super) fn notifier(self: &Arc<Self>) -> Notifier {
        Notifier(Arc::downgrade(self))
    }

    /// Rings when there is a stream.
    pub(super) fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    pub(super) fn take(&self) -> Option<UnixStream> {
        // Non-blocking: fails only when the bell was already silenced.
        let _ = rustix::io::read(&self.bell, &mut [0; 8]);
        self.stream.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

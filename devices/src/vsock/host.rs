//! The host's way in: opening and taking connections, from any thread, across guest resets.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

/// Connect calls that may wait for the device's worker (or for the guest's driver to start).
const MAX_CALLS: usize = 64;
/// Connections the guest may open before the host takes one.
const MAX_BACKLOG: usize = 64;

/// A connection the host wants.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) guest_port: u32,
    /// The device's end.
    pub(super) stream: UnixStream,
    pub(super) waiter: Waiter,
}

/// Who waits for the guest's answer, if they still do.
#[derive(Debug)]
pub(super) struct Waiter {
    answer: SyncSender<io::Result<()>>,
    is_waiting: Weak<()>,
}

impl Waiter {
    /// False when nobody waits any more.
    pub(super) fn answer(&self, result: io::Result<()>) -> bool {
        self.is_waiting() && self.answer.try_send(result).is_ok()
    }

    pub(super) fn is_waiting(&self) -> bool {
        self.is_waiting.strong_count() > 0
    }
}

/// The ports the host listens on.
#[derive(Debug)]
pub(super) struct Ports {
    /// Nothing once the device is gone.
    listeners: Mutex<Option<BTreeMap<u32, SyncSender<UnixStream>>>>,
}

impl Ports {
    pub(super) fn new() -> Self {
        Self { listeners: Mutex::new(Some(BTreeMap::new())) }
    }

    /// Hands a connection to whoever listens on `port`; gives the device's end, `None` when nobody takes it.
    pub(super) fn accept(&self, port: u32) -> Option<UnixStream> {
        let listeners = self.locked();
        let listener = listeners.as_ref()?.get(&port)?;
        let (ours, theirs) = UnixStream::pair().ok()?;
        ours.set_nonblocking(true).ok()?;
        listener.try_send(theirs).ok().map(|()| ours)
    }

    /// Ends every wait: the device is gone.
    pub(super) fn close(&self) {
        *self.locked() = None;
    }

    fn locked(&self) -> MutexGuard<'_, Option<BTreeMap<u32, SyncSender<UnixStream>>>> {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Opens and takes connections. Clones are the same host; it stays good when the guest resets the device.
#[derive(Debug, Clone)]
pub struct VsockHost {
    calls: SyncSender<Call>,
    bell: Arc<OwnedFd>,
    ports: Arc<Ports>,
}

impl VsockHost {
    /// The host's side and the queue of calls the device takes from when `bell` rings.
    pub(super) fn new(bell: Arc<OwnedFd>, ports: Arc<Ports>) -> (Self, Receiver<Call>) {
        let (calls, queue) = sync_channel(MAX_CALLS);
        (Self { calls, bell, ports }, queue)
    }

    /// Connects to a port of the guest and returns once the guest accepted. A guest whose driver has not started yet is
    /// waited for; `ConnectionRefused` means that it runs and nothing listens there.
    pub fn connect(&self, guest_port: u32, timeout: Duration) -> io::Result<UnixStream> {
        let (ours, theirs) = UnixStream::pair()?;
        theirs.set_nonblocking(true)?;
        let (answer, wait) = sync_channel(1);
        let waiting = Arc::new(());
        let waiter = Waiter { answer, is_waiting: Arc::downgrade(&waiting) };
        self.calls.try_send(Call { guest_port, stream: theirs, waiter }).map_err(|refused| match refused {
            TrySendError::Full(_) => io::Error::new(io::ErrorKind::WouldBlock, "Too many connects wait for the guest"),
            TrySendError::Disconnected(_) => gone(),
        })?;
        ring(&self.bell)?;
        let result = wait.recv_timeout(timeout);
        drop(waiting);
        match result {
            Ok(answer) => answer.map(|()| ours),
            Err(RecvTimeoutError::Timeout) => Err(io::ErrorKind::TimedOut.into()),
            Err(RecvTimeoutError::Disconnected) => Err(gone()),
        }
    }

    /// Takes connections of the guest to a port of the host, until the listener is dropped.
    pub fn listen(&self, host_port: u32) -> io::Result<VsockListener> {
        let (sender, incoming) = sync_channel(MAX_BACKLOG);
        let mut ports = self.ports.locked();
        let listeners = ports.as_mut().ok_or_else(gone)?;
        if listeners.contains_key(&host_port) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        listeners.insert(host_port, sender);
        drop(ports);
        Ok(VsockListener { port: host_port, incoming, ports: self.ports.clone() })
    }
}

/// A port of the host that the guest may connect to.
#[derive(Debug)]
pub struct VsockListener {
    port: u32,
    incoming: Receiver<UnixStream>,
    ports: Arc<Ports>,
}

impl VsockListener {
    /// Blocks until the guest connects.
    pub fn accept(&self) -> io::Result<UnixStream> {
        self.incoming.recv().map_err(|_| gone())
    }

    /// Blocks until the guest connects or `timeout` has passed (`TimedOut`).
    pub fn accept_timeout(&self, timeout: Duration) -> io::Result<UnixStream> {
        self.incoming.recv_timeout(timeout).map_err(|error| match error {
            RecvTimeoutError::Timeout => io::ErrorKind::TimedOut.into(),
            RecvTimeoutError::Disconnected => gone(),
        })
    }
}

impl Drop for VsockListener {
    fn drop(&mut self) {
        if let Some(listeners) = self.ports.locked().as_mut() {
            listeners.remove(&self.port);
        }
    }
}

/// Makes the bell readable. A counter at its end is as readable as can be.
fn ring(bell: &OwnedFd) -> io::Result<()> {
    match rustix::io::write(bell, &1u64.to_ne_bytes()) {
        Ok(_) | Err(rustix::io::Errno::AGAIN) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Makes the bell unreadable.
pub(super) fn silence(bell: &OwnedFd) {
    // Fails only when it is silent already.
    let _ = rustix::io::read(bell, &mut [0; 8]);
}

fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "The vsock device is gone")
}

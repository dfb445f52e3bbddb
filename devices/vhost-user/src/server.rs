//! The session's thread and its end.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use rustix::net::{Shutdown, shutdown, sockopt};
use vhost::vhost_user::{BackendReqHandler, Error};
use virtio::{Supervisor, ThreadKind, VirtioDevice, Worker};

use crate::notifier::Notifier;
use crate::served::Served;
use crate::session::Session;

/// A device being served; dropping it ends its threads and drops the device.
#[derive(Debug)]
pub struct Server {
    end: Arc<End>,
    thread: Option<JoinHandle<()>>,
}

/// What the session's thread waits on: a listener first where the monitor connects by itself, then the connection.
#[derive(Debug)]
struct End(Mutex<Option<OwnedFd>>);

impl Server {
    /// Serves `device` on a new connection and returns the monitor's end of it, ready to be passed to a child.
    ///
    /// The device also stops when the monitor closes its end. `supervisor` confines both threads and hears of faults.
    pub fn start(device: Box<dyn VirtioDevice>, supervisor: Arc<dyn Supervisor>) -> io::Result<(Self, OwnedFd)> {
        let (near, far) = UnixStream::pair()?;
        let copy = near.try_clone()?.into();
        Ok((Self::spawn(device, supervisor, copy, |_| Ok(near))?, far.into()))
    }

    /// Serves `device` to a monitor that insists on connecting by itself, and returns the name of the socket in the
    /// abstract namespace. One connection is taken, from a process of the same user.
    pub fn start_listening(
        device: Box<dyn VirtioDevice>,
        supervisor: Arc<dyn Supervisor>,
    ) -> io::Result<(Self, String)> {
        let mut random = [0; 16];
        rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
        let name = random.iter().fold("vmm-".to_owned(), |name, byte| format!("{name}{byte:02x}"));
        let listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name)?)?;
        let copy = listener.try_clone()?.into();
        let server = Self::spawn(device, supervisor, copy, move |end| {
            let connection = accept_own(&listener)?;
            end.replace(connection.try_clone()?.into())?;
            Ok(connection)
        })?;
        Ok((server, name))
    }

    fn spawn(
        device: Box<dyn VirtioDevice>,
        supervisor: Arc<dyn Supervisor>,
        waits_on: OwnedFd,
        connect: impl FnOnce(&End) -> io::Result<UnixStream> + Send + 'static,
    ) -> io::Result<Self> {
        let (info, config) = (device.info().clone(), device.config());
        let notifier = Arc::new(Notifier::new(&info.label, info.queue_sizes.len(), supervisor.clone()));
        let worker = Worker::spawn(device, notifier.clone())?;
        // Linux shows 15 bytes of a thread's name.
        let name = format!("vu-{}", info.label).chars().take(15).collect();
        let label = info.label.clone();
        let session = Session(Served::new(info, config, worker, notifier));
        let end = Arc::new(End(Mutex::new(Some(waits_on))));
        let thread = thread::Builder::new().name(name).spawn({
            let end = end.clone();
            move || {
                if let Err(error) = supervisor.confine(ThreadKind::Session) {
                    return tracing::error!(device = label, %error, "Device is not served");
                }
                match connect(&end) {
                    Ok(connection) => {
                        let error = converse(connection, session);
                        tracing::debug!(device = label, %error, "Connection to the monitor ended");
                    }
                    Err(error) => tracing::debug!(device = label, %error, "The monitor never connected"),
                }
            }
        })?;
        Ok(Self { end, thread: Some(thread) })
    }
}

/// The next connection of a process that runs as this one's user.
fn accept_own(listener: &UnixListener) -> io::Result<UnixStream> {
    loop {
        let (connection, _) = listener.accept()?;
        if sockopt::socket_peercred(&connection)?.uid == rustix::process::geteuid() {
            return Ok(connection);
        }
    }
}

/// Answers messages until the connection ends, one way or the other; says why.
fn converse(connection: UnixStream, session: Session) -> Error {
    let session = Arc::new(Mutex::new(session));
    let mut handler = BackendReqHandler::from_stream(connection, session.clone());
    loop {
        match handler.handle_request() {
            // The monitor was told, if it asked for a reply; the ring in question stays out of service.
            Ok(()) | Err(Error::ReqHandlerError(_)) => {}
            // QEMU's network card enables its rings before it passes the features, once, and expects no reply.
            Err(Error::InactiveFeature(_)) => session.lock().unwrap_or_else(PoisonError::into_inner).0.enable_early(),
            Err(error) => return error,
        }
    }
}

impl End {
    fn lock(&self) -> MutexGuard<'_, Option<OwnedFd>> {
        // Nothing panics while it holds the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on the thread waits on `next`, unless it is to end.
    fn replace(&self, next: OwnedFd) -> io::Result<()> {
        match &mut *self.lock() {
            Some(current) => *current = next,
            None => return Err(io::ErrorKind::ConnectionAborted.into()),
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(current) = self.end.lock().take() {
            // Fails when the monitor closed its end before; the thread is at its end then.
            let _ = shutdown(current.as_fd(), Shutdown::Both);
        }
        if let Some(thread) = self.thread.take() {
            // A panic of the session was printed by its hook; the device is gone either way.
            let _ = thread.join();
        }
    }
}

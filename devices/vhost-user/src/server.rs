//! The session's thread and its end.

use std::io;
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use vhost::vhost_user::{BackendReqHandler, Error};
use virtio::{Supervisor, ThreadKind, VirtioDevice, Worker};

use crate::notifier::Notifier;
use crate::served::Served;
use crate::session::Session;

/// A device being served; dropping it ends its threads and drops the device.
#[derive(Debug)]
pub struct Server {
    connection: UnixStream,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Serves `device` on a new connection and returns the monitor's end of it, ready to be passed to a child.
    ///
    /// The device also stops when the monitor closes its end. `supervisor` confines both threads and hears of faults.
    pub fn start(device: Box<dyn VirtioDevice>, supervisor: Arc<dyn Supervisor>) -> io::Result<(Self, OwnedFd)> {
        let (near, far) = UnixStream::pair()?;
        let connection = near.try_clone()?;
        let (info, config) = (device.info().clone(), device.config());
        let notifier = Arc::new(Notifier::new(&info.label, info.queue_sizes.len(), supervisor.clone()));
        let worker = Worker::spawn(device, notifier.clone())?;
        // Linux shows 15 bytes of a thread's name.
        let name = format!("vu-{}", info.label).chars().take(15).collect();
        let label = info.label.clone();
        let session = Session(Served::new(info, config, worker, notifier));
        let thread = thread::Builder::new().name(name).spawn(move || {
            if let Err(error) = supervisor.confine(ThreadKind::Session) {
                return tracing::error!(device = label, %error, "Device is not served");
            }
            let error = converse(near, session);
            tracing::debug!(device = label, %error, "Connection to the monitor ended");
        })?;
        Ok((Self { connection, thread: Some(thread) }, far.into()))
    }
}

/// Answers messages until the connection ends, one way or the other; says why.
fn converse(connection: UnixStream, session: Session) -> Error {
    let mut handler = BackendReqHandler::from_stream(connection, Arc::new(Mutex::new(session)));
    loop {
        match handler.handle_request() {
            // The monitor was told, if it asked for a reply; the ring in question stays out of service.
            Ok(()) | Err(Error::ReqHandlerError(_)) => {}
            Err(error) => return error,
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Fails when the monitor closed its end before; the thread is at its end then.
        let _ = self.connection.shutdown(Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            // A panic of the session was printed by its hook; the device is gone either way.
            let _ = thread.join();
        }
    }
}

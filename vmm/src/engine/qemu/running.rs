//! A VM whose QEMU is running, and its orderly end.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread::{Builder, JoinHandle};

use vhost_user_server::Server;

use super::launch::{Channels, Launch};
use super::stop::{Cause, Stop};
use super::supervisor::Supervisor;
use crate::engine::{Control, Running};
use crate::{ConsoleLog, Error, Exit, Timeline};

/// QEMU's supervisor and the servers of its devices. They end in this order: QEMU first, so that no device of a live
/// guest loses its back end.
#[derive(Debug)]
pub(super) struct QemuRunning {
    thread: Option<JoinHandle<Exit>>,
    stop: Arc<Stop>,
    servers: Vec<Server>,
}

impl QemuRunning {
    /// Starts QEMU on a thread of its own and returns when it has started.
    pub(super) fn start(
        program: &Path,
        launch: Launch,
        channels: Channels,
        servers: Vec<Server>,
        stop: Arc<Stop>,
        witness: (ConsoleLog, Timeline),
    ) -> Result<Self, Error> {
        let (report, started) = sync_channel(1);
        let (program, heard) = (program.to_owned(), stop.clone());
        let body = move || match Supervisor::start(&program, launch, channels, heard, witness) {
            Ok(supervisor) => {
                // The other side waits for this.
                let _ = report.send(Ok(()));
                supervisor.run()
            }
            Err(error) => {
                let reason = error.to_string();
                let _ = report.send(Err(error));
                Exit::Crashed { reason }
            }
        };
        let failed = |source| Error::Host { doing: "Starting QEMU", source };
        let thread = Builder::new().name("qemu".into()).spawn(body).map_err(failed)?;
        // From here on a drop joins the thread.
        let running = Self { thread: Some(thread), stop, servers };
        started.recv().unwrap_or_else(|_| Err(io::Error::other("its thread panicked"))).map_err(failed)?;
        Ok(running)
    }

    fn finish(&mut self) -> Option<Exit> {
        let exit = self.thread.take()?.join();
        self.servers.clear();
        Some(exit.unwrap_or_else(|_| Exit::Crashed { reason: "the thread that watches QEMU panicked".into() }))
    }
}

impl Running for QemuRunning {
    fn wait(&mut self) -> Result<Exit, Error> {
        Ok(self.finish().unwrap_or(Exit::Killed))
    }

    fn control(&self) -> Arc<dyn Control> {
        Arc::new(QemuControl { stop: self.stop.clone() })
    }
}

impl Drop for QemuRunning {
    fn drop(&mut self) {
        self.stop.request(Cause::Kill);
        self.finish();
    }
}

/// Outlives the VM without keeping any of it alive.
#[derive(Debug)]
struct QemuControl {
    stop: Arc<Stop>,
}

impl Control for QemuControl {
    fn kill(&self) {
        self.stop.request(Cause::Kill);
    }
}

//! The thread that serves one device: sleeps until there is a kick, a ready descriptor or a call from its owner.
//!
//! Used by transports that live in the VM's own process (PCI registers) and by the test kit. The thread is made once, so
//! that it can be confined before the guest runs, and lives through any number of driver starts and resets. A guest that
//! breaks the protocol costs its device (NEEDS_RESET), not the thread; a panic in a device costs the device too.

use std::fmt;
use std::io;
use std::os::fd::AsRawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::{self, JoinHandle};

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::poller::{Poller, Wake};
use crate::{Fault, LocalRings, RateLimit, VirtioDevice, serve_event, serve_pending, serve_queue};

/// Who owns a worker and hears what became of its device.
pub trait Supervisor: Send + Sync + fmt::Debug {
    /// Runs first on the worker's thread: the place to confine it. An error ends the thread.
    fn confine(&self) -> io::Result<()> {
        Ok(())
    }

    /// The device stopped serving until its next reset. After a fault of the guest the transport sets
    /// DEVICE_NEEDS_RESET and sends a configuration interrupt (virtio 1.2, section 2.1.1); a fault of the host is for
    /// the VM's policy. Called on the worker's thread.
    fn faulted(&self, fault: &Fault);
}

/// What a transport hands over when the driver sets DRIVER_OK.
#[derive(Debug)]
pub struct Activation {
    /// Negotiated feature bits, those of the ring included.
    pub features: u64,
    /// The queues, which nobody else touches from now on.
    pub rings: LocalRings,
    /// One eventfd per queue, in their order; written by the driver's kicks.
    pub kicks: Vec<EventFd>,
}

/// Handle of the thread; dropping it stops the thread and drops the device.
#[derive(Debug)]
pub struct Worker {
    calls: Sender<Call>,
    bell: EventFd,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
enum Call {
    Start(Box<Activation>),
    Reset(SyncSender<()>),
    Stop,
}

impl Worker {
    /// Starts the thread, named after the device; the device is idle until [`Worker::start`].
    pub fn spawn(device: Box<dyn VirtioDevice>, supervisor: Arc<dyn Supervisor>) -> io::Result<Self> {
        let bell = EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK)?;
        let poller = Poller::new()?;
        poller.add_wake(bell.as_raw_fd(), Wake::Call)?;
        let (calls, inbox) = channel();
        // Linux shows 15 bytes of a thread's name.
        let name = device.info().label.chars().take(15).collect();
        let ear = bell.try_clone()?;
        let mut service = Service { device, supervisor, poller, active: None, warnings: RateLimit::default() };
        let thread = thread::Builder::new().name(name).spawn(move || service.run(&ear, &inbox))?;
        Ok(Self { calls, bell, thread: Some(thread) })
    }

    /// The driver set DRIVER_OK: the device serves from now on. Failures are reported to the supervisor.
    pub fn start(&self, activation: Activation) -> io::Result<()> {
        self.call(Call::Start(Box::new(activation)))
    }

    /// Stops the device; when this returns, it no longer touches guest RAM. Does nothing to an idle device.
    pub fn reset(&self) -> io::Result<()> {
        let (done, wait) = sync_channel(1);
        self.call(Call::Reset(done))?;
        wait.recv().map_err(|_| thread_is_gone())
    }

    fn call(&self, call: Call) -> io::Result<()> {
        self.calls.send(call).map_err(|_| thread_is_gone())?;
        self.bell.write(1)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // A thread that is gone already cannot be told, and need not be.
        let _ = self.call(Call::Stop);
        if let Some(thread) = self.thread.take() {
            // Panics of the device are caught and reported on the thread itself.
            let _ = thread.join();
        }
    }
}

fn thread_is_gone() -> io::Error {
    io::Error::other("Device worker has ended")
}

/// The thread's side.
struct Service {
    device: Box<dyn VirtioDevice>,
    supervisor: Arc<dyn Supervisor>,
    poller: Poller,
    active: Option<Activation>,
    warnings: RateLimit,
}

/// Whether the thread goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Serve,
    End,
}

impl Service {
    fn run(&mut self, ear: &EventFd, inbox: &Receiver<Call>) {
        if let Err(error) = self.supervisor.confine() {
            return self.report(&Fault::Host(error));
        }
        // After a panic nothing of the device is used again: it is dropped with the thread.
        let end = catch_unwind(AssertUnwindSafe(|| self.serve(ear, inbox)));
        if let Err(error) = end.unwrap_or_else(|_| Err(io::Error::other("Device panicked"))) {
            self.report(&Fault::Host(error));
        }
    }

    fn serve(&mut self, ear: &EventFd, inbox: &Receiver<Call>) -> io::Result<()> {
        loop {
            let busy = self.active.as_ref().is_some_and(|active| active.rings.pending());
            for wake in self.poller.wait(busy)? {
                if wake != Wake::Call {
                    self.guarded(|service| service.wake(wake));
                } else if self.answer(ear, inbox) == Next::End {
                    self.reset();
                    return Ok(());
                }
            }
            self.guarded(Self::go_on);
        }
    }

    fn answer(&mut self, ear: &EventFd, inbox: &Receiver<Call>) -> Next {
        // Non-blocking: fails only when the bell was already silenced.
        let _ = ear.read();
        for call in inbox.try_iter() {
            match call {
                Call::Start(activation) => self.guarded(|service| service.start(*activation)),
                Call::Reset(done) => {
                    self.reset();
                    // The caller waits for this, unless it died meanwhile.
                    let _ = done.send(());
                }
                Call::Stop => return Next::End,
            }
        }
        Next::Serve
    }

    fn start(&mut self, activation: Activation) -> Result<(), Fault> {
        self.reset();
        let Activation { features, rings, kicks } = self.active.insert(activation);
        for (queue, kick) in (0u16..).zip(kicks.iter()) {
            self.poller.add_wake(kick.as_raw_fd(), Wake::Kick(queue))?;
        }
        let ram = rings.ram().clone();
        self.device.start(*features, &ram, &mut self.poller)?;
        // Requests may have been made available before the descriptors were polled.
        for queue in 0..rings.count() {
            serve_queue(&mut *self.device, rings, queue, &mut self.poller)?;
        }
        Ok(())
    }

    fn wake(&mut self, wake: Wake) -> Result<(), Fault> {
        let Some(Activation { rings, kicks, .. }) = &mut self.active else { return Ok(()) };
        match wake {
            Wake::Kick(queue) => {
                if let Some(kick) = kicks.get(usize::from(queue)) {
                    // Non-blocking: fails only when the kick was already taken.
                    let _ = kick.read();
                }
                serve_queue(&mut *self.device, rings, queue, &mut self.poller)
            }
            Wake::Token(token) if self.poller.is_watched(token) => {
                serve_event(&mut *self.device, rings, token, &mut self.poller)
            }
            Wake::Token(_) | Wake::Call => Ok(()),
        }
    }

    fn go_on(&mut self) -> Result<(), Fault> {
        match &mut self.active {
            Some(active) => serve_pending(&mut *self.device, &mut active.rings, &mut self.poller),
            None => Ok(()),
        }
    }

    /// Runs one step of the device; a fault ends its service, not the thread.
    fn guarded(&mut self, step: impl FnOnce(&mut Self) -> Result<(), Fault>) {
        if let Err(fault) = step(self) {
            self.reset();
            self.report(&fault);
        }
    }

    fn reset(&mut self) {
        self.device.reset(&mut self.poller);
        self.poller.forget_watched();
        for kick in self.active.take().into_iter().flat_map(|active| active.kicks) {
            // Fails only for a descriptor that was never added because the start failed.
            let _ = self.poller.remove_wake(kick.as_raw_fd());
        }
    }

    fn report(&mut self, fault: &Fault) {
        let device = &self.device.info().label;
        match fault {
            Fault::Host(error) => tracing::error!(device, %error, "Device stopped"),
            fault if self.warnings.allow() => {
                tracing::warn!(device, %fault, "Device stopped until the guest resets it");
            }
            _ => {}
        }
        self.supervisor.faulted(fault);
    }
}

#[cfg(test)]
mod tests;

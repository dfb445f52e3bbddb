//! The thread that serves one device: sleeps until there is a kick, a ready descriptor or a call from its owner.
//!
//! Used by transports that live in the VM's own process (PCI registers) and by the test kit. The thread is made once,
//! so that it can be confined before the guest runs, and lives through any number of driver starts and resets. A guest
//! that breaks the protocol costs its device (NEEDS_RESET), not the thread; a panic in a device costs the device too.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::os::fd::AsRawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::{self, JoinHandle};

use virtio_queue::Queue;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::poller::{Poller, Wake};
use crate::{Fault, LocalRings, RateLimit, VirtioDevice, serve_event, serve_pending, serve_queue};

/// The threads that serve devices, by what they need to be allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ThreadKind {
    /// Runs a device: guest RAM, eventfds, and whatever descriptors the device holds.
    Worker,
    /// Talks vhost-user to a monitor: receives descriptors, maps guest RAM.
    Session,
}

/// Who owns a worker and hears what became of its device.
pub trait Supervisor: Send + Sync + fmt::Debug {
    /// Runs first on every thread that serves the device: the place to confine it. An error ends the thread.
    fn confine(&self, _thread: ThreadKind) -> io::Result<()> {
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
    /// One eventfd per queue, in their order; written by the driver's kicks. Queues past the end of the list get theirs
    /// from [`Worker::start_queue`].
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
    StartQueue { index: u16, queue: Queue, kick: EventFd },
    StopQueue { index: u16, stopped: SyncSender<Option<Queue>> },
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

    /// Puts a queue into service on a started device, in place of the one with the same index.
    pub fn start_queue(&self, index: u16, queue: Queue, kick: EventFd) -> io::Result<()> {
        self.call(Call::StartQueue { index, queue, kick })
    }

    /// Takes a queue out of service and returns it as the device left it; nothing when it was not in service. When this
    /// returns, the queue is no longer touched.
    pub fn stop_queue(&self, index: u16) -> io::Result<Option<Queue>> {
        let (stopped, wait) = sync_channel(1);
        self.call(Call::StopQueue { index, stopped })?;
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
    active: Option<Active>,
    warnings: RateLimit,
}

/// A started device's rings and the kicks that are polled for them.
struct Active {
    rings: LocalRings,
    kicks: BTreeMap<u16, EventFd>,
}

/// Whether the thread goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Serve,
    End,
}

impl Service {
    fn run(&mut self, ear: &EventFd, inbox: &Receiver<Call>) {
        if let Err(error) = self.supervisor.confine(ThreadKind::Worker) {
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
                Call::StartQueue { index, queue, kick } => {
                    self.guarded(|service| service.start_queue(index, queue, kick));
                }
                Call::StopQueue { index, stopped } => {
                    // The caller waits for this, unless it died meanwhile.
                    let _ = stopped.send(self.stop_queue(index));
                }
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
        let Activation { features, rings, kicks } = activation;
        let ram = rings.ram().clone();
        self.active = Some(Active { rings, kicks: BTreeMap::new() });
        self.device.start(features, &ram, &mut self.poller)?;
        (0u16..).zip(kicks).try_for_each(|(index, kick)| self.listen(index, kick))
    }

    fn start_queue(&mut self, index: u16, queue: Queue, kick: EventFd) -> Result<(), Fault> {
        self.stop_queue(index);
        // A device that stopped on a fault waits for its reset.
        let Some(active) = &mut self.active else { return Ok(()) };
        active.rings.put(index, queue);
        self.listen(index, kick)
    }

    fn stop_queue(&mut self, index: u16) -> Option<Queue> {
        let active = self.active.as_mut()?;
        if let Some(kick) = active.kicks.remove(&index) {
            // Every kick in the map was added.
            let _ = self.poller.remove_wake(kick.as_raw_fd());
        }
        active.rings.take(index)
    }

    /// Serves a queue from now on; requests may have been made available before its kicks were polled.
    fn listen(&mut self, index: u16, kick: EventFd) -> Result<(), Fault> {
        let Some(active) = &mut self.active else { return Ok(()) };
        self.poller.add_wake(kick.as_raw_fd(), Wake::Kick(index))?;
        active.kicks.insert(index, kick);
        serve_queue(&mut *self.device, &mut active.rings, index, &mut self.poller)
    }

    fn wake(&mut self, wake: Wake) -> Result<(), Fault> {
        let Some(Active { rings, kicks }) = &mut self.active else { return Ok(()) };
        match wake {
            Wake::Kick(queue) => {
                let Some(kick) = kicks.get(&queue) else { return Ok(()) };
                // Non-blocking: fails only when the kick was already taken.
                let _ = kick.read();
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
        for kick in self.active.take().into_iter().flat_map(|active| active.kicks.into_values()) {
            // Every kick in the map was added.
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

//! A VM whose vCPU threads are running, and its orderly end.

use std::io;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

use kvm_ioctls::VcpuFd;

use super::board::Board;
use super::counts::Counters;
use super::kick;
use super::stop::Stop;
use super::system::System;
use super::vcpu;
use crate::boot::GuestRam;
use crate::engine::{Control, Running};
use crate::{Counts, Error, Exit};

/// A vCPU thread calls into KVM and a little of our code; what it does not touch costs nothing.
const STACK_SIZE: usize = 256 << 10;

/// What all threads of a VM see.
#[derive(Debug, Clone)]
pub(super) struct Shared {
    pub(super) board: Arc<Board>,
    pub(super) counters: Arc<Counters>,
    pub(super) stop: Arc<Stop>,
}

/// The fields are dropped in this order: threads are joined by `finish`, then the VM goes, then its memory.
#[derive(Debug)]
pub(super) struct KvmRunning {
    threads: Vec<JoinHandle<()>>,
    shared: Shared,
    _system: System,
    _ram: GuestRam,
}

impl KvmRunning {
    /// Starts one thread per vCPU.
    pub(super) fn start(vcpus: Vec<VcpuFd>, shared: Shared, system: System, ram: GuestRam) -> Result<Self, Error> {
        kick::install_handler()?;
        let mut running = Self { threads: Vec::with_capacity(vcpus.len()), shared, _system: system, _ram: ram };
        for (index, vcpu) in vcpus.into_iter().enumerate() {
            // An error here drops `running`, which stops and joins those that run already.
            running.threads.push(
                spawn(index, vcpu, running.shared.clone())
                    .map_err(|source| Error::Host { doing: "Starting a vCPU thread", source })?,
            );
        }
        Ok(running)
    }

    fn finish(&mut self) {
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("A vCPU thread panicked");
            }
        }
    }
}

fn spawn(index: usize, vcpu: VcpuFd, shared: Shared) -> io::Result<JoinHandle<()>> {
    Builder::new().name(format!("vcpu{index}")).stack_size(STACK_SIZE).spawn(move || vcpu::run(vcpu, &shared))
}

impl Running for KvmRunning {
    fn wait(&mut self) -> Result<Exit, Error> {
        let exit = self.shared.stop.wait();
        self.finish();
        Ok(exit)
    }

    fn control(&self) -> Arc<dyn Control> {
        Arc::new(KvmControl { stop: self.shared.stop.clone(), counters: self.shared.counters.clone() })
    }
}

impl Drop for KvmRunning {
    fn drop(&mut self) {
        self.shared.stop.request(Exit::Killed);
        self.finish();
    }
}

/// Outlives the VM without keeping any of it alive.
#[derive(Debug)]
struct KvmControl {
    stop: Arc<Stop>,
    counters: Arc<Counters>,
}

impl Control for KvmControl {
    fn kill(&self) {
        self.stop.request(Exit::Killed);
    }

    fn counts(&self) -> Option<Counts> {
        Some(self.counters.read())
    }
}

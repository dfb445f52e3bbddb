//! A VM before, while and after it runs.

use std::sync::Arc;

use crate::engine::{Control, Machine, Running};
use crate::{ConsoleLog, Engine, Error, VmBuilder, VmConfig};

/// A VM that was validated and not started.
#[derive(Debug)]
pub struct Vm {
    pub(crate) engine: Engine,
    pub(crate) machine: Machine,
}

impl Vm {
    /// Starts describing a VM.
    pub fn builder(config: VmConfig) -> VmBuilder {
        VmBuilder::new(config)
    }

    /// Starts the VM.
    pub fn boot(self) -> Result<RunningVm, Error> {
        let Self { engine, machine } = self;
        let console = machine.console.clone();
        let running = match engine {
            Engine::Kvm => crate::engine::kvm::boot(machine)?,
            other => return Err(Error::Engine { engine: "qemu", reason: format!("not built yet: {other:?}") }),
        };
        Ok(RunningVm { running, console })
    }
}

/// A started VM. Dropping it kills the VM and joins its threads and children.
#[derive(Debug)]
pub struct RunningVm {
    running: Box<dyn Running>,
    console: ConsoleLog,
}

impl RunningVm {
    /// Blocks until the VM ends.
    pub fn wait(mut self) -> Result<Exit, Error> {
        self.running.wait()
    }

    /// A handle for other threads.
    pub fn handle(&self) -> Handle {
        Handle { control: self.running.control(), console: self.console.clone() }
    }
}

/// Ends or looks at a running VM from another thread; clones are equal.
#[derive(Debug, Clone)]
pub struct Handle {
    control: Arc<dyn Control>,
    console: ConsoleLog,
}

impl Handle {
    /// Ends the VM at once. Does nothing if it has ended already.
    pub fn kill(&self) {
        self.control.kill();
    }

    /// The end of what the guest wrote to its serial console; stays readable after the VM ended.
    pub fn console(&self) -> &ConsoleLog {
        &self.console
    }

    /// How often the guest left for user space so far; `None` where the engine cannot tell.
    pub fn counts(&self) -> Option<Counts> {
        self.control.counts()
    }
}

/// Exits of all vCPUs to user space, by kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Port reads.
    pub port_reads: u64,
    /// Port writes.
    pub port_writes: u64,
    /// Reads of device registers in memory.
    pub memory_reads: u64,
    /// Writes of device registers in memory.
    pub memory_writes: u64,
    /// Everything else.
    pub others: u64,
}

impl Counts {
    /// All of them together.
    pub fn total(&self) -> u64 {
        self.port_reads + self.port_writes + self.memory_reads + self.memory_writes + self.others
    }
}

/// How a VM ended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Exit {
    /// The guest powered off.
    Shutdown,
    /// The guest asked for a reset (also what a panicking kernel does with `panic=-1`).
    Reset,
    /// [`Handle::kill`] or a drop ended it.
    Killed,
    /// The engine met something it cannot run on from.
    Crashed {
        /// What happened, for the user.
        reason: String,
    },
}

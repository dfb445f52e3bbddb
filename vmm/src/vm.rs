//! A VM before, while and after it runs.

use std::sync::Arc;

use crate::engine::{Control, Machine, Running};
use crate::{Engine, Error, VmBuilder, VmConfig};

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
        Err(Error::Engine { engine: "kvm", reason: format!("not built yet: {:?} {:?}", self.engine, self.machine) })
    }
}

/// A started VM. Dropping it kills the VM and joins its threads and children.
#[derive(Debug)]
pub struct RunningVm {
    running: Box<dyn Running>,
}

impl RunningVm {
    /// Blocks until the VM ends.
    pub fn wait(mut self) -> Result<Exit, Error> {
        self.running.wait()
    }

    /// A handle for other threads.
    pub fn handle(&self) -> Handle {
        Handle { control: self.running.control() }
    }
}

/// Ends a running VM from another thread; clones are equal.
#[derive(Debug, Clone)]
pub struct Handle {
    control: Arc<dyn Control>,
}

impl Handle {
    /// Ends the VM at once. Does nothing if it has ended already.
    pub fn kill(&self) {
        self.control.kill();
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

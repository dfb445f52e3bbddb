//! How vCPUs run: `kvm` and `qemu`, behind the two traits that the rest of the crate needs.

mod choose;
pub(crate) mod kvm;
pub(crate) mod qemu;

pub(crate) use choose::{Choice, choose};

use std::fmt::Debug;

use crate::{ConsoleLog, Counts, Device, Error, Exit, Timeline, VmConfig};

/// A VM that was validated and not started: what an engine's `boot` takes.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) config: VmConfig,
    pub(crate) devices: Vec<Device>,
    pub(crate) timeline: Timeline,
    /// Takes what the guest writes to its serial port.
    pub(crate) console: ConsoleLog,
}

/// A started VM. Dropping it kills the VM and joins every thread and child.
pub(crate) trait Running: Send + Debug {
    /// Blocks until the VM ends.
    fn wait(&mut self) -> Result<Exit, Error>;
    /// A handle by which other threads end the VM.
    fn control(&self) -> std::sync::Arc<dyn Control>;
}

/// What other threads may ask of a running VM.
pub(crate) trait Control: Send + Sync + Debug {
    /// Ends the VM at once; `wait` then returns `Exit::Killed`.
    fn kill(&self);
    /// How often the guest left for user space so far, where the engine can tell.
    fn counts(&self) -> Option<Counts> {
        None
    }
}

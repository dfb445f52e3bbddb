//! From a configuration to a VM that is known to be bootable.

use std::time::Instant;

use crate::engine::Machine;
use crate::{ConsoleLog, Device, Engine, Error, Timeline, Vm, VmConfig};

/// Collects what the VM is made of.
#[derive(Debug)]
pub struct VmBuilder {
    config: VmConfig,
    engine: Engine,
    devices: Vec<Device>,
    timeline: Timeline,
}

impl VmBuilder {
    pub(crate) fn new(config: VmConfig) -> Self {
        Self { config, engine: Engine::Auto, devices: Vec::new(), timeline: Timeline::since(Instant::now()) }
    }

    /// Chooses the engine; the default is [`Engine::Auto`].
    pub fn engine(mut self, engine: Engine) -> Self {
        self.engine = engine;
        self
    }

    /// Adds a device.
    pub fn device(mut self, device: impl Into<Device>) -> Self {
        self.devices.push(device.into());
        self
    }

    /// Sets boot marks on `timeline` instead of on one that starts now.
    pub fn timeline(mut self, timeline: Timeline) -> Self {
        self.timeline = timeline;
        self
    }

    /// Validates everything and starts nothing.
    pub fn build(self) -> Result<Vm, Error> {
        let Self { mut config, engine, devices, timeline } = self;
        let console = ConsoleLog::with_sink(config.serial.take());
        Ok(Vm { engine, machine: Machine { config, devices, timeline, console } })
    }
}

//! From a configuration to a VM that is known to be bootable.

use std::path::PathBuf;
use std::time::Instant;

use crate::engine::{Machine, choose};
use crate::validate::validate;
use crate::{ConsoleLog, Device, Engine, Error, Timeline, Vm, VmConfig};

/// Collects what the VM is made of.
///
/// ```no_run
/// use vmm::{Engine, Initramfs, Kernel, Mib, Vm, VmConfig};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let (kernel, initramfs): (&[u8], &[u8]) = (b"", b"");
/// let config = VmConfig {
///     cpus: 2,
///     memory: Mib(2048),
///     initramfs: Some(Initramfs::from_bytes(initramfs)?),
///     ..VmConfig::new(Kernel::from_bytes(kernel)?)
/// };
/// let (vsock, host) = devices::vsock::Vsock::new(3)?;
/// let vm = Vm::builder(config).engine(Engine::Auto).device(vsock).build()?;
/// println!("{:?} will run it", vm.engine());
/// # drop(host);
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct VmBuilder {
    config: VmConfig,
    engine: Engine,
    devices: Vec<Device>,
    timeline: Timeline,
    qemu: Option<PathBuf>,
}

impl VmBuilder {
    pub(crate) fn new(config: VmConfig) -> Self {
        let timeline = Timeline::since(Instant::now());
        Self { config, engine: Engine::Auto, devices: Vec::new(), timeline, qemu: None }
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

    /// Runs this QEMU, should it come to that, instead of the one in `PATH`.
    pub fn qemu(mut self, program: impl Into<PathBuf>) -> Self {
        self.qemu = Some(program.into());
        self
    }

    /// Validates everything, chooses the engine and starts nothing.
    pub fn build(self) -> Result<Vm, Error> {
        let Self { mut config, engine, devices, timeline, qemu } = self;
        validate(&config, &devices)?;
        let choice = choose(engine, qemu)?;
        let console = ConsoleLog::with_sink(config.serial.take());
        Ok(Vm { choice, machine: Machine { config, devices, timeline, console } })
    }
}

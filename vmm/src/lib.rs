//! A micro-VM as a library: RAM, CPUs, kernel, devices, exit. Nothing else.
//!
//! ```no_run
//! # fn main() -> Result<(), vmm::Error> {
//! use vmm::{Engine, Kernel, Mib, Vm, VmConfig};
//! let config = VmConfig { memory: Mib(512), ..VmConfig::new(Kernel::open("vmlinux")?) };
//! let vm = Vm::builder(config).engine(Engine::Auto).build()?; // validates everything, starts nothing
//! let running = vm.boot()?;
//! let exit = running.wait()?; // dropping it instead kills and joins
//! # Ok(()) }
//! ```

pub mod builder;
pub mod config;
pub mod error;
pub mod probe;
pub mod vm;

mod boot;
mod console;
mod device;
mod engine;
mod sandbox;
mod timeline;
mod transport;
mod validate;

pub use builder::VmBuilder;
pub use config::{Engine, Initramfs, Kernel, Mib, VmConfig};
pub use console::ConsoleLog;
pub use device::Device;
pub use error::Error;
pub use probe::{KvmReport, KvmVerdict, Probe, QemuReport, probe};
pub use sandbox::LandlockReport;
pub use timeline::{Mark, Timeline};
pub use vm::{Counts, Exit, Handle, RunningVm, Vm};

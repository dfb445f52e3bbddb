//! Our own VMM on /dev/kvm: the board, its CPUs, and the threads that run them.
//!
//! Uses one signal of the process, `SIGRTMIN`, to interrupt vCPU threads; its handler does nothing. Every number that
//! arrives in an exit is the guest's choice.

mod board;
mod counts;
mod cpuid;
mod devices;
mod explain;
mod huge;
mod interrupt;
mod kick;
mod registers;
mod running;
mod serial;
mod stop;
mod system;
mod vcpu;

use std::sync::Arc;

use board::Board;
use counts::Counters;
use running::KvmRunning;
use stop::Stop;
use system::{Access, CONFIG_SLOT, RAM_SLOT, System};

use super::{Machine, Running};
use crate::boot::{BootInfo, GuestRam, KernelImage, write_params, write_tables};
use crate::{Device, Error};

/// Loads the kernel, builds the board and starts the vCPUs.
pub(crate) fn boot(machine: Machine) -> Result<Box<dyn Running>, Error> {
    let Machine { config, devices, timeline, console } = machine;
    let system = System::create()?;
    let ram = GuestRam::new(config.memory.bytes())?;
    system.map(ram.memory(), RAM_SLOT, Access::ReadWrite)?;
    timeline.mark("engine ready");
    let kernel = KernelImage::parse(&ram, &config.kernel.file)?;
    huge::back(&ram, &kernel);
    kernel.load(&ram, &config.kernel.file)?;
    let rsdp = write_tables(&ram, config.cpus)?;
    let initramfs = config.initramfs.as_ref().map(|initramfs| &initramfs.file);
    write_params(&ram, &BootInfo { kernel: &kernel, initramfs, cmdline: &config.cmdline, rsdp })?;
    timeline.mark("kernel loaded");
    let stop = Arc::new(Stop::default());
    let devices = devices.into_iter().map(Device::into_virtio).collect();
    let bus = devices::plug(devices, &ram.share(), system.vm(), &stop)?;
    system.map(&bus.mirror(), CONFIG_SLOT, Access::ReadOnly)?;
    let board = Arc::new(Board::new(&system, console, bus)?);
    let cpus = vcpu::create(&system, &ram, config.cpus, &kernel.entry)?;
    let shared = running::Shared { board, counters: Arc::new(Counters::default()), stop };
    timeline.mark("kernel entered");
    Ok(Box::new(KvmRunning::start(cpus, shared, system, ram)?))
}

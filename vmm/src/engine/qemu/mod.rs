//! A QEMU child that emulates CPUs and board where no usable KVM is; the devices stay ours.
//!
//! QEMU gets its whole world as descriptors it inherits: kernel and initramfs, one connected socket per device, the
//! serial port, a socket for its events. Only the network card's socket has a name, an abstract one. Nothing is on
//! disk, so nothing can be left behind. Guest RAM is a shared memfd, which QEMU hands to our device threads over
//! vhost-user. The guest is hostile and QEMU may fall to it, so what QEMU says is parsed as carefully as what a guest
//! says, and it runs with its own seccomp filter on.

mod child;
mod cmdline;
mod event;
mod exit;
mod frontend;
mod launch;
mod running;
mod stop;
mod supervisor;
mod tsc;

use std::path::Path;
use std::sync::Arc;

use launch::Launch;
use running::QemuRunning;
use stop::Stop;
use tsc::TscClock;

use super::{Machine, Running};
use crate::Error;

/// Starts QEMU and the threads that serve it.
pub(crate) fn boot(program: &Path, machine: Machine) -> Result<Box<dyn Running>, Error> {
    let tsc = TscClock::start();
    let Machine { config, devices, timeline, console } = machine;
    let stop = Arc::new(Stop::new().map_err(|source| Error::Host { doing: "Preparing QEMU", source })?);
    let mut launch = Launch::new(&config);
    let servers = frontend::attach_all(&mut launch, devices, &stop)?;
    let channels = launch.open_channels()?;
    launch.boot(config, tsc.khz());
    Ok(Box::new(QemuRunning::start(program, launch, channels, servers, stop, (console, timeline))?))
}

//! COM1: an 8250 whose output goes to the VM's console log. It has no input: that is the virtio console's business.

use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};

use kvm_ioctls::VmFd;
use vm_superio::serial::NoEvents;
use vm_superio::{Serial, Trigger};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::system::host;
use crate::boot::layout::COM1_IRQ;
use crate::{ConsoleLog, Error};

/// The UART and its interrupt.
pub(super) struct Com1 {
    uart: Mutex<Serial<Line, NoEvents, Output>>,
}

impl std::fmt::Debug for Com1 {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Com1").finish_non_exhaustive()
    }
}

impl Com1 {
    /// Connects the UART's interrupt to the VM.
    pub(super) fn new(vm: &VmFd, console: ConsoleLog) -> Result<Self, Error> {
        let failed = |source| Error::Host { doing: "Making the serial console", source };
        let line = EventFd::new(EFD_NONBLOCK).map_err(failed)?;
        vm.register_irqfd(&line, COM1_IRQ).map_err(host("Connecting the serial console's interrupt"))?;
        Ok(Self { uart: Mutex::new(Serial::new(Line(line), Output(console))) })
    }

    /// Reads the register at `offset` of the UART's eight.
    pub(super) fn read(&self, offset: u8) -> u8 {
        self.uart.lock().unwrap_or_else(PoisonError::into_inner).read(offset)
    }

    /// Writes the register at `offset`.
    pub(super) fn write(&self, offset: u8, value: u8) {
        // Neither the log nor an eventfd can fail in a way that the guest should notice.
        let _ = self.uart.lock().unwrap_or_else(PoisonError::into_inner).write(offset, value);
    }
}

struct Line(EventFd);

impl Trigger for Line {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.write(1)
    }
}

struct Output(ConsoleLog);

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.push(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

//! Which device answers at which port and address.
//!
//! Called by every vCPU thread, at the guest's will: any port, any address, any width.

use super::serial::Com1;
use super::system::System;
use crate::boot::layout::{COM1_PORT, RESET_PORT, RESET_VALUE, SLEEP_CONTROL_PORT, SLEEP_STATUS_PORT, SLEEP_TYPE_S5};
use crate::transport::PciBus;
use crate::{ConsoleLog, Error};

/// The last port of the UART.
const COM1_LAST: u16 = COM1_PORT + 7;
/// CMOS index and data. Reading all ones there would look like a clock that never finishes its update, so that Linux
/// polls it for a second: it reads zero.
const CMOS_FIRST: u16 = 0x70;
const CMOS_LAST: u16 = 0x71;
/// Command port of the keyboard controller, which can also pulse the CPU's reset line: Linux's last resort.
const KEYBOARD_COMMAND: u16 = 0x64;
const PULSE_RESET: u8 = 0xfe;
/// SLEEP_CONTROL_REG (ACPI 6.5, 4.8.3.7): enable bit and type field.
const SLEEP_ENABLE: u8 = 1 << 5;
const SLEEP_TYPE_SHIFT: u8 = 2;
const SLEEP_TYPE_MASK: u8 = 0x7;

/// What a vCPU does after a port write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    Run,
    Reset,
    PowerOff,
}

/// Everything on the board that is not in the host's kernel.
#[derive(Debug)]
pub(super) struct Board {
    com1: Com1,
    pci: PciBus,
}

impl Board {
    /// Builds the board of `system`.
    pub(super) fn new(system: &System, console: ConsoleLog, pci: PciBus) -> Result<Self, Error> {
        Ok(Self { com1: Com1::new(system.vm(), console)?, pci })
    }

    /// Answers a port read; ports without a device read all ones.
    pub(super) fn read_port(&self, port: u16, data: &mut [u8]) {
        match port {
            COM1_PORT..=COM1_LAST => data.fill_with(|| self.com1.read(offset(port))),
            CMOS_FIRST..=CMOS_LAST | SLEEP_STATUS_PORT => data.fill(0),
            _ => data.fill(0xff),
        }
    }

    /// Takes a port write.
    pub(super) fn write_port(&self, port: u16, data: &[u8]) -> Next {
        match (port, data) {
            (COM1_PORT..=COM1_LAST, bytes) => bytes.iter().for_each(|byte| self.com1.write(offset(port), *byte)),
            (_, [value]) => return control(port, *value),
            _ => {}
        }
        Next::Run
    }

    /// Answers a read of memory that is not RAM; what nobody owns reads all ones.
    pub(super) fn read_memory(&self, address: u64, data: &mut [u8]) {
        self.pci.read(address, data);
    }

    /// Takes a write to memory that is not RAM.
    pub(super) fn write_memory(&self, address: u64, data: &[u8]) {
        self.pci.write(address, data);
    }
}

fn offset(port: u16) -> u8 {
    u8::try_from(port & 7).unwrap_or_default()
}

/// The ports that end the VM.
fn control(port: u16, value: u8) -> Next {
    match (port, value) {
        (RESET_PORT, RESET_VALUE) | (KEYBOARD_COMMAND, PULSE_RESET) => Next::Reset,
        (SLEEP_CONTROL_PORT, value)
            if value & SLEEP_ENABLE != 0 && value >> SLEEP_TYPE_SHIFT & SLEEP_TYPE_MASK == SLEEP_TYPE_S5 =>
        {
            Next::PowerOff
        }
        _ => Next::Run,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_documented_writes_end_the_vm() {
        assert_eq!(control(RESET_PORT, RESET_VALUE), Next::Reset);
        assert_eq!(control(KEYBOARD_COMMAND, PULSE_RESET), Next::Reset);
        assert_eq!(control(SLEEP_CONTROL_PORT, SLEEP_ENABLE | SLEEP_TYPE_S5 << 2), Next::PowerOff);
        assert_eq!(control(SLEEP_CONTROL_PORT, SLEEP_ENABLE), Next::Run);
        assert_eq!(control(SLEEP_CONTROL_PORT, SLEEP_TYPE_S5 << 2), Next::Run);
        assert_eq!(control(KEYBOARD_COMMAND, 0), Next::Run);
        let ends = (0..=u16::MAX).flat_map(|port| (0..=u8::MAX).map(move |value| control(port, value)));
        // Sleep has two bits that do not matter below its type and two above, in all combinations: 2^3 values.
        assert_eq!(ends.filter(|next| *next != Next::Run).count(), 2 + 16);
    }
}

//! ACPI tables of the kvm engine's board: hardware-reduced, so there is no PM timer, no SCI and no legacy interrupt.
//!
//! Only what Linux must be told and cannot probe: CPUs and interrupt controllers (MADT), the PCI bus (MCFG and DSDT),
//! the serial port (DSDT), and how to reset and power off (FADT).

mod dsdt;

use acpi_tables::Aml;
use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic};
use acpi_tables::mcfg::MCFG;
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;

use super::layout::{
    ACPI, ECAM, HIGH_RAM, IOAPIC, LAPIC, RESET_PORT, RESET_VALUE, SLEEP_CONTROL_PORT, SLEEP_STATUS_PORT,
};
use super::{GuestRam, layout};
use crate::Error;

const OEM_ID: [u8; 6] = *b"VMM   ";
const OEM_TABLE_ID: [u8; 8] = *b"VMMBOARD";
const OEM_REVISION: u32 = 1;
/// DSDT revisions from 2 on mean 64-bit integers.
const DSDT_REVISION: u8 = 2;
const TABLE_ALIGNMENT: u64 = 64;
/// FADT IAPC_BOOT_ARCH: no VGA, and no CMOS clock, which would be polled until a timeout.
const NO_VGA_NO_CMOS_CLOCK: u16 = 1 << 2 | 1 << 5;

/// Writes the tables for `cpus` CPUs into guest memory; returns the address of the root pointer.
pub(crate) fn write_tables(ram: &GuestRam, cpus: u8) -> Result<u64, Error> {
    // The root pointer has a fixed size and comes first, the tables it leads to are written behind it.
    let mut space = Space { ram, next: ACPI + TABLE_ALIGNMENT };
    let mut dsdt = Sdt::new(*b"DSDT", 36, DSDT_REVISION, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    dsdt.append_slice(&dsdt::aml());
    let dsdt = space.put(dsdt.as_slice())?;
    let mut xsdt = XSDT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    for table in [fadt(dsdt), madt(cpus), mcfg()] {
        xsdt.add_entry(space.put(&table)?);
    }
    let xsdt = space.put(&bytes(&xsdt))?;
    ram.write(&bytes(&Rsdp::new(OEM_ID, xsdt)), ACPI)?;
    Ok(ACPI)
}

/// Places one table behind the other.
struct Space<'a> {
    ram: &'a GuestRam,
    next: u64,
}

impl Space<'_> {
    fn put(&mut self, table: &[u8]) -> Result<u64, Error> {
        let at = self.next;
        self.next = (at + table.len() as u64).next_multiple_of(TABLE_ALIGNMENT);
        if self.next > HIGH_RAM {
            return Err(Error::Config { field: "cpus", reason: "the ACPI tables do not fit".into() });
        }
        self.ram.write(table, at)?;
        Ok(at)
    }
}

fn fadt(dsdt: u64) -> Vec<u8> {
    let port = |port: u16| GAS::new(AddressSpace::SystemIo, 8, 0, AccessSize::ByteAccess, u64::from(port));
    let mut fadt = FADTBuilder::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION)
        .dsdt_64(dsdt)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::ResetRegSup)
        .flag(Flags::Headless)
        // Neither button is a fixed hardware register.
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton);
    fadt.iapc_boot_arch = NO_VGA_NO_CMOS_CLOCK.into();
    fadt.reset_reg = port(RESET_PORT);
    fadt.reset_value = RESET_VALUE;
    fadt.sleep_control_reg = port(SLEEP_CONTROL_PORT);
    fadt.sleep_status_reg = port(SLEEP_STATUS_PORT);
    bytes(&fadt.finalize())
}

fn madt(cpus: u8) -> Vec<u8> {
    let mut madt = MADT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION, LocalInterruptController::Address(LAPIC));
    for id in 0..cpus {
        madt.add_structure(ProcessorLocalApic::new(id, id, EnabledStatus::Enabled));
    }
    madt.add_structure(IoApic::new(0, IOAPIC, 0));
    bytes(&madt)
}

fn mcfg() -> Vec<u8> {
    let mut mcfg = MCFG::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    mcfg.add_ecam(ECAM, 0, 0, 0);
    bytes(&mcfg)
}

fn bytes(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

// The root pointer must not run into the first table.
const _: () = assert!(size_of::<Rsdp>() as u64 <= TABLE_ALIGNMENT && layout::ACPI.is_multiple_of(16));

#[cfg(test)]
mod tests {
    use vm_memory::{Bytes, GuestAddress};

    use super::*;

    fn read(ram: &GuestRam, at: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        ram.memory().read_slice(&mut bytes, GuestAddress(at)).unwrap();
        bytes
    }

    fn table(ram: &GuestRam, at: u64) -> Vec<u8> {
        let length: u32 = ram.memory().read_obj(GuestAddress(at + 4)).unwrap();
        read(ram, at, length as usize)
    }

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
    }

    #[test]
    fn every_table_is_reachable_and_sums_to_zero() {
        let ram = GuestRam::new(4 << 20).unwrap();
        let root = write_tables(&ram, 32).unwrap();
        let rsdp = read(&ram, root, 36);
        assert_eq!((&rsdp[..8], sum(&rsdp[..20]), sum(&rsdp)), (&b"RSD PTR "[..], 0, 0));
        let xsdt = table(&ram, u64::from_le_bytes(rsdp[24..32].try_into().unwrap()));
        assert_eq!(sum(&xsdt), 0);
        let mut names = Vec::new();
        for entry in xsdt[36..].chunks(8) {
            let table = table(&ram, u64::from_le_bytes(entry.try_into().unwrap()));
            assert_eq!(sum(&table), 0);
            names.push(String::from_utf8(table[..4].to_vec()).unwrap());
        }
        assert_eq!(names, ["FACP", "APIC", "MCFG"]);
    }

    #[test]
    fn fadt_leads_to_the_dsdt_and_says_there_is_no_cmos_clock() {
        let fadt = fadt(0x1234);
        assert_eq!(u64::from_le_bytes(fadt[140..148].try_into().unwrap()), 0x1234);
        assert_eq!(fadt[109] & 1 << 5, 1 << 5);
        let flags = u32::from_le_bytes(fadt[112..116].try_into().unwrap());
        assert_eq!(flags & (1 << 20 | 1 << 10), 1 << 20 | 1 << 10);
    }

    #[test]
    fn madt_lists_every_cpu() {
        let lapics = |cpus| madt(cpus).len() - madt(1).len();
        assert_eq!((lapics(1), lapics(32)), (0, 31 * 8));
    }
}

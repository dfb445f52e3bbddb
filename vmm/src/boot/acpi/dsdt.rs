//! The part of the tables that is byte code: devices that cannot be probed, and the power-off state.

use acpi_tables::Aml;
use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, Device, EISAName, IO, Interrupt, Memory32Fixed, Name, Package,
    ResourceTemplate,
};

use crate::boot::layout::{COM1_IRQ, COM1_PORT, ECAM, ECAM_SIZE, PCI_WINDOW, PCI_WINDOW_SIZE, SLEEP_TYPE_S5};

/// Ports of PCI configuration mechanism 1.
const PCI_CONFIG_PORT: u16 = 0xcf8;

/// The DSDT's body.
pub(super) fn aml() -> Vec<u8> {
    let mut bytes = Vec::new();
    serial_port(&mut bytes);
    host_bridge(&mut bytes);
    reserved(&mut bytes);
    Name::new("_S5_".into(), &Package::new(vec![&SLEEP_TYPE_S5, &0u8])).to_aml_bytes(&mut bytes);
    bytes
}

/// Without this, a hardware-reduced machine has no interrupt 4 and writes to the console's tty never end.
fn serial_port(bytes: &mut Vec<u8>) {
    Device::new(
        "_SB_.COM1".into(),
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0501")),
            &Name::new("_UID".into(), &0u8),
            &Name::new(
                "_CRS".into(),
                &ResourceTemplate::new(vec![
                    &Interrupt::new(true, true, false, false, COM1_IRQ),
                    &IO::new(COM1_PORT, COM1_PORT, 1, 8),
                ]),
            ),
        ],
    )
    .to_aml_bytes(bytes);
}

/// One bus, so that Linux looks for devices nowhere else; no interrupt routing, as every device has MSI-X.
fn host_bridge(bytes: &mut Vec<u8>) {
    Device::new(
        "_SB_.PCI0".into(),
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0A08")),
            &Name::new("_CID".into(), &EISAName::new("PNP0A03")),
            &Name::new("_UID".into(), &0u8),
            &Name::new("_SEG".into(), &0u8),
            &Name::new("_BBN".into(), &0u8),
            &Name::new(
                "_CRS".into(),
                &ResourceTemplate::new(vec![
                    &AddressSpace::new_bus_number(0u16, 0u16),
                    &IO::new(PCI_CONFIG_PORT, PCI_CONFIG_PORT, 1, 8),
                    &AddressSpace::new_memory(
                        AddressSpaceCacheable::NotCacheable,
                        true,
                        address(PCI_WINDOW),
                        address(PCI_WINDOW + PCI_WINDOW_SIZE - 1),
                        None,
                    ),
                ]),
            ),
        ],
    )
    .to_aml_bytes(bytes);
}

/// Board resources nobody may use: Linux wants ECAM to be listed here before it believes the MCFG.
fn reserved(bytes: &mut Vec<u8>) {
    Device::new(
        "_SB_.MBRD".into(),
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0C02")),
            &Name::new("_UID".into(), &0u8),
            &Name::new(
                "_CRS".into(),
                &ResourceTemplate::new(vec![&Memory32Fixed::new(true, address(ECAM), address(ECAM_SIZE))]),
            ),
        ],
    )
    .to_aml_bytes(bytes);
}

/// The layout keeps everything described here below 4 GiB.
fn address(at: u64) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}

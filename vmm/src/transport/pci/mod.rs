//! The PCI side: configuration space, MSI-X, and the bus that finds a function by address.

mod bus;
mod config;
mod msix;

pub(crate) use bus::PciBus;
pub(super) use bus::PciFunction;
pub(super) use config::{BAR0, COMMAND, Config, Identity, MEMORY_SPACE, SIZE as CONFIG_SIZE};
pub(super) use msix::{CAPABILITY as MSIX_CAPABILITY, Msix, Place, capability as msix_capability};

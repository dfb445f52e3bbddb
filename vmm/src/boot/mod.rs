//! What the guest finds when it starts: its RAM, the kernel in it, the memory map, ACPI tables and the command line.
//!
//! The kvm engine calls this; the qemu engine leaves all of it to QEMU. Kernel images are not trusted: they are parsed
//! with every number checked against the file and the RAM.

mod acpi;
mod bzimage;
mod cmdline;
mod elf;
mod image;
pub(crate) mod layout;
mod params;
mod ram;

pub(crate) use acpi::write_tables;
pub(crate) use image::{Entry, KernelImage};
pub(crate) use params::{BootInfo, write_params};
pub(crate) use ram::{GuestRam, HUGE_PAGE};

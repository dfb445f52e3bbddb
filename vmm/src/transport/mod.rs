//! PCI registers on one side, rings and workers on the other: how the kvm engine's guests reach virtio devices.
//!
//! Nothing here knows KVM: what is needed of it (doorbells, message-signalled interrupts) is the [`Hypervisor`] trait,
//! so that every register is tested without a guest. All offsets, widths and values come from the guest.

mod hypervisor;
mod pci;
mod virtio_pci;

pub(crate) use hypervisor::{Hypervisor, Message, Vector};
pub(crate) use pci::PciBus;
pub(crate) use virtio_pci::VirtioFunction;

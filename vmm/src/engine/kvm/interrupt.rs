//! Interrupts of PCI devices: each vector is an eventfd that the host's kernel turns into its message (irqfd).

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use kvm_bindings::{
    KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI, KVM_IRQCHIP_IOAPIC, KvmIrqRouting, kvm_irq_routing_entry,
    kvm_irq_routing_irqchip, kvm_irq_routing_msi,
};
use kvm_ioctls::VmFd;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::boot::layout::COM1_IRQ;
use crate::transport::{Message, Vector};

/// GSIs below are the I/O APIC's pins.
const FIRST_GSI: u32 = 24;
/// KVM's own limit (KVM_MAX_IRQ_ROUTES), which it answers with a bare EINVAL.
const MAX_GSI: u32 = 4096;

/// Which message each GSI sends. KVM only takes the whole table at once.
#[derive(Debug)]
pub(super) struct Routes {
    vm: Arc<VmFd>,
    entries: Mutex<Entries>,
}

#[derive(Debug)]
struct Entries {
    next_gsi: u32,
    messages: Vec<(u32, Message)>,
}

impl Routes {
    pub(super) fn new(vm: Arc<VmFd>) -> Self {
        Self { vm, entries: Mutex::new(Entries { next_gsi: FIRST_GSI, messages: Vec::new() }) }
    }

    /// A new vector without a message.
    pub(super) fn vector(self: &Arc<Self>) -> io::Result<IrqFd> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let gsi = entries.next_gsi;
        if gsi >= MAX_GSI {
            return Err(io::Error::other("the VM has more interrupt vectors than KVM has routes"));
        }
        entries.next_gsi += 1;
        Ok(IrqFd { routes: self.clone(), gsi, event: None })
    }

    /// Makes `gsi` send `message`. On an error the table stays as it was.
    fn set(&self, gsi: u32, message: Message) -> io::Result<()> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let mut messages = entries.messages.clone();
        match messages.iter_mut().find(|(other, _)| *other == gsi) {
            Some((_, old)) => *old = message,
            None => messages.push((gsi, message)),
        }
        self.vm.set_gsi_routing(&table(&messages)?)?;
        entries.messages = messages;
        Ok(())
    }
}

fn table(messages: &[(u32, Message)]) -> io::Result<KvmIrqRouting> {
    let mut com1 = kvm_irq_routing_entry { gsi: COM1_IRQ, type_: KVM_IRQ_ROUTING_IRQCHIP, ..Default::default() };
    com1.u.irqchip = kvm_irq_routing_irqchip { irqchip: KVM_IRQCHIP_IOAPIC, pin: COM1_IRQ };
    let routes = messages.iter().map(|(gsi, message)| {
        let mut entry = kvm_irq_routing_entry { gsi: *gsi, type_: KVM_IRQ_ROUTING_MSI, ..Default::default() };
        let [a, b, c, d, e, f, g, h] = message.address.to_le_bytes();
        let mut msi = kvm_irq_routing_msi { data: message.data, ..Default::default() };
        (msi.address_lo, msi.address_hi) = (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]));
        entry.u.msi = msi;
        entry
    });
    let entries: Vec<_> = std::iter::once(com1).chain(routes).collect();
    KvmIrqRouting::from_entries(&entries).map_err(|error| io::Error::other(format!("{error:?}")))
}

/// One vector. Descriptor and route are made when it gets its first message: most vectors a device has stay unused.
#[derive(Debug)]
pub(super) struct IrqFd {
    routes: Arc<Routes>,
    gsi: u32,
    event: Option<EventFd>,
}

impl Vector for IrqFd {
    fn program(&mut self, message: Message) -> io::Result<()> {
        self.routes.set(self.gsi, message)?;
        if self.event.is_none() {
            let event = EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK)?;
            self.routes.vm.register_irqfd(&event, self.gsi)?;
            self.event = Some(event);
        }
        Ok(())
    }

    fn raise(&self) {
        // Fails only while the counter is full, when the interrupt is on its way anyway.
        self.event.iter().for_each(|event| drop(event.write(1)));
    }
}

//! Virtio devices on the kvm engine's PCI bus.

use std::io;
use std::sync::Arc;

use kvm_ioctls::{IoEventAddress, NoDatamatch, VmFd};
use virtio::{Ram, VirtioDevice};
use vmm_sys_util::eventfd::EventFd;

use super::interrupt::Routes;
use super::stop::Stop;
use crate::boot::layout::{PCI_WINDOW, PCI_WINDOW_SIZE};
use crate::transport::{Hypervisor, PciBus, Vector, VirtioFunction};
use crate::{Error, Exit};

/// Plugs `devices` into a bus, in their order, with their BARs assigned: Linux keeps what firmware chose.
pub(super) fn plug(
    devices: Vec<Box<dyn VirtioDevice>>,
    ram: &Ram,
    vm: &Arc<VmFd>,
    stop: &Arc<Stop>,
) -> Result<PciBus, Error> {
    let hypervisor = Arc::new(Kvm { vm: vm.clone(), routes: Arc::new(Routes::new(vm.clone())), stop: stop.clone() });
    let mut bus = PciBus::new().map_err(|source| Error::Host { doing: "Making the PCI bus", source })?;
    let step = u64::from(VirtioFunction::BAR_SIZE);
    let bars = (PCI_WINDOW..PCI_WINDOW + PCI_WINDOW_SIZE).step_by(VirtioFunction::BAR_SIZE as usize);
    let count = devices.len();
    for (device, bar) in devices.into_iter().zip(bars) {
        debug_assert!(bar.is_multiple_of(step));
        let bar = u32::try_from(bar).unwrap_or_default();
        let function = VirtioFunction::new(device, bar, ram.clone(), hypervisor.clone());
        let function = function.map_err(|source| Error::Host { doing: "Making a device", source })?;
        if !bus.plug(Arc::new(function)) {
            let reason = format!("{count} devices are more than the PCI bus has room for (32)");
            return Err(Error::Config { field: "devices", reason });
        }
    }
    Ok(bus)
}

/// What the transport gets of KVM.
#[derive(Debug)]
struct Kvm {
    vm: Arc<VmFd>,
    routes: Arc<Routes>,
    stop: Arc<Stop>,
}

impl Hypervisor for Kvm {
    fn add_doorbell(&self, address: u64, kick: &EventFd) -> io::Result<()> {
        Ok(self.vm.register_ioevent(kick, &IoEventAddress::Mmio(address), NoDatamatch)?)
    }

    fn remove_doorbell(&self, address: u64, kick: &EventFd) -> io::Result<()> {
        Ok(self.vm.unregister_ioevent(kick, &IoEventAddress::Mmio(address), NoDatamatch)?)
    }

    fn vector(&self) -> io::Result<Box<dyn Vector>> {
        Ok(Box::new(self.routes.vector()?))
    }

    fn device_failed(&self, label: &str, error: &io::Error) {
        // A guest without one of its disks or shares cannot do what it was started for.
        self.stop.request(Exit::Crashed { reason: format!("The VM's device {label} failed on the host: {error}") });
    }
}

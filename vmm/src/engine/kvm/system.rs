//! /dev/kvm and one VM of it, before there are vCPUs.

use std::io;
use std::sync::Arc;

use kvm_bindings::{CpuId, KVM_API_VERSION, KVM_MAX_CPUID_ENTRIES, KVM_MEM_READONLY, kvm_userspace_memory_region};
use kvm_ioctls::{Cap, Kvm, VmFd};
use vm_memory::{Address, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, MemoryRegionAddress};
use vmm_sys_util::errno;

use crate::Error;
use crate::boot::layout;

/// What the board is built on; every host since Linux 4.9 has these.
const NEEDED: [(Cap, &str); 6] = [
    (Cap::Irqchip, "irqchip"),
    (Cap::Irqfd, "irqfd"),
    (Cap::Ioeventfd, "ioeventfd"),
    (Cap::ImmediateExit, "immediate_exit"),
    (Cap::UserMemory, "user memory"),
    (Cap::ReadonlyMem, "read-only memory"),
];

/// An open /dev/kvm and an empty VM with its in-kernel interrupt controllers.
#[derive(Debug)]
pub(super) struct System {
    kvm: Kvm,
    vm: Arc<VmFd>,
}

impl System {
    /// Opens /dev/kvm and makes a VM without memory and CPUs.
    pub(super) fn create() -> Result<Self, Error> {
        let kvm = Kvm::new().map_err(|error| unusable(&io::Error::from(error)))?;
        let version = kvm.get_api_version();
        if u32::try_from(version) != Ok(KVM_API_VERSION) {
            return Err(engine(format!(
                "/dev/kvm speaks version {version} of its interface instead of {KVM_API_VERSION}"
            )));
        }
        let missing: Vec<&str> =
            NEEDED.iter().filter(|(cap, _)| !kvm.check_extension(*cap)).map(|(_, name)| *name).collect();
        if !missing.is_empty() {
            return Err(engine(format!("this host's KVM lacks {}", missing.join(", "))));
        }
        let vm = create_vm(&kvm)?;
        // Intel CPUs without "unrestricted guest" need both before the first vCPU; elsewhere they do no harm.
        vm.set_identity_map_address(layout::IDENTITY_MAP).map_err(host("Placing KVM's identity map"))?;
        vm.set_tss_address(layout::TSS).map_err(host("Placing KVM's task state segment"))?;
        vm.create_irq_chip().map_err(host("Making the interrupt controllers"))?;
        Ok(Self { kvm, vm: Arc::new(vm) })
    }

    /// The VM's descriptor.
    pub(super) fn vm(&self) -> &Arc<VmFd> {
        &self.vm
    }

    /// What CPUID this host can give a guest.
    pub(super) fn supported_cpuid(&self) -> Result<CpuId, Error> {
        self.kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(host("Asking KVM for its CPUID"))
    }

    /// Whether the local APIC timer takes TSC deadlines; if so the guest need not calibrate it.
    pub(super) fn has_tsc_deadline(&self) -> bool {
        self.kvm.check_extension(Cap::TscDeadlineTimer)
    }

    /// Most vCPUs one VM may have.
    pub(super) fn max_cpus(&self) -> usize {
        self.kvm.get_max_vcpus()
    }

    /// Gives the guest `memory`: its slots are numbered from `first_slot` on.
    ///
    /// The mapping must outlive every vCPU: `KvmRunning` keeps RAM and board until their threads are joined.
    pub(super) fn map(&self, memory: &GuestMemoryMmap, first_slot: u32, access: Access) -> Result<(), Error> {
        let flags = match access {
            Access::ReadWrite => 0,
            Access::ReadOnly => KVM_MEM_READONLY,
        };
        for (slot, region) in (first_slot..).zip(memory.iter()) {
            let address = region
                .get_host_address(MemoryRegionAddress(0))
                .map_err(|error| Error::Host { doing: "Finding guest memory", source: io::Error::other(error) })?;
            let memory = kvm_userspace_memory_region {
                slot,
                flags,
                guest_phys_addr: region.start_addr().raw_value(),
                memory_size: region.len(),
                userspace_addr: address as u64,
            };
            // SAFETY: the range is exactly one live mapping, whose owner keeps it for as long as a vCPU of this VM
            // exists; only volatile accesses are made to it on our side.
            unsafe { self.vm.set_user_memory_region(memory) }.map_err(host("Giving memory to the VM"))?;
        }
        Ok(())
    }
}

/// What a guest may do with memory; writes to what is read-only become exits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    ReadWrite,
    ReadOnly,
}

/// Slots of RAM: two at most, below and above the PCI hole.
pub(super) const RAM_SLOT: u32 = 0;
/// Slot of the PCI configuration space.
pub(super) const CONFIG_SLOT: u32 = 2;

/// KVM_CREATE_VM is interruptible, and a signal during it is no reason to fail.
fn create_vm(kvm: &Kvm) -> Result<VmFd, Error> {
    loop {
        match kvm.create_vm() {
            Ok(vm) => return Ok(vm),
            Err(error) if error.errno() == libc::EINTR => {}
            Err(error) => return Err(unusable(&io::Error::from(error))),
        }
    }
}

/// Wraps the errors of one step.
pub(super) fn host(doing: &'static str) -> impl Fn(errno::Error) -> Error {
    move |error| Error::Host { doing, source: error.into() }
}

fn engine(reason: String) -> Error {
    Error::Engine { engine: "kvm", reason }
}

/// Says what to do about a /dev/kvm that does not open.
fn unusable(error: &io::Error) -> Error {
    engine(match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENXIO | libc::ENODEV) => {
            "there is no /dev/kvm: the CPU's virtualisation is switched off in the firmware, its module (kvm_intel or \
             kvm_amd) is not loaded, or this is a VM or container without it"
                .into()
        }
        Some(libc::EACCES | libc::EPERM) => "no permission to open /dev/kvm: add yourself to the group that owns it, \
             `sudo usermod -aG kvm $USER`, and log in again"
            .into(),
        Some(libc::EBUSY) => "the CPU's virtualisation is in use by another hypervisor (VirtualBox or VMware?)".into(),
        _ => format!("/dev/kvm: {error}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(code: i32) -> String {
        unusable(&io::Error::from_raw_os_error(code)).to_string()
    }

    #[test]
    fn each_way_kvm_can_be_missing_names_its_remedy() {
        assert!(message(libc::ENOENT).contains("module"));
        assert!(message(libc::EACCES).contains("usermod -aG kvm"));
        assert!(message(libc::EBUSY).contains("another hypervisor"));
        assert!(message(libc::EMFILE).contains("/dev/kvm"));
    }
}

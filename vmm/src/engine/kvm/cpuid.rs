//! What each vCPU says about itself: the host's CPUID with our topology (one package, one thread per core) in it.

use kvm_bindings::{CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};

use super::system::System;
use crate::Error;

/// Leaf 1 ECX: the local APIC timer takes TSC deadlines. Without it Linux spends 100 M instructions on calibration.
const TSC_DEADLINE: u32 = 1 << 24;
/// Leaf 1 ECX: a hypervisor is present, so that Linux looks for KVM's clock.
const HYPERVISOR: u32 = 1 << 31;
/// Leaf 1 EDX: EBX[23:16] counts logical processors.
const HTT: u32 = 1 << 28;
/// Level types of leaf 0xb.
const LEVEL_THREAD: u32 = 1;
const LEVEL_CORE: u32 = 2;

/// The CPUID shared by all vCPUs of a VM, but for the ids.
#[derive(Debug)]
pub(super) struct Template {
    cpuid: CpuId,
    cpus: u8,
}

impl Template {
    /// Takes what the host supports and adds the board's topology.
    pub(super) fn new(system: &System, cpus: u8) -> Result<Self, Error> {
        let mut entries: Vec<kvm_cpuid_entry2> = system.supported_cpuid()?.as_slice().to_vec();
        if system.has_tsc_deadline() {
            entries.iter_mut().filter(|entry| entry.function == 1).for_each(|entry| entry.ecx |= TSC_DEADLINE);
        }
        set_topology(&mut entries, cpus);
        let cpuid = CpuId::from_entries(&entries).map_err(|error| Error::Engine {
            engine: "kvm",
            reason: format!("its CPUID has {} entries ({error:?})", entries.len()),
        })?;
        Ok(Self { cpuid, cpus })
    }

    /// The CPUID of the vCPU with this APIC id.
    pub(super) fn for_cpu(&self, id: u8) -> CpuId {
        let mut cpuid = self.cpuid.clone();
        set_id(cpuid.as_mut_slice(), id, self.cpus);
        cpuid
    }
}

/// Bits needed to number `cpus` APIC ids.
fn id_bits(cpus: u8) -> u32 {
    u32::from(cpus).next_power_of_two().trailing_zeros()
}

fn set_topology(entries: &mut Vec<kvm_cpuid_entry2>, cpus: u8) {
    let count = u32::from(cpus);
    // Extended topology: Intel's leaf 0xb, which recent AMD CPUs have too. A host may fill it differently or not at
    // all, so it is written afresh; 0x1f and AMD's 0x80000026 would only say the same again.
    let extended = entries.iter().any(|entry| entry.function == 0xb);
    entries.retain(|entry| !matches!(entry.function, 0xb | 0x1f | 0x8000_0026));
    if extended {
        let level = |index, kind: u32, eax, ebx| kvm_cpuid_entry2 {
            function: 0xb,
            index,
            flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
            eax,
            ebx,
            ecx: kind << 8 | index,
            ..Default::default()
        };
        entries.push(level(0, LEVEL_THREAD, 0, 1));
        entries.push(level(1, LEVEL_CORE, id_bits(cpus), count));
        entries.push(level(2, 0, 0, 0));
    }
    for entry in entries.iter_mut() {
        match entry.function {
            1 => {
                entry.ecx |= HYPERVISOR;
                entry.edx = if cpus > 1 { entry.edx | HTT } else { entry.edx & !HTT };
            }
            // Caches: level 1 and 2 belong to one core, the others are shared by all.
            4 | 0x8000_001d => {
                let sharing = if (entry.eax >> 5) & 0x7 >= 3 { count - 1 } else { 0 };
                entry.eax = entry.eax & 0x3fff | sharing << 14;
                if entry.function == 4 {
                    entry.eax |= ((1 << id_bits(cpus)) - 1) << 26;
                }
            }
            // AMD: number of cores, and how many bits of the APIC id count them.
            0x8000_0008 => entry.ecx = entry.ecx & !0xf0ff | id_bits(cpus) << 12 | (count - 1),
            _ => {}
        }
    }
}

fn set_id(entries: &mut [kvm_cpuid_entry2], id: u8, cpus: u8) {
    let id = u32::from(id);
    for entry in entries {
        match entry.function {
            1 => entry.ebx = entry.ebx & 0xffff | u32::from(cpus) << 16 | id << 24,
            0xb => entry.edx = id,
            // AMD: extended APIC id; core id, one thread per core; one node.
            0x8000_001e => (entry.eax, entry.ebx, entry.ecx) = (id, id, 0),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> Vec<kvm_cpuid_entry2> {
        let entry = |function, index| kvm_cpuid_entry2 { function, index, ..Default::default() };
        let mut entries = vec![entry(1, 0), entry(4, 3), entry(0xb, 0), entry(0xb, 1), entry(0x1f, 0)];
        entries.extend([entry(0x8000_0008, 0), entry(0x8000_001e, 0)]);
        entries[0].ebx = 0x1234_0800;
        entries[1].eax = 3 << 5;
        entries
    }

    fn find(entries: &[kvm_cpuid_entry2], function: u32, index: u32) -> kvm_cpuid_entry2 {
        *entries.iter().find(|entry| (entry.function, entry.index) == (function, index)).unwrap()
    }

    #[test]
    fn every_leaf_tells_the_same_topology() {
        let mut entries = host();
        set_topology(&mut entries, 6);
        set_id(&mut entries, 5, 6);
        let cores = find(&entries, 0xb, 1);
        assert_eq!((cores.eax, cores.ebx, cores.ecx >> 8, cores.edx), (3, 6, LEVEL_CORE, 5));
        assert_eq!(find(&entries, 1, 0).ebx, 0x0506_0800);
        assert_eq!(find(&entries, 1, 0).edx & HTT, HTT);
        assert_eq!(find(&entries, 4, 3).eax >> 14, 7 << 12 | 5);
        assert_eq!(find(&entries, 0x8000_0008, 0).ecx, 3 << 12 | 5);
        assert_eq!(find(&entries, 0x8000_001e, 0).eax, 5);
        assert!(entries.iter().all(|entry| entry.function != 0x1f));
    }

    #[test]
    fn single_cpu_needs_no_id_bits() {
        let mut entries = host();
        set_topology(&mut entries, 1);
        assert_eq!((find(&entries, 0xb, 1).eax, find(&entries, 0xb, 1).ebx), (0, 1));
        assert_eq!(find(&entries, 1, 0).edx & HTT, 0);
    }

    #[test]
    fn id_bits_cover_every_cpu() {
        assert_eq!([1, 2, 3, 4, 5, 31, 32].map(id_bits), [0, 1, 2, 2, 3, 5, 5]);
    }
}

//! Register state at the kernel's entry.

use kvm_bindings::{Msrs, kvm_fpu, kvm_lapic_state, kvm_msr_entry, kvm_regs, kvm_segment};
use kvm_ioctls::VcpuFd;

use super::system::host;
use crate::Error;
use crate::boot::layout::{BOOT_INFO, GDT, IDT, PAGE_TABLES};
use crate::boot::{Entry, GuestRam};

const MSR_MISC_ENABLE: u32 = 0x1a0;
const FAST_STRINGS: u64 = 1;
const MSR_MTRR_DEF_TYPE: u32 = 0x2ff;
/// MTRRs on, everything write-back: there is no firmware that would have said so.
const MTRR_WRITE_BACK: u64 = 1 << 11 | 6;

/// Local APIC registers (Intel SDM vol. 3, 11.4) and their values after firmware: LINT0 takes the PIC, LINT1 the NMI.
const LVT_LINT0: usize = 0x350;
const DELIVERY_EXTINT: u32 = 7 << 8;
const LVT_LINT1: usize = 0x360;
const DELIVERY_NMI: u32 = 4 << 8;

const CR0_PE: u64 = 1;
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME_LMA: u64 = 1 << 8 | 1 << 10;
/// Bit 1 of RFLAGS is always set.
const RFLAGS: u64 = 2;
/// x87 and SSE control words after reset.
const FPU_CONTROL: u16 = 0x37f;
const SSE_CONTROL: u32 = 0x1f80;

/// Selectors fixed by the 64-bit boot protocol: __BOOT_CS and __BOOT_DS.
const CODE: u16 = 0x10;
const DATA: u16 = 0x18;
const TASK: u16 = 0x20;
const TYPE_CODE: u8 = 0xb;
const TYPE_DATA: u8 = 0x3;
const TYPE_TASK: u8 = 0xb;

/// State that every vCPU starts with, the ones still waiting for their start-up interrupt too.
pub(super) fn set_common(vcpu: &VcpuFd) -> Result<(), Error> {
    let msr = |index, data| kvm_msr_entry { index, data, ..Default::default() };
    let wanted = [msr(MSR_MISC_ENABLE, FAST_STRINGS), msr(MSR_MTRR_DEF_TYPE, MTRR_WRITE_BACK)];
    let refused = |reason| Error::Engine { engine: "kvm", reason };
    let msrs = Msrs::from_entries(&wanted).map_err(|error| refused(format!("it takes no MSRs: {error:?}")))?;
    let set = vcpu.set_msrs(&msrs).map_err(host("Setting a vCPU's MSRs"))?;
    if let Some(next) = wanted.get(set) {
        return Err(refused(format!("it refuses to set MSR {:#x}", next.index)));
    }
    let mut lapic = vcpu.get_lapic().map_err(host("Reading a vCPU's local APIC"))?;
    set_lapic_register(&mut lapic, LVT_LINT0, DELIVERY_EXTINT);
    set_lapic_register(&mut lapic, LVT_LINT1, DELIVERY_NMI);
    vcpu.set_lapic(&lapic).map_err(host("Setting a vCPU's local APIC"))
}

fn set_lapic_register(lapic: &mut kvm_lapic_state, offset: usize, value: u32) {
    for (byte, value) in lapic.regs.iter_mut().skip(offset).zip(value.to_le_bytes()) {
        *byte = value.cast_signed();
    }
}

/// State of the first vCPU at the kernel's entry point.
pub(super) fn set_entry(vcpu: &VcpuFd, ram: &GuestRam, entry: &Entry) -> Result<(), Error> {
    write_descriptor_tables(ram, entry)?;
    let long = matches!(entry, Entry::Linux64(..));
    let mut special = vcpu.get_sregs().map_err(host("Reading a vCPU's registers"))?;
    special.cs = segment(CODE, TYPE_CODE, long);
    let data = segment(DATA, TYPE_DATA, false);
    (special.ds, special.es, special.ss, special.fs, special.gs) = (data, data, data, data, data);
    special.tr = kvm_segment { limit: 0x67, selector: TASK, type_: TYPE_TASK, present: 1, ..Default::default() };
    (special.gdt.base, special.gdt.limit) = (GDT, 5 * 8 - 1);
    (special.idt.base, special.idt.limit) = (IDT, 7);
    (special.cr0, special.cr4, special.efer) = (CR0_PE | CR0_ET, 0, 0);
    let mut general = kvm_regs { rflags: RFLAGS, ..Default::default() };
    match *entry {
        Entry::Pvh(address) => (general.rip, general.rbx) = (u64::from(address), BOOT_INFO),
        Entry::Linux64(address, _) => {
            (special.cr0, special.cr3) = (CR0_PE | CR0_ET | CR0_PG, PAGE_TABLES);
            (special.cr4, special.efer) = (CR4_PAE, EFER_LME_LMA);
            (general.rip, general.rsi) = (address, BOOT_INFO);
        }
    }
    vcpu.set_sregs(&special).map_err(host("Setting a vCPU's registers"))?;
    vcpu.set_regs(&general).map_err(host("Setting a vCPU's registers"))?;
    let fpu = kvm_fpu { fcw: FPU_CONTROL, mxcsr: SSE_CONTROL, ..Default::default() };
    vcpu.set_fpu(&fpu).map_err(host("Setting a vCPU's FPU"))
}

/// A flat segment; code is 64-bit or 32-bit.
fn segment(selector: u16, type_: u8, long: bool) -> kvm_segment {
    let (l, db) = (u8::from(long), u8::from(!long));
    kvm_segment { limit: u32::MAX, selector, type_, present: 1, s: 1, g: 1, l, db, ..Default::default() }
}

/// The same segments in memory, for a kernel that reloads them before it has its own tables.
fn write_descriptor_tables(ram: &GuestRam, entry: &Entry) -> Result<(), Error> {
    const DATA_32: u64 = 0x00cf_9300_0000_ffff;
    const TASK_STATE: u64 = 0x0000_8b00_0000_0067;
    let code: u64 = match entry {
        Entry::Pvh(_) => 0x00cf_9b00_0000_ffff,
        Entry::Linux64(..) => 0x00af_9b00_0000_ffff,
    };
    let table: Vec<u8> = [0, 0, code, DATA_32, TASK_STATE].into_iter().flat_map(u64::to_le_bytes).collect();
    ram.write(&table, GDT)?;
    ram.write(&[0; 8], IDT)
}

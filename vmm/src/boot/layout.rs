//! Where everything is in guest-physical memory, in one place.

/// Global descriptor table for the first instructions.
pub(crate) const GDT: u64 = 0x500;
/// Empty interrupt descriptor table beside it.
pub(crate) const IDT: u64 = 0x540;
/// PVH start info or, for the 64-bit protocol, the zero page.
pub(crate) const BOOT_INFO: u64 = 0x7000;
/// The PVH module list, then the PVH memory map, in the page after.
pub(crate) const PVH_MODULES: u64 = 0x8000;
/// The PVH memory map.
pub(crate) const PVH_MEMORY_MAP: u64 = 0x8100;
/// Initial page tables of the 64-bit protocol: PML4, PDPT and one page directory, a page each.
pub(crate) const PAGE_TABLES: u64 = 0x9000;
/// Kernel command line, with its terminating zero.
pub(crate) const CMDLINE: u64 = 0x2_0000;
/// Longest command line, with its zero (COMMAND_LINE_SIZE of x86 Linux).
pub(crate) const CMDLINE_MAX: usize = 2048;
/// End of conventional memory: the extended BIOS data area used to begin here.
pub(crate) const LOW_RAM_END: u64 = 0x9_fc00;
/// ACPI tables, where firmware had its ROM: reserved in the memory map.
pub(crate) const ACPI: u64 = 0xe_0000;
/// End of the space for ACPI tables; kernels and everything else live above.
pub(crate) const HIGH_RAM: u64 = 0x10_0000;

/// RAM below 4 GiB ends here at the latest; what does not fit continues at 4 GiB.
pub(crate) const HOLE_START: u64 = 0xc000_0000;
/// PCI memory window: every BAR is inside.
pub(crate) const PCI_WINDOW: u64 = 0xc000_0000;
/// Size of the PCI memory window.
pub(crate) const PCI_WINDOW_SIZE: u64 = 0x2000_0000;
/// PCI configuration space by memory (ECAM), one bus.
pub(crate) const ECAM: u64 = 0xe000_0000;
/// One bus of ECAM: 32 devices of 8 functions of 4 KiB.
pub(crate) const ECAM_SIZE: u64 = 0x10_0000;
/// In-kernel I/O APIC.
pub(crate) const IOAPIC: u32 = 0xfec0_0000;
/// In-kernel local APICs.
pub(crate) const LAPIC: u32 = 0xfee0_0000;
/// Page for KVM's identity map (needed on Intel CPUs without unrestricted guest).
pub(crate) const IDENTITY_MAP: u64 = 0xfffb_c000;
/// Three pages for KVM's task state segment (same reason).
pub(crate) const TSS: usize = 0xfffb_d000;
/// RAM above the hole starts here.
pub(crate) const HOLE_END: u64 = 0x1_0000_0000;

/// First port and GSI of the serial console.
pub(crate) const COM1_PORT: u16 = 0x3f8;
/// COM1's interrupt.
pub(crate) const COM1_IRQ: u32 = 4;
/// Writing [`RESET_VALUE`] here resets the machine (FADT RESET_REG).
pub(crate) const RESET_PORT: u16 = 0x600;
/// The value that resets.
pub(crate) const RESET_VALUE: u8 = 1;
/// FADT SLEEP_CONTROL_REG: SLP_TYP in bits 2..5, SLP_EN in bit 5.
pub(crate) const SLEEP_CONTROL_PORT: u16 = 0x601;
/// FADT SLEEP_STATUS_REG: bit 7 says the machine woke up; it never does.
pub(crate) const SLEEP_STATUS_PORT: u16 = 0x602;
/// SLP_TYP of soft off (`\_S5`).
pub(crate) const SLEEP_TYPE_S5: u8 = 5;

/// What a range of guest memory is, in the numbers that both e820 and PVH use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Kind {
    Ram = 1,
    Reserved = 2,
}

/// One entry of the memory map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) start: u64,
    pub(crate) size: u64,
    pub(crate) kind: Kind,
}

/// RAM below the hole and above it, for `size` bytes in all.
pub(crate) fn split(size: u64) -> (u64, u64) {
    let low = size.min(HOLE_START);
    (low, size - low)
}

/// The memory map of a VM with `size` bytes of RAM.
pub(crate) fn memory_map(size: u64) -> Vec<Range> {
    let (low, high) = split(size);
    let ram = |start, size| Range { start, size, kind: Kind::Ram };
    let reserved = |start, size| Range { start, size, kind: Kind::Reserved };
    let mut map = vec![
        ram(0, LOW_RAM_END),
        reserved(ACPI, HIGH_RAM - ACPI),
        ram(HIGH_RAM, low.saturating_sub(HIGH_RAM)),
        // Linux uses ECAM only where the memory map says nobody else may have it.
        reserved(ECAM, ECAM_SIZE),
    ];
    if high > 0 {
        map.push(ram(HOLE_END, high));
    }
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn memory_past_the_hole_continues_at_4_gib() {
        assert_eq!(split(2 * GIB), (2 * GIB, 0));
        assert_eq!(split(8 * GIB), (3 * GIB, 5 * GIB));
        let last = *memory_map(8 * GIB).last().unwrap();
        assert_eq!(last, Range { start: HOLE_END, size: 5 * GIB, kind: Kind::Ram });
    }

    #[test]
    fn ranges_ascend_and_never_overlap() {
        for size in [128 << 20, 3 * GIB, 64 * GIB] {
            let map = memory_map(size);
            assert!(map.windows(2).all(|pair| pair[0].start + pair[0].size <= pair[1].start), "{map:x?}");
        }
    }
}

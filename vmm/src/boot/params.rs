//! What the kernel is told at its entry: PVH start info or the 64-bit protocol's zero page.

use std::fs::File;

use linux_loader::loader::bootparam::{boot_e820_entry, boot_params, setup_header};
use linux_loader::loader::elf::start_info::{hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info};
use vm_memory::ByteValued;

use super::layout::{self, BOOT_INFO, CMDLINE, PAGE_TABLES, PVH_MEMORY_MAP, PVH_MODULES, memory_map};
use super::{Entry, GuestRam, KernelImage, cmdline};
use crate::Error;

/// XEN_HVM_START_MAGIC_VALUE.
const START_INFO_MAGIC: u32 = 0x336e_c578;
/// "Undefined" boot loader.
const LOADER_OTHER: u8 = 0xff;
const PAGE: u64 = 0x1000;
/// Page table bits: present, writable; and in a page directory: a 2 MiB page.
const PRESENT_WRITABLE: u64 = 0b11;
const LARGE: u64 = 1 << 7;

/// What goes into the kernel's parameters besides the memory map.
#[derive(Debug)]
pub(crate) struct BootInfo<'a> {
    pub(crate) kernel: &'a KernelImage,
    pub(crate) initramfs: Option<&'a File>,
    pub(crate) cmdline: &'a str,
    /// Address of the ACPI root pointer.
    pub(crate) rsdp: u64,
}

/// Loads the initramfs and writes everything the kernel's entry point expects to find in memory.
pub(crate) fn write_params(ram: &GuestRam, info: &BootInfo<'_>) -> Result<(), Error> {
    let line = cmdline::join(info.cmdline, info.kernel.cmdline_max)?;
    ram.write(&line, CMDLINE)?;
    let initramfs = info.initramfs.map(|file| load_initramfs(ram, file, info.kernel)).transpose()?;
    match info.kernel.entry {
        Entry::Pvh(_) => write_start_info(ram, info.rsdp, initramfs),
        Entry::Linux64(_, header) => {
            write_page_tables(ram)?;
            write_zero_page(ram, &ZeroPage { header, cmdline_size: line.len() - 1, initramfs, rsdp: info.rsdp })
        }
    }
}

/// Address and size.
type Extent = (u64, u64);

/// Puts the initramfs as high as the kernel allows, where it is in nobody's way.
fn load_initramfs(ram: &GuestRam, file: &File, kernel: &KernelImage) -> Result<Extent, Error> {
    let failed = |source| Error::Host { doing: "Reading the initramfs", source };
    let size = file.metadata().map_err(failed)?.len();
    let top = ram.low_end().min(kernel.initramfs_max.saturating_add(1));
    let start = top.checked_sub(size).map(|start| start & !(PAGE - 1)).filter(|start| *start >= kernel.end);
    let start = start.ok_or_else(|| Error::Config {
        field: "memory",
        reason: format!(
            "kernel ({} MiB) and initramfs ({} MiB) do not fit into {} MiB",
            kernel.end.div_ceil(1 << 20),
            size.div_ceil(1 << 20),
            ram.size() >> 20
        ),
    })?;
    ram.load(file, 0, start, size).map_err(failed)?;
    Ok((start, size))
}

fn write_start_info(ram: &GuestRam, rsdp: u64, initramfs: Option<Extent>) -> Result<(), Error> {
    let map: Vec<hvm_memmap_table_entry> = memory_map(ram.size())
        .iter()
        .map(|range| hvm_memmap_table_entry {
            addr: range.start,
            size: range.size,
            type_: range.kind as u32,
            reserved: 0,
        })
        .collect();
    let mut at = PVH_MEMORY_MAP;
    for entry in &map {
        ram.write(entry.as_slice(), at)?;
        at += size_of::<hvm_memmap_table_entry>() as u64;
    }
    if let Some((paddr, size)) = initramfs {
        ram.write(hvm_modlist_entry { paddr, size, ..Default::default() }.as_slice(), PVH_MODULES)?;
    }
    let info = hvm_start_info {
        magic: START_INFO_MAGIC,
        version: 1,
        nr_modules: u32::from(initramfs.is_some()),
        modlist_paddr: if initramfs.is_some() { PVH_MODULES } else { 0 },
        cmdline_paddr: CMDLINE,
        rsdp_paddr: rsdp,
        memmap_paddr: PVH_MEMORY_MAP,
        memmap_entries: u32::try_from(map.len()).unwrap_or_default(),
        ..Default::default()
    };
    ram.write(info.as_slice(), BOOT_INFO)
}

struct ZeroPage {
    header: setup_header,
    cmdline_size: usize,
    initramfs: Option<Extent>,
    rsdp: u64,
}

fn write_zero_page(ram: &GuestRam, zero_page: &ZeroPage) -> Result<(), Error> {
    let mut params = boot_params { hdr: zero_page.header, acpi_rsdp_addr: zero_page.rsdp, ..Default::default() };
    params.hdr.type_of_loader = LOADER_OTHER;
    params.hdr.cmd_line_ptr = low_half(CMDLINE);
    params.hdr.cmdline_size = u32::try_from(zero_page.cmdline_size).unwrap_or_default();
    if let Some((address, size)) = zero_page.initramfs {
        (params.hdr.ramdisk_image, params.ext_ramdisk_image) = (low_half(address), low_half(address >> 32));
        (params.hdr.ramdisk_size, params.ext_ramdisk_size) = (low_half(size), low_half(size >> 32));
    }
    for (range, entry) in memory_map(ram.size()).iter().zip(&mut params.e820_table) {
        *entry = boot_e820_entry { addr: range.start, size: range.size, r#type: range.kind as u32 };
        params.e820_entries += 1;
    }
    ram.write(params.as_slice(), BOOT_INFO)
}

/// Maps the first GiB onto itself, which holds the kernel, its parameters and its command line.
fn write_page_tables(ram: &GuestRam) -> Result<(), Error> {
    let (directory_pointers, directory) = (PAGE_TABLES + PAGE, PAGE_TABLES + 2 * PAGE);
    ram.write(&(directory_pointers | PRESENT_WRITABLE).to_le_bytes(), PAGE_TABLES)?;
    ram.write(&(directory | PRESENT_WRITABLE).to_le_bytes(), directory_pointers)?;
    let pages: Vec<u8> = (0..512u64).flat_map(|page| (page << 21 | LARGE | PRESENT_WRITABLE).to_le_bytes()).collect();
    ram.write(&pages, directory)
}

fn low_half(value: u64) -> u32 {
    u32::try_from(value & u64::from(u32::MAX)).unwrap_or_default()
}

// The tables below the command line must not run into each other.
const _: () = {
    assert!(PVH_MODULES + size_of::<hvm_modlist_entry>() as u64 <= PVH_MEMORY_MAP);
    assert!(BOOT_INFO + size_of::<boot_params>() as u64 <= PVH_MODULES);
    assert!(PAGE_TABLES + 3 * PAGE <= CMDLINE && CMDLINE + layout::CMDLINE_MAX as u64 <= layout::LOW_RAM_END);
};

#[cfg(test)]
mod tests {
    use std::io::Write;

    use vm_memory::{Bytes, GuestAddress};

    use super::*;

    const MIB: u64 = 1 << 20;

    fn kernel(entry: Entry, initramfs_max: u64) -> KernelImage {
        KernelImage { entry, end: 32 * MIB, initramfs_max, cmdline_max: 2047, start: 16 * MIB, parts: Vec::new() }
    }

    fn initramfs(size: usize) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&vec![7; size]).unwrap();
        file
    }

    #[test]
    fn pvh_start_info_names_map_module_and_command_line() {
        let ram = GuestRam::new(128 * MIB).unwrap();
        let file = initramfs(5000);
        let kernel = kernel(Entry::Pvh(0x100_0000), u64::from(u32::MAX));
        write_params(&ram, &BootInfo { kernel: &kernel, initramfs: Some(&file), cmdline: "x=y", rsdp: 0xe_0000 })
            .unwrap();
        let info: hvm_start_info = ram.memory().read_obj(GuestAddress(BOOT_INFO)).unwrap();
        assert_eq!((info.magic, info.nr_modules, info.rsdp_paddr), (START_INFO_MAGIC, 1, 0xe_0000));
        let module: hvm_modlist_entry = ram.memory().read_obj(GuestAddress(info.modlist_paddr)).unwrap();
        assert_eq!((module.paddr, module.size), (128 * MIB - 2 * PAGE, 5000));
        assert_eq!(ram.memory().read_obj::<u8>(GuestAddress(module.paddr + 4999)).unwrap(), 7);
    }

    #[test]
    fn zero_page_places_the_initramfs_below_the_kernels_limit() {
        let ram = GuestRam::new(256 * MIB).unwrap();
        let file = initramfs(4096);
        let kernel = kernel(Entry::Linux64(0x100_0200, setup_header::default()), 128 * MIB - 1);
        write_params(&ram, &BootInfo { kernel: &kernel, initramfs: Some(&file), cmdline: "", rsdp: 1 }).unwrap();
        let params: boot_params = ram.memory().read_obj(GuestAddress(BOOT_INFO)).unwrap();
        let (image, size, entries) = (params.hdr.ramdisk_image, params.hdr.ramdisk_size, params.e820_entries);
        assert_eq!((u64::from(image), size, entries), (128 * MIB - PAGE, 4096, 4));
    }

    #[test]
    fn initramfs_that_would_overlap_the_kernel_is_refused() {
        let ram = GuestRam::new(33 * MIB).unwrap();
        let file = initramfs(usize::try_from(2 * MIB).unwrap());
        let kernel = kernel(Entry::Pvh(0x100_0000), u64::from(u32::MAX));
        let info = BootInfo { kernel: &kernel, initramfs: Some(&file), cmdline: "", rsdp: 0 };
        let error = write_params(&ram, &info).unwrap_err().to_string();
        assert!(error.contains("do not fit into 33 MiB"), "{error}");
    }
}

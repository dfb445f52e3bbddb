use std::fs::File;
use std::io::Write;

use vm_memory::{Bytes, GuestAddress};

use super::*;

const MIB: u64 = 1 << 20;
const LOAD_AT: u64 = 16 * MIB;
const CODE: &[u8] = b"kernel text";
const NOTES_AT: usize = 0x200;
const CODE_AT: usize = 0x1000;

/// A small valid kernel: one segment to load and, if wanted, the PVH note.
fn vmlinux(pvh: bool) -> Vec<u8> {
    let mut bytes = vec![0; CODE_AT];
    bytes[..6].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1]);
    put(&mut bytes, 18, &MACHINE.to_le_bytes());
    put(&mut bytes, 24, &(LOAD_AT + 4).to_le_bytes());
    put(&mut bytes, 32, &(HEADER_SIZE as u64).to_le_bytes());
    put(&mut bytes, 54, &56u16.to_le_bytes());
    put(&mut bytes, 56, &2u16.to_le_bytes());
    let load = [CODE_AT as u64, 0, LOAD_AT, CODE.len() as u64, 2 * MIB];
    segment(&mut bytes, 0, PT_LOAD, load);
    segment(&mut bytes, 1, PT_NOTE, [NOTES_AT as u64, 0, 0, 48, 48]);
    // A note to skip, with a name that needs padding, then the one that counts.
    put(
        &mut bytes,
        NOTES_AT,
        &[&5u32.to_le_bytes()[..], &4u32.to_le_bytes(), &1u32.to_le_bytes(), b"Linux\0\0\0", &[0; 4]].concat(),
    );
    let kind = if pvh { PVH_ENTRY_NOTE } else { 1 };
    let entry = u32::try_from(LOAD_AT).unwrap() + 8;
    let note =
        [&4u32.to_le_bytes()[..], &8u32.to_le_bytes(), &kind.to_le_bytes(), b"Xen\0", &entry.to_le_bytes(), &[0; 4]];
    put(&mut bytes, NOTES_AT + 24, &note.concat());
    bytes.extend_from_slice(CODE);
    bytes
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

/// Offset, virtual address, physical address, size in the file, size in memory.
fn segment(bytes: &mut [u8], index: usize, kind: u32, numbers: [u64; 5]) {
    let at = HEADER_SIZE + index * PROGRAM_HEADER_SIZE;
    put(bytes, at, &kind.to_le_bytes());
    for (position, number) in numbers.into_iter().enumerate() {
        put(bytes, at + 8 + 8 * position, &number.to_le_bytes());
    }
}

fn try_load(bytes: &[u8], memory: u64) -> Result<(GuestRam, KernelImage), Error> {
    let mut file: File = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    let ram = GuestRam::new(memory)?;
    let kernel = KernelImage::parse(&ram, &file)?;
    kernel.load(&ram, &file)?;
    Ok((ram, kernel))
}

fn message(bytes: &[u8]) -> String {
    try_load(bytes, 64 * MIB).unwrap_err().to_string()
}

#[test]
fn note_names_the_pvh_entry() {
    let (ram, kernel) = try_load(&vmlinux(true), 64 * MIB).unwrap();
    assert_eq!(kernel.entry, Entry::Pvh(u32::try_from(LOAD_AT).unwrap() + 8));
    assert_eq!(kernel.end, LOAD_AT + 2 * MIB);
    let mut text = [0; 12];
    ram.memory().read_slice(&mut text, GuestAddress(LOAD_AT)).unwrap();
    assert_eq!(&text, b"kernel text\0");
}

#[test]
fn without_the_note_the_elf_entry_is_64_bit() {
    let (_, kernel) = try_load(&vmlinux(false), 64 * MIB).unwrap();
    assert!(matches!(kernel.entry, Entry::Linux64(address, _) if address == LOAD_AT + 4));
}

#[test]
fn file_cut_anywhere_is_an_error_and_never_a_panic() {
    let whole = vmlinux(true);
    for length in (0..whole.len()).step_by(7) {
        assert!(try_load(&whole[..length], 64 * MIB).is_err(), "cut at {length}");
    }
}

#[test]
fn file_cut_inside_a_segment_says_so() {
    let whole = vmlinux(true);
    assert!(message(&whole[..whole.len() - 1]).contains("cut short"));
}

#[test]
fn segment_outside_of_ram_is_refused() {
    let mut image = vmlinux(true);
    for address in [0, 0x9_0000, 63 * MIB, 1 << 32, u64::MAX - 5] {
        segment(&mut image, 0, PT_LOAD, [CODE_AT as u64, 0, address, CODE.len() as u64, 2 * MIB]);
        assert!(message(&image).contains("segment 0"), "address {address:#x}");
    }
}

#[test]
fn too_little_memory_says_how_much_there_is() {
    let error = try_load(&vmlinux(true), 8 * MIB).unwrap_err().to_string();
    assert!(error.contains("8 MiB of memory"), "{error}");
}

#[test]
fn sizes_that_contradict_each_other_are_refused() {
    let mut image = vmlinux(true);
    segment(&mut image, 0, PT_LOAD, [CODE_AT as u64, 0, LOAD_AT, 11, 5]);
    assert!(message(&image).contains("larger in the file"));
    segment(&mut image, 0, PT_LOAD, [u64::MAX - 3, 0, LOAD_AT, 11, 11]);
    assert!(message(&image).contains("cut short"));
}

#[test]
fn many_segments_of_the_same_bytes_are_refused() {
    let mut image = vmlinux(true);
    image.truncate(CODE_AT);
    put(&mut image, 56, &64u16.to_le_bytes());
    for index in 0..64 {
        let at = HEADER_SIZE + index * PROGRAM_HEADER_SIZE;
        image.resize(image.len().max(at + PROGRAM_HEADER_SIZE), 0);
        segment(&mut image, index, PT_LOAD, [0, 0, LOAD_AT, 0x1000, 0x1000]);
    }
    assert!(message(&image).contains("overlap"));
}

#[test]
fn notes_of_any_size_end() {
    for size in [0u32, 1, 0x7fff_ffff, u32::MAX] {
        let note = [size.to_le_bytes(), size.to_le_bytes(), PVH_ENTRY_NOTE.to_le_bytes()].concat();
        assert_eq!(pvh_entry(&note.repeat(3)), None);
    }
}

#[test]
fn other_machines_and_header_sizes_are_refused() {
    let mut arm = vmlinux(true);
    put(&mut arm, 18, &183u16.to_le_bytes());
    assert!(message(&arm).contains("not for x86-64"));
    let mut odd = vmlinux(true);
    put(&mut odd, 56, &65u16.to_le_bytes());
    assert!(message(&odd).contains("program headers"));
    let mut far = vmlinux(true);
    put(&mut far, 32, &(u64::MAX - 8).to_le_bytes());
    assert!(message(&far).contains("program headers"));
}

#[test]
fn entry_outside_of_the_kernel_is_refused() {
    let mut image = vmlinux(false);
    put(&mut image, 24, &(40 * MIB).to_le_bytes());
    assert!(message(&image).contains("entry point"));
}

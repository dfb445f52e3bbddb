//! Uncompressed kernels: `vmlinux`, an ELF file entered by PVH or, without its note, by the 64-bit boot protocol.

use linux_loader::loader::bootparam::setup_header;
use vm_memory::ByteValued;

use super::image::{Image, Part, check_fits};
use super::layout::{CMDLINE_MAX, HIGH_RAM, HOLE_END};
use super::{Entry, GuestRam, KernelImage};
use crate::Error;

/// First bytes of an ELF file.
pub(super) const MAGIC: &[u8; 4] = b"\x7fELF";
/// ELFCLASS64, ELFDATA2LSB.
const CLASS_64_LITTLE: [u8; 2] = [2, 1];
/// EM_X86_64.
const MACHINE: u16 = 62;
const HEADER_SIZE: usize = 64;
const PROGRAM_HEADER_SIZE: usize = 56;
/// Linux has five or so.
const MAX_PROGRAM_HEADERS: u16 = 64;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
/// Linux's note segment has about 500 bytes.
const MAX_NOTES: u64 = 64 << 10;
/// XEN_ELFNOTE_PHYS32_ENTRY of Xen's public `elfnote.h`: where a PVH guest starts.
const PVH_ENTRY_NOTE: u32 = 18;

/// Understands the ELF kernel in `image`.
pub(super) fn parse(ram: &GuestRam, image: &Image<'_>) -> Result<KernelImage, Error> {
    let header = Header::read(image)?;
    let (mut start, mut end, mut loaded, mut pvh) = (u64::MAX, HIGH_RAM, 0u64, None);
    let mut parts = Vec::new();
    for index in 0..header.program_headers {
        let segment = Segment::read(image, &header, index)?;
        match segment.kind {
            PT_LOAD if segment.memory_size > 0 => {
                if segment.file_size > segment.memory_size {
                    return Err(Error::Kernel(format!("segment {index} is larger in the file than in memory")));
                }
                let what = format!("segment {index}");
                (start, end) = (
                    start.min(segment.address),
                    end.max(check_fits(ram, &what, segment.address, segment.memory_size)?),
                );
                // The rest of its memory is zero because all fresh RAM is.
                let part = Part { offset: segment.offset, at: segment.address, length: segment.file_size };
                parts.push(image.part(ram, &what, part)?);
                // Segments of a sane file do not overlap: together they are no larger than the file.
                loaded = loaded.saturating_add(segment.file_size);
                if loaded > image.size {
                    return Err(Error::Kernel("its segments overlap in the file".into()));
                }
            }
            PT_NOTE => pvh = pvh.or(pvh_entry(&segment.notes(image)?)),
            _ => {}
        }
    }
    if loaded == 0 {
        return Err(Error::Kernel("the ELF file has nothing to load".into()));
    }
    let entry = match pvh {
        Some(address) => Entry::Pvh(address),
        None => Entry::Linux64(header.entry, header_for_elf()),
    };
    let address = match entry {
        Entry::Pvh(address) => u64::from(address),
        Entry::Linux64(address, _) => address,
    };
    if !(HIGH_RAM..end).contains(&address) {
        return Err(Error::Kernel(format!("its entry point {address:#x} is outside of what it loads")));
    }
    Ok(KernelImage { entry, start, end, initramfs_max: HOLE_END - 1, cmdline_max: CMDLINE_MAX - 1, parts })
}

/// The setup header of a kernel that was built without one in front.
fn header_for_elf() -> setup_header {
    setup_header {
        boot_flag: 0xaa55,
        header: 0x5372_6448,
        version: 0x020f,
        kernel_alignment: 0x100_0000,
        ..Default::default()
    }
}

#[derive(Debug)]
struct Header {
    entry: u64,
    program_offset: u64,
    program_headers: u16,
}

impl Header {
    fn read(image: &Image<'_>) -> Result<Self, Error> {
        let mut bytes = [0; HEADER_SIZE];
        image.read(&mut bytes, 0, "the end of the ELF header")?;
        if bytes[4..6] != CLASS_64_LITTLE || field::<u16>(&bytes, 18) != MACHINE {
            return Err(Error::Kernel("the ELF file is not for x86-64".into()));
        }
        let program_headers = field::<u16>(&bytes, 56);
        if usize::from(field::<u16>(&bytes, 54)) != PROGRAM_HEADER_SIZE || program_headers > MAX_PROGRAM_HEADERS {
            return Err(Error::Kernel(format!("its {program_headers} ELF program headers are not a kernel's")));
        }
        Ok(Self { entry: field(&bytes, 24), program_offset: field(&bytes, 32), program_headers })
    }
}

#[derive(Debug)]
struct Segment {
    kind: u32,
    offset: u64,
    address: u64,
    file_size: u64,
    memory_size: u64,
}

impl Segment {
    fn read(image: &Image<'_>, header: &Header, index: u16) -> Result<Self, Error> {
        let mut bytes = [0; PROGRAM_HEADER_SIZE];
        let offset = header.program_offset.checked_add(u64::from(index) * PROGRAM_HEADER_SIZE as u64);
        let offset = offset.ok_or_else(|| Error::Kernel("its ELF program headers are past the end".into()))?;
        image.read(&mut bytes, offset, "the end of its ELF program headers")?;
        Ok(Self {
            kind: field(&bytes, 0),
            offset: field(&bytes, 8),
            address: field(&bytes, 24),
            file_size: field(&bytes, 32),
            memory_size: field(&bytes, 40),
        })
    }

    fn notes(&self, image: &Image<'_>) -> Result<Vec<u8>, Error> {
        if self.file_size > MAX_NOTES {
            return Err(Error::Kernel(format!("its ELF notes have {} bytes", self.file_size)));
        }
        let mut bytes = vec![0; usize::try_from(self.file_size).unwrap_or_default()];
        image.read(&mut bytes, self.offset, "the end of its ELF notes")?;
        Ok(bytes)
    }
}

/// Finds the PVH entry point among ELF notes: name size, description size and type, then both padded to 4 bytes.
fn pvh_entry(mut notes: &[u8]) -> Option<u32> {
    while let Some((header, rest)) = notes.split_at_checked(12) {
        let size = |at| usize::try_from(field::<u32>(header, at)).ok()?.checked_next_multiple_of(4);
        let (name, rest) = rest.split_at_checked(size(0)?)?;
        let (description, rest) = rest.split_at_checked(size(4)?)?;
        if name == b"Xen\0" && field::<u32>(header, 8) == PVH_ENTRY_NOTE {
            return description.first_chunk().map(|bytes| u32::from_le_bytes(*bytes));
        }
        notes = rest;
    }
    None
}

/// A little-endian number at a fixed offset of a header; zero past its end.
fn field<T: ByteValued + Default>(bytes: &[u8], at: usize) -> T {
    let mut value = T::default();
    if let Some(bytes) = bytes.get(at..at + size_of::<T>()) {
        value.as_mut_slice().copy_from_slice(bytes);
    }
    value
}

#[cfg(test)]
mod tests;

//! Compressed kernels: `bzImage`, entered in 64-bit mode (Documentation/arch/x86/boot.rst).

use linux_loader::loader::bootparam::setup_header;
use vm_memory::ByteValued;

use super::image::{Image, Part, check_fits};
use super::layout::{CMDLINE_MAX, HIGH_RAM};
use super::{Entry, GuestRam, KernelImage};
use crate::Error;

/// Where the setup header stands in the file and in the zero page.
const HEADER_AT: u64 = 0x1f1;
/// "HdrS".
const HEADER_MAGIC: u32 = 0x5372_6448;
const BOOT_FLAG: u16 = 0xaa55;
/// Protocol 2.12 brought `xloadflags`, with which a kernel says that it can be entered in 64-bit mode.
const OLDEST_VERSION: u16 = 0x020c;
const XLF_KERNEL_64: u16 = 1;
const SECTOR: u64 = 512;
/// The 64-bit entry point lies this far behind the start of the protected-mode part.
const ENTRY_64: u64 = 0x200;

/// Says whether `image` has the magic numbers of a bzImage.
pub(super) fn is_bzimage(image: &Image<'_>) -> bool {
    read_header(image).is_ok_and(|header| header.boot_flag == BOOT_FLAG && header.header == HEADER_MAGIC)
}

/// Understands the bzImage: its protected-mode part is what is loaded, and unpacks itself.
pub(super) fn parse(ram: &GuestRam, image: &Image<'_>) -> Result<KernelImage, Error> {
    let header = read_header(image)?;
    let version = header.version;
    if version < OLDEST_VERSION || header.xloadflags & XLF_KERNEL_64 == 0 {
        let (major, minor) = (version >> 8, version & 0xff);
        return Err(Error::Kernel(format!("the bzImage (boot protocol {major}.{minor}) has no 64-bit entry point")));
    }
    // Zero means four, for the sake of ancient kernels.
    let setup_sectors = if header.setup_sects == 0 { 4 } else { u64::from(header.setup_sects) };
    let offset = (setup_sectors + 1) * SECTOR;
    let length = image.size.saturating_sub(offset);
    if length <= ENTRY_64 {
        return Err(Error::Kernel("the bzImage ends with its setup code; it is cut short".into()));
    }
    let claimed = u64::from(header.syssize) * 16;
    if claimed > length {
        return Err(Error::Kernel(format!(
            "the bzImage says it has {claimed} bytes, {length} are there; it is cut short"
        )));
    }
    // Where it was linked to run: there it unpacks in place.
    let at = header.pref_address.max(HIGH_RAM);
    let end = check_fits(ram, "the unpacked kernel", at, length.max(u64::from(header.init_size)))?;
    let part = image.part(ram, "the compressed kernel", Part { offset, at, length })?;
    Ok(KernelImage {
        entry: Entry::Linux64(at + ENTRY_64, header),
        start: at,
        end,
        initramfs_max: u64::from(header.initrd_addr_max),
        cmdline_max: usize::try_from(header.cmdline_size).unwrap_or(usize::MAX).min(CMDLINE_MAX - 1),
        parts: vec![part],
    })
}

fn read_header(image: &Image<'_>) -> Result<setup_header, Error> {
    let mut header = setup_header::default();
    image.read(header.as_mut_slice(), HEADER_AT, "the end of its setup header")?;
    Ok(header)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const MIB: u64 = 1 << 20;

    fn header() -> setup_header {
        setup_header {
            setup_sects: 1,
            boot_flag: BOOT_FLAG,
            header: HEADER_MAGIC,
            version: 0x020f,
            xloadflags: XLF_KERNEL_64,
            pref_address: 16 * MIB,
            init_size: 0x80_0000,
            initrd_addr_max: 0x7fff_ffff,
            cmdline_size: 2047,
            relocatable_kernel: 1,
            ..Default::default()
        }
    }

    fn try_load(header: setup_header, payload: usize) -> Result<KernelImage, Error> {
        let mut bytes = vec![0u8; 2 * 512 + payload];
        bytes[0x1f1..][..size_of::<setup_header>()].copy_from_slice(header.as_slice());
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        KernelImage::parse(&GuestRam::new(64 * MIB).unwrap(), &file)
    }

    #[test]
    fn enters_behind_the_start_of_the_protected_mode_part() {
        let kernel = try_load(header(), 0x1000).unwrap();
        assert!(matches!(kernel.entry, Entry::Linux64(address, _) if address == 16 * MIB + 0x200));
        assert_eq!(kernel.end, 24 * MIB);
        assert_eq!(kernel.initramfs_max, 0x7fff_ffff);
    }

    #[test]
    fn kernel_without_64_bit_entry_is_refused() {
        for old in [setup_header { version: 0x020b, ..header() }, setup_header { xloadflags: 0, ..header() }] {
            assert!(try_load(old, 0x1000).unwrap_err().to_string().contains("64-bit entry"));
        }
    }

    #[test]
    fn missing_payload_is_cut_short() {
        assert!(try_load(header(), 0x100).unwrap_err().to_string().contains("cut short"));
        let claims = setup_header { syssize: 0x1000, ..header() };
        assert!(try_load(claims, 0x1000).unwrap_err().to_string().contains("cut short"));
    }

    #[test]
    fn kernel_that_does_not_fit_is_refused() {
        for large in
            [setup_header { init_size: u32::MAX, ..header() }, setup_header { pref_address: u64::MAX - 4, ..header() }]
        {
            assert!(try_load(large, 0x1000).unwrap_err().to_string().contains("64 MiB of memory"));
        }
    }
}

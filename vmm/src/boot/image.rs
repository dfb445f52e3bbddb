//! A kernel image, whatever its format: first understood, then loaded.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use linux_loader::loader::bootparam::setup_header;

use super::layout::HIGH_RAM;
use super::{GuestRam, bzimage, elf};
use crate::Error;

/// How the first vCPU enters the kernel.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Entry {
    /// 32-bit protected mode at this address, by the PVH protocol.
    Pvh(u32),
    /// 64-bit mode at this address, with the setup header for the zero page.
    Linux64(u64, setup_header),
}

/// A kernel image that was understood: what goes where, and how it is entered.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct KernelImage {
    /// Where and how it starts.
    pub(crate) entry: Entry,
    /// First byte of the memory it is loaded to.
    pub(crate) start: u64,
    /// First byte after the memory the kernel needs before it knows the memory map.
    pub(crate) end: u64,
    /// Highest address the kernel accepts for the last byte of the initramfs.
    pub(crate) initramfs_max: u64,
    /// Longest command line it takes, without the terminating zero.
    pub(crate) cmdline_max: usize,
    /// What is copied from the file.
    pub(super) parts: Vec<Part>,
}

/// Some bytes of the image and the guest address they belong at; checked against file and RAM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) offset: u64,
    pub(super) at: u64,
    pub(super) length: u64,
}

impl KernelImage {
    /// Understands the kernel in `file` for loading into `ram`, telling its format by its content.
    pub(crate) fn parse(ram: &GuestRam, file: &File) -> Result<Self, Error> {
        let metadata = file.metadata().map_err(|source| Error::Host { doing: "Looking at the kernel file", source })?;
        if !metadata.is_file() {
            return Err(Error::Kernel("it is not a regular file".into()));
        }
        let image = Image { file, size: metadata.len() };
        let mut start = [0; 4];
        image.read(&mut start, 0, "its first bytes")?;
        if start == *elf::MAGIC {
            elf::parse(ram, &image)
        } else if bzimage::is_bzimage(&image) {
            bzimage::parse(ram, &image)
        } else {
            let [a, b, c, d] = start;
            let found = format!("it starts with {a:02x} {b:02x} {c:02x} {d:02x}");
            Err(Error::Kernel(format!("it is neither an ELF vmlinux nor a bzImage for x86-64 ({found})")))
        }
    }

    /// Copies the kernel from `file`, of which it was parsed, into `ram`.
    pub(crate) fn load(&self, ram: &GuestRam, file: &File) -> Result<(), Error> {
        self.parts.iter().try_for_each(|part| {
            ram.load(file, part.offset, part.at, part.length).map_err(|error| unreadable("its last segment", &error))
        })
    }
}

/// An image file and its size, so that no number in it can lead past its end.
#[derive(Debug, Clone, Copy)]
pub(super) struct Image<'a> {
    pub(super) file: &'a File,
    pub(super) size: u64,
}

impl Image<'_> {
    /// Reads all of `bytes` at `offset`; `what` names them in the message.
    pub(super) fn read(&self, bytes: &mut [u8], offset: u64, what: &str) -> Result<(), Error> {
        self.file.read_exact_at(bytes, offset).map_err(|error| unreadable(what, &error))
    }

    /// Checks that a part is in the file and fits into RAM; `what` names it in the message.
    pub(super) fn part(&self, ram: &GuestRam, what: &str, part: Part) -> Result<Part, Error> {
        let Part { offset, at, length } = part;
        if offset.checked_add(length).is_none_or(|end| end > self.size) {
            let size = self.size;
            return Err(Error::Kernel(format!("{what} would end past the file's {size} bytes; the file is cut short")));
        }
        check_fits(ram, what, at, length).map(|_| part)
    }
}

/// Checks that a range is RAM that the kernel may have; returns its end.
pub(super) fn check_fits(ram: &GuestRam, what: &str, at: u64, length: u64) -> Result<u64, Error> {
    if at < HIGH_RAM {
        return Err(Error::Kernel(format!("{what} wants address {at:#x}, below 1 MiB")));
    }
    at.checked_add(length).filter(|end| *end <= ram.low_end()).ok_or_else(|| {
        let have = ram.size() >> 20;
        Error::Kernel(format!("{what} needs {length:#x} bytes at {at:#x}, and the VM has {have} MiB of memory"))
    })
}

fn unreadable(what: &str, error: &io::Error) -> Error {
    if error.kind() == io::ErrorKind::UnexpectedEof {
        Error::Kernel(format!("the file ends before {what}; it is cut short"))
    } else {
        Error::Kernel(format!("reading {what} failed: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn load_bytes(bytes: &[u8]) -> String {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        KernelImage::parse(&GuestRam::new(64 << 20).unwrap(), &file).unwrap_err().to_string()
    }

    #[test]
    fn other_formats_are_named_by_their_first_bytes() {
        let message = load_bytes(&[0x1f, 0x8b, 8, 0, 0, 0]);
        assert!(message.contains("neither an ELF vmlinux nor a bzImage"), "{message}");
        assert!(message.contains("1f 8b 08 00"), "{message}");
    }

    #[test]
    fn empty_file_is_cut_short() {
        assert!(load_bytes(b"").contains("cut short"));
    }

    #[test]
    fn directory_is_not_a_kernel() {
        let directory = File::open("/").unwrap();
        let error = KernelImage::parse(&GuestRam::new(64 << 20).unwrap(), &directory).unwrap_err();
        assert!(error.to_string().contains("not a regular file"));
    }
}

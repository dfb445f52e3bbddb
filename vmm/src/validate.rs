//! Everything that can be known to be wrong before anything is started.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::{Device, Error, Mib, VmConfig};

/// More than any laptop has, and what the interrupt controllers of both boards are laid out for.
const MAX_CPUS: u8 = 32;
/// A kernel with everything built in, unpacked, next to its initramfs.
const MIN_MEMORY: Mib = Mib(64);
/// Linux takes no more (COMMAND_LINE_SIZE on x86), its board's own parameters included.
const MAX_CMDLINE: usize = 1536;

const ELF_MAGIC: &[u8] = b"\x7fELF\x02\x01";
/// Where an ELF header says which processor it is for, and the value of x86-64.
const ELF_MACHINE: (u64, &[u8]) = (18, &62u16.to_le_bytes());
/// Where a bzImage has its magic number (Documentation/arch/x86/boot.rst).
const BZIMAGE_MAGIC: (u64, &[u8]) = (0x202, b"HdrS");

/// Checks what can be checked without an engine.
pub(crate) fn validate(config: &VmConfig, devices: &[Device]) -> Result<(), Error> {
    let invalid = |field, reason| Err(Error::Config { field, reason });
    if !(1..=MAX_CPUS).contains(&config.cpus) {
        return invalid("cpus", format!("{} is not between 1 and {MAX_CPUS}", config.cpus));
    }
    if config.memory < MIN_MEMORY {
        return invalid("memory", format!("{} MiB is too little, {} is the least", config.memory.0, MIN_MEMORY.0));
    }
    let host = host_memory();
    if config.memory > host {
        return invalid("memory", format!("{} MiB is more than this host has ({} MiB)", config.memory.0, host.0));
    }
    if config.cmdline.contains(['\0', '\n']) {
        return invalid("cmdline", "it may hold neither line breaks nor zero bytes".into());
    }
    if config.cmdline.len() > MAX_CMDLINE {
        return invalid("cmdline", format!("{} bytes is too long, {MAX_CMDLINE} is the most", config.cmdline.len()));
    }
    check_labels(devices)?;
    check_kernel(&config.kernel.file)
}

/// A label names a device in logs and to the guest; the singular devices are found by their kind alone.
fn check_labels(devices: &[Device]) -> Result<(), Error> {
    for (index, device) in devices.iter().enumerate() {
        let info = device.info();
        for earlier in devices.iter().take(index).map(Device::info) {
            let problem = if earlier.label == info.label {
                "have the same label"
            } else if earlier.kind == info.kind && device.is_singular() {
                "are of a kind of which a VM can have one"
            } else {
                continue;
            };
            let reason = format!("{:?} and {:?} {problem}", earlier.label, info.label);
            return Err(Error::Config { field: "devices", reason });
        }
    }
    Ok(())
}

fn check_kernel(file: &File) -> Result<(), Error> {
    let holds = |(offset, magic): (u64, &[u8])| -> io::Result<bool> {
        let mut bytes = vec![0; magic.len()];
        match file.read_exact_at(&mut bytes, offset) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            read => read.map(|()| bytes == magic),
        }
    };
    let known = || Ok((holds((0, ELF_MAGIC))? && holds(ELF_MACHINE)?) || holds(BZIMAGE_MAGIC)?);
    match known() {
        Ok(true) => Ok(()),
        Ok(false) => Err(Error::Kernel("it is neither a vmlinux for x86-64 nor a bzImage".into())),
        Err(source) => Err(Error::Host { doing: "Reading the kernel", source }),
    }
}

fn host_memory() -> Mib {
    let info = rustix::system::sysinfo();
    // Both are `unsigned long` to the kernel; the product is the memory of one machine.
    let total: u64 = info.totalram;
    Mib(total.saturating_mul(u64::from(info.mem_unit)) >> 20)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kernel;

    fn bzimage() -> Vec<u8> {
        let mut image = vec![0; 4096];
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image
    }

    fn config() -> VmConfig {
        VmConfig::new(Kernel::from_bytes(&bzimage()).unwrap())
    }

    fn refusal(config: &VmConfig) -> String {
        validate(config, &[]).unwrap_err().to_string()
    }

    #[test]
    fn plain_configuration_is_accepted() {
        validate(&config(), &[]).unwrap();
    }

    #[test]
    fn cpus_out_of_range_are_refused() {
        assert!(refusal(&VmConfig { cpus: 0, ..config() }).contains("between 1 and 32"));
        assert!(refusal(&VmConfig { cpus: 33, ..config() }).contains("between 1 and 32"));
    }

    #[test]
    fn memory_the_host_does_not_have_is_refused() {
        assert!(refusal(&VmConfig { memory: Mib(u64::MAX), ..config() }).contains("more than this host has"));
        assert!(refusal(&VmConfig { memory: Mib(1), ..config() }).contains("too little"));
    }

    #[test]
    fn command_line_that_would_be_cut_is_refused() {
        assert!(refusal(&VmConfig { cmdline: "x".repeat(2048), ..config() }).contains("too long"));
        assert!(refusal(&VmConfig { cmdline: "a\nb".into(), ..config() }).contains("line breaks"));
    }

    #[test]
    fn file_that_is_no_kernel_is_refused() {
        let arm = [ELF_MAGIC, &[0; 12], &183u16.to_le_bytes()].concat();
        for bytes in [&b"#!/bin/sh\n"[..], b"", &arm] {
            let kernel = Kernel::from_bytes(bytes).unwrap();
            assert!(refusal(&VmConfig { kernel, ..config() }).contains("neither a vmlinux"));
        }
    }

    #[test]
    fn elf_for_this_processor_is_accepted() {
        let elf = [ELF_MAGIC, &[0; 12], &62u16.to_le_bytes()].concat();
        validate(&VmConfig { kernel: Kernel::from_bytes(&elf).unwrap(), ..config() }, &[]).unwrap();
    }

    #[test]
    fn two_devices_with_one_label_are_refused() {
        let devices = || [devices::rng::Rng::new().into(), devices::rng::Rng::new().into()];
        let refusal = validate(&config(), &devices()).unwrap_err().to_string();
        assert!(refusal.contains(r#""rng" and "rng" have the same label"#), "{refusal}");
    }
}

//! QEMU's arguments, and the descriptors that they name.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use super::cmdline;
use crate::{Error, VmConfig};

/// QEMU's own confinement: no new processes, no privileges, no old or scheduling system calls.
const SANDBOX: &str = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";

/// What a child is to be started with.
#[derive(Debug)]
pub(super) struct Launch {
    pub(super) arguments: Vec<OsString>,
    /// Inherited under the numbers they have here.
    pub(super) descriptors: Vec<OwnedFd>,
}

/// Our ends of what QEMU talks to us on besides devices.
#[derive(Debug)]
pub(super) struct Channels {
    /// What the guest writes to its serial port.
    pub(super) serial: UnixStream,
    /// QEMU's events (QMP).
    pub(super) events: UnixStream,
}

impl Launch {
    /// The bare board: CPUs, memory, nothing that QEMU would add on its own.
    pub(super) fn new(config: &VmConfig) -> Self {
        let mut launch = Self { arguments: Vec::new(), descriptors: Vec::new() };
        launch.flags(&["-nodefaults", "-no-user-config", "-no-reboot"]);
        launch.option("-display", "none");
        launch.option("-sandbox", SANDBOX);
        // The real-time clock stays on: Linux looks for it for a second where it is missing.
        launch.option("-machine", "microvm,memory-backend=ram,x-option-roms=off,pit=off,rtc=on");
        launch.option("-accel", "tcg,thread=multi");
        // Everything the emulator knows: programs built for the last ten years' CPUs die on less. But not the promise
        // that moving single bytes in a repeated instruction is fast: here each takes as long as a word, and reading a
        // cached file two to three times as long as without.
        launch.option("-cpu", "max,-erms,-fsrm");
        // A second CPU that is never there: QEMU before 8.1 leaves the guest's memory barriers out for a machine that
        // can only ever have one. But the devices run in parallel, and a kick or an interrupt gets lost without them.
        let most = config.cpus.max(2);
        launch.option("-smp", &format!("cpus={},maxcpus={most},sockets=1,cores={most},threads=1", config.cpus));
        let memory = config.memory.0;
        launch.option("-m", &format!("{memory}M"));
        launch.option("-object", &format!("memory-backend-memfd,id=ram,size={memory}M,share=on"));
        // Virtio 1 only; the MMIO transport's default is the draft before it.
        launch.option("-global", "virtio-mmio.force-legacy=false");
        launch
    }

    /// Connects the serial port and QEMU's events to us.
    pub(super) fn open_channels(&mut self) -> Result<Channels, Error> {
        let serial = self.socket("serial")?;
        self.option("-serial", "chardev:serial");
        let events = self.socket("events")?;
        self.option("-mon", "chardev=events,mode=control");
        Ok(Channels { serial, events })
    }

    /// What to boot. QEMU opens the files by their descriptors' names, so they need no path of their own.
    pub(super) fn boot(&mut self, config: VmConfig, tsc_khz: u64) {
        let line = cmdline::join(tsc_khz, &config.cmdline);
        let kernel = self.pass(config.kernel.file.into());
        self.option("-kernel", &format!("/proc/self/fd/{kernel}"));
        if let Some(initramfs) = config.initramfs {
            let initramfs = self.pass(initramfs.file.into());
            self.option("-initrd", &format!("/proc/self/fd/{initramfs}"));
        }
        self.option("-append", &line);
    }

    /// Adds a character device `id` on a socket whose other end is returned.
    pub(super) fn socket(&mut self, id: &str) -> Result<UnixStream, Error> {
        let (ours, theirs) = UnixStream::pair().map_err(not_connected)?;
        self.connect(id, theirs.into());
        Ok(ours)
    }

    /// Adds a character device `id` on a connected socket.
    pub(super) fn connect(&mut self, id: &str, socket: OwnedFd) {
        let fd = self.pass(socket);
        self.option("-chardev", &format!("socket,id={id},fd={fd}"));
    }

    /// Lets the child inherit `descriptor`; its number is the same there.
    pub(super) fn pass(&mut self, descriptor: OwnedFd) -> RawFd {
        let number = descriptor.as_raw_fd();
        self.descriptors.push(descriptor);
        number
    }

    pub(super) fn option(&mut self, name: &str, value: &str) {
        self.flags(&[name, value]);
    }

    fn flags(&mut self, words: &[&str]) {
        self.arguments.extend(words.iter().map(OsString::from));
    }
}

fn not_connected(source: io::Error) -> Error {
    Error::Host { doing: "Connecting a socket for QEMU", source }
}

/// Doubles commas: QEMU separates properties with them.
pub(super) fn escape(value: &str) -> String {
    value.replace(',', ",,")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Kernel, Mib};

    fn launch(cpus: u8) -> Launch {
        let kernel = Kernel::from_bytes(b"kernel").unwrap();
        let config = VmConfig { cpus, memory: Mib(640), cmdline: "a,b=c".into(), ..VmConfig::new(kernel) };
        let mut launch = Launch::new(&config);
        launch.boot(config, 1000);
        launch
    }

    fn value(launch: &Launch, name: &str) -> String {
        let at = launch.arguments.iter().position(|word| word == name).unwrap();
        launch.arguments[at + 1].to_str().unwrap().to_owned()
    }

    #[test]
    fn one_cpu_does_not_make_qemu_drop_barriers() {
        assert_eq!(value(&launch(1), "-smp"), "cpus=1,maxcpus=2,sockets=1,cores=2,threads=1");
    }

    #[test]
    fn board_has_what_was_configured_and_nothing_else() {
        let launch = launch(3);
        assert_eq!(value(&launch, "-smp"), "cpus=3,maxcpus=3,sockets=1,cores=3,threads=1");
        assert_eq!(value(&launch, "-m"), "640M");
        assert!(value(&launch, "-object").contains("size=640M,share=on"));
        assert!(launch.arguments.iter().any(|word| word == "-nodefaults"));
        assert!(value(&launch, "-sandbox").starts_with("on,"));
    }

    #[test]
    fn files_are_named_by_inherited_descriptors() {
        let launch = launch(3);
        let fd = launch.descriptors[0].as_raw_fd();
        assert_eq!(value(&launch, "-kernel"), format!("/proc/self/fd/{fd}"));
        assert!(value(&launch, "-append").ends_with("tsc_early_khz=1000 lpj=4000 a,b=c"));
    }

    #[test]
    fn commas_in_properties_are_escaped() {
        assert_eq!(escape("a,b"), "a,,b");
    }
}

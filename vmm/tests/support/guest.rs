//! Guests small enough to be written down in a test: one static program of a few system calls as `/init`.

/// Where the program is loaded; its data follows at a fixed distance, so that both are known while it is written.
const LOAD_AT: u32 = 0x40_0000;
const HEADERS: u32 = 64 + 56;
const DATA_OFFSET: u32 = 0x1000;
const IMAGE: u32 = 0x2000;

const READ: u32 = 0;
const WRITE: u32 = 1;
const OPEN: u32 = 2;
const IOCTL: u32 = 16;
const PAUSE: u32 = 34;
const NANOSLEEP: u32 = 35;
const SOCKET: u32 = 41;
const CONNECT: u32 = 42;
const EXIT: u32 = 60;
const SYNC: u32 = 162;
const MOUNT: u32 = 165;
const REBOOT: u32 = 169;

const REBOOT_MAGIC: [u32; 2] = [0xfee1_dead, 0x2812_1969];
const POWER_OFF: u32 = 0x4321_fedc;
const RESTART: u32 = 0x0123_4567;

/// What a program's system call gets as its first argument.
#[derive(Clone, Copy)]
pub enum First {
    /// A number.
    Number(u32),
    /// What the call before it returned.
    Result,
}

/// A program under construction; every call that fails ends it, upon which the kernel panics.
#[derive(Default)]
pub struct Program {
    code: Vec<u8>,
    data: Vec<u8>,
}

impl Program {
    /// Writes `text` to the console.
    pub fn print(mut self, text: &str) -> Self {
        let at = self.put(text.as_bytes());
        self.call(WRITE, First::Number(1), [at, len(text.len()), 0]).check()
    }

    /// Copies the first `count` bytes of the file to the console.
    pub fn show(mut self, path: &str, count: u32) -> Self {
        let name = self.put(format!("{path}\0").as_bytes());
        let buffer = self.put(&vec![0; count as usize]);
        self.call(OPEN, First::Number(name), [0, 0, 0])
            .check()
            .call(READ, First::Result, [buffer, count, 0])
            .check()
            .call(WRITE, First::Number(1), [buffer, count, 0])
            .check()
    }

    /// Writes everything to the disks.
    pub fn sync(self) -> Self {
        self.call(SYNC, First::Number(0), [0; 3]).check()
    }

    /// Mounts a virtio-fs device on `/mnt`.
    pub fn mount(mut self, tag: &str) -> Self {
        let [tag, at, kind] = [tag, "/mnt", "virtiofs"].map(|text| self.put(format!("{text}\0").as_bytes()));
        self.call(MOUNT, First::Number(tag), [at, kind, 0]).check()
    }

    /// Connects to a port of the host and writes `text` to it. To be used once, before any file is opened.
    pub fn send_to_host(mut self, port: u32, text: &str) -> Self {
        const AF_VSOCK: u32 = 40;
        const SOCK_STREAM: u32 = 1;
        const HOST_CID: u32 = 2;
        /// The first descriptor after the three that a process starts with.
        const SOCKET_FD: First = First::Number(3);
        let address = self.put(&[AF_VSOCK, port, HOST_CID, 0].map(u32::to_le_bytes).concat());
        let at = self.put(text.as_bytes());
        self.call(SOCKET, First::Number(AF_VSOCK), [SOCK_STREAM, 0, 0])
            .check()
            .call(CONNECT, SOCKET_FD, [address, 16, 0])
            .check()
            .call(WRITE, SOCKET_FD, [at, len(text.len()), 0])
            .check()
    }

    /// Opens the file and writes `text` to it.
    pub fn write_to(mut self, path: &str, text: &str) -> Self {
        let name = self.put(format!("{path}\0").as_bytes());
        let at = self.put(text.as_bytes());
        self.call(OPEN, First::Number(name), [1, 0, 0])
            .check()
            .call(WRITE, First::Result, [at, len(text.len()), 0])
            .check()
    }

    /// Sleeps, less than a second.
    pub fn sleep_ms(mut self, ms: u32) -> Self {
        let time = self.put(&[0, u64::from(ms) * 1_000_000].map(u64::to_le_bytes).concat());
        self.call(NANOSLEEP, First::Number(time), [0; 3]).check()
    }

    /// Brings a network card up.
    pub fn bring_up(mut self, card: &str) -> Self {
        const AF_INET: u32 = 2;
        const SOCK_DGRAM: u32 = 2;
        const SIOCSIFFLAGS: u32 = 0x8914;
        const IFF_UP: u8 = 1;
        let mut request = [0; 40];
        request[..card.len()].copy_from_slice(card.as_bytes());
        request[16] = IFF_UP;
        let request = self.put(&request);
        self.call(SOCKET, First::Number(AF_INET), [SOCK_DGRAM, 0, 0])
            .check()
            .call(IOCTL, First::Result, [SIOCSIFFLAGS, request, 0])
            .check()
    }

    /// Ends with a power-off.
    pub fn power_off(self) -> Vec<u8> {
        self.reboot(POWER_OFF)
    }

    /// Ends with a reset.
    pub fn reset(self) -> Vec<u8> {
        self.reboot(RESTART)
    }

    /// Ends `/init`, which makes the kernel panic.
    pub fn panic(self) -> Vec<u8> {
        self.call(EXIT, First::Number(3), [0; 3]).initramfs()
    }

    /// Never ends.
    pub fn idle(mut self) -> Vec<u8> {
        let start = self.code.len();
        self = self.call(PAUSE, First::Number(0), [0; 3]);
        let back = 2 + self.code.len() - start;
        self.code.extend([0xeb, 0u8.wrapping_sub(u8::try_from(back).unwrap())]); // jmp start
        self.initramfs()
    }

    fn reboot(self, how: u32) -> Vec<u8> {
        let [first, second] = REBOOT_MAGIC;
        self.call(REBOOT, First::Number(first), [second, how, 0]).check().initramfs()
    }

    fn call(mut self, number: u32, first: First, [second, third, fourth]: [u32; 3]) -> Self {
        match first {
            First::Number(value) => self.load(&[0xbf], value), // mov edi
            First::Result => self.code.extend([0x89, 0xc7]),   // mov edi, eax
        }
        self.load(&[0xb8], number); // mov eax
        self.load(&[0xbe], second); // mov esi
        self.load(&[0xba], third); // mov edx
        self.load(&[0x41, 0xba], fourth); // mov r10d
        self.code.extend([0x0f, 0x05]); // syscall
        self
    }

    /// Leaves when the last call failed.
    fn check(mut self) -> Self {
        let exit = Self::default().call(EXIT, First::Number(1), [0; 3]).code;
        self.code.extend([0x85, 0xc0, 0x79, u8::try_from(exit.len()).unwrap()]); // test eax, eax; jns over
        self.code.extend(exit);
        self
    }

    fn load(&mut self, opcode: &[u8], value: u32) {
        self.code.extend(opcode);
        self.code.extend(value.to_le_bytes());
    }

    /// Its address.
    fn put(&mut self, bytes: &[u8]) -> u32 {
        let at = LOAD_AT + DATA_OFFSET + len(self.data.len());
        self.data.extend(bytes);
        at
    }

    fn initramfs(self) -> Vec<u8> {
        let mut archive = Vec::new();
        entry(&mut archive, "dev", 0o040_755, (0, 0), &[]);
        entry(&mut archive, "dev/console", 0o020_600, (5, 1), &[]);
        entry(&mut archive, "dev/hwrng", 0o020_600, (10, 183), &[]);
        entry(&mut archive, "mnt", 0o040_755, (0, 0), &[]);
        entry(&mut archive, "dev/vda", 0o060_600, (254, 0), &[]);
        entry(&mut archive, "dev/hvc0", 0o020_600, (229, 0), &[]);
        entry(&mut archive, "init", 0o100_755, (0, 0), &self.elf());
        entry(&mut archive, "TRAILER!!!", 0, (0, 0), &[]);
        archive
    }

    /// A static ELF executable of one segment.
    fn elf(&self) -> Vec<u8> {
        let mut file = b"\x7fELF\x02\x01\x01".to_vec();
        file.resize(16, 0);
        file.extend([2u16, 62].map(u16::to_le_bytes).concat()); // EXEC, x86-64
        file.extend(1u32.to_le_bytes());
        file.extend([u64::from(LOAD_AT + HEADERS), 64, 0].map(u64::to_le_bytes).concat()); // entry, headers
        file.extend(0u32.to_le_bytes());
        file.extend([64u16, 56, 1, 0, 0, 0].map(u16::to_le_bytes).concat());
        file.extend([1u32, 7].map(u32::to_le_bytes).concat()); // LOAD, RWX
        let (at, size) = (u64::from(LOAD_AT), u64::from(IMAGE));
        file.extend([0, at, at, size, size, 0x1000].map(u64::to_le_bytes).concat());
        file.extend(&self.code);
        assert!(file.len() <= DATA_OFFSET as usize && self.data.len() <= (IMAGE - DATA_OFFSET) as usize);
        file.resize(DATA_OFFSET as usize, 0);
        file.extend(&self.data);
        file.resize(IMAGE as usize, 0);
        file
    }
}

/// Appends a file to a cpio archive of the `newc` format.
fn entry(archive: &mut Vec<u8>, name: &str, mode: u32, (major, minor): (u32, u32), content: &[u8]) {
    let inode = len(archive.len());
    let (size, name_size) = (len(content.len()), len(name.len() + 1));
    let fields = [inode, mode, 0, 0, 1, 0, size, 0, 0, major, minor, name_size, 0];
    archive.extend(b"070701");
    fields.iter().for_each(|field| archive.extend(format!("{field:08x}").bytes()));
    archive.extend(name.bytes().chain([0]));
    archive.resize(archive.len().next_multiple_of(4), 0);
    archive.extend(content);
    archive.resize(archive.len().next_multiple_of(4), 0);
}

fn len(length: usize) -> u32 {
    u32::try_from(length).unwrap()
}

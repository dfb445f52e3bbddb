//! The file server against a guest that knows what it was told: nodes and handles from earlier answers, in any order.
//!
//! Besides not panicking, nothing outside the shares may change, nothing guarded or read-only either, nothing hidden
//! may be told, and no device node or set-id file may appear.
#![no_main]

use std::fs;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;

use arbitrary::Arbitrary;
use devices::fs::{Access, Fs, Guarded, Rule, Share};
use libfuzzer_sys::fuzz_target;
use virtio::test_kit::{Buffer, DATA, DriverQueue, InterruptRecorder, ram};
use virtio::{LocalRings, VirtioDevice, Watch, serve_event, serve_pending, serve_queue};
use vmm_sys_util::epoll::EventSet;

const REQUESTS: u16 = 1;
const SERVED: u16 = 0;
const ANSWER: u64 = DATA + (1 << 20);
const ROOM: u32 = 8192;
const CANARY: &[u8] = b"untouched";
const HIDDEN: &[u8] = b"hidden";
/// Longest run of one input; FALLOCATE and COPY_FILE_RANGE may rightly fill the disk and are left out.
const MAX_STEPS: usize = 200;
const SPARED: [u8; 2] = [43, 47];

/// Names that may mean something, or any bytes.
#[derive(Debug, Arbitrary)]
enum Name<'a> {
    Known(u8),
    Any(&'a [u8]),
}

const KNOWN: [&[u8]; 14] = [
    b"a",
    b"b",
    b"dir",
    b"file",
    b"link",
    b"hidden",
    b"HIDDEN",
    b"kept",
    b"way",
    b"0",
    b"1",
    b"..",
    b"../canary",
    b"/etc",
];

impl Name<'_> {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Known(index) => KNOWN[usize::from(*index) % KNOWN.len()],
            Self::Any(bytes) => bytes,
        }
    }
}

/// What the guest sends; nodes and handles are places in the lists of those it was told.
#[derive(Debug, Arbitrary)]
enum Step<'a> {
    /// LOOKUP, UNLINK, RMDIR.
    Named {
        opcode: u8,
        node: u8,
        name: Name<'a>,
    },
    /// MKDIR, MKNOD, CREATE, TMPFILE: mode and flags before the name.
    Make {
        opcode: u8,
        node: u8,
        words: [u32; 4],
        name: Name<'a>,
    },
    Symlink {
        node: u8,
        name: Name<'a>,
        target: Name<'a>,
    },
    Link {
        old: u8,
        node: u8,
        name: Name<'a>,
    },
    Rename {
        node: u8,
        name: Name<'a>,
        to: u8,
        new: Name<'a>,
        flags: u8,
    },
    /// OPEN, OPENDIR.
    Open {
        is_directory: bool,
        node: u8,
        flags: u32,
    },
    /// READ, WRITE, READDIR, READDIRPLUS.
    Transfer {
        opcode: u8,
        node: u8,
        handle: u8,
        offset: u16,
        size: u16,
        flags: u32,
        data: &'a [u8],
    },
    Setattr {
        node: u8,
        valid: u16,
        mode: u16,
        size: u16,
    },
    Forget {
        node: u8,
        count: u8,
    },
    Raw {
        opcode: u8,
        node: u8,
        body: &'a [u8],
        room: u16,
        lie: Option<u32>,
    },
    RawNode {
        opcode: u8,
        node: u64,
        body: &'a [u8],
    },
}

struct Guest {
    device: Fs,
    rings: LocalRings,
    driver: DriverQueue,
    nodes: Vec<u64>,
    handles: Vec<u64>,
}

struct NoWatch;

impl Watch for NoWatch {
    fn add(&mut self, _: BorrowedFd<'_>, _: u16, _: EventSet) -> io::Result<()> {
        Ok(())
    }
    fn modify(&mut self, _: BorrowedFd<'_>, _: u16, _: EventSet) -> io::Result<()> {
        Ok(())
    }
    fn remove(&mut self, _: BorrowedFd<'_>, _: u16) -> io::Result<()> {
        Ok(())
    }
}

impl Guest {
    fn new(shares: Vec<Share>) -> Self {
        let mut device = Fs::new(shares).expect("a device");
        let ram = ram();
        let queues = [DriverQueue::new(&ram, 0, 1024), DriverQueue::new(&ram, 1, 1024)];
        let sides = queues.iter().map(|queue| queue.device_side(false)).collect();
        let rings = LocalRings::new(ram.clone(), sides, Arc::new(InterruptRecorder::new(2)));
        device.start(0, &ram, &mut NoWatch).expect("a start");
        let [_, driver] = queues;
        let mut guest = Self { device, rings, driver, nodes: vec![1, 2, 3], handles: vec![0] };
        let init: Vec<u8> =
            [7u32, 41, 1 << 20, u32::MAX, u32::MAX].iter().flat_map(|word| word.to_le_bytes()).collect();
        guest.send(26, 0, &[&init, &[0; 44]], ROOM, None);
        guest
    }

    fn node(&self, index: u8) -> u64 {
        self.nodes[usize::from(index) % self.nodes.len()]
    }

    fn handle(&self, index: u8) -> u64 {
        self.handles[usize::from(index) % self.handles.len()]
    }

    /// Sends one request and returns the answer's contents, unless it is an error.
    fn send(&mut self, opcode: u8, node: u64, body: &[&[u8]], room: u32, lie: Option<u32>) -> Option<Vec<u8>> {
        let body = body.concat();
        let length = 40 + u32::try_from(body.len()).expect("short");
        let mut request = Vec::new();
        request.extend(lie.unwrap_or(length).to_le_bytes());
        request.extend(u32::from(opcode).to_le_bytes());
        request.extend(7u64.to_le_bytes());
        request.extend(node.to_le_bytes());
        request.extend([0; 16]);
        request.extend(body);
        self.driver.write(DATA, &request);
        self.driver.send(&[Buffer::readable(DATA, length), Buffer::writable(ANSWER, room)]);
        serve_queue(&mut self.device, &mut self.rings, REQUESTS, &mut NoWatch).expect("no fault");
        let mut used = self.driver.used();
        while used.is_none() {
            serve_pending(&mut self.device, &mut self.rings, &mut NoWatch).expect("no fault");
            // What takes long is served by another thread.
            serve_event(&mut self.device, &mut self.rings, SERVED, &mut NoWatch).expect("no fault");
            std::thread::yield_now();
            used = self.driver.used();
        }
        let written = used.expect("an answer").length;
        assert!(written <= room);
        let answer = self.driver.read(ANSWER, usize::try_from(written).expect("small"));
        let is_good = answer.get(4..8) == Some(&[0; 4]);
        is_good.then(|| answer.get(16..).unwrap_or_default().to_vec())
    }

    fn learn(&mut self, opcode: u8, answer: &[u8]) {
        let number =
            |at: usize| answer.get(at..at + 8).map(|bytes| u64::from_le_bytes(bytes.try_into().expect("eight")));
        match opcode {
            1 | 6 | 8 | 9 | 13 => self.nodes.extend(number(0)),
            14 | 27 => self.handles.extend(number(0)),
            35 | 51 => {
                self.nodes.extend(number(0));
                self.handles.extend(number(128));
            }
            28 | 44 => {
                let tells = answer.windows(HIDDEN.len()).any(|window| window == HIDDEN);
                // The guest may have made a name that contains it.
                assert!(!tells || self.has_named_hidden(answer), "the hidden name is listed");
            }
            _ => {}
        }
    }

    /// Whether the hidden name in a listing is only part of a longer one.
    fn has_named_hidden(&self, answer: &[u8]) -> bool {
        let length = u32::try_from(HIDDEN.len()).expect("short").to_le_bytes();
        // `struct fuse_dirent`: the length of the name, the kind, the name.
        !answer.windows(8 + HIDDEN.len()).any(|window| window[..4] == length && &window[8..] == HIDDEN)
    }

    fn step(&mut self, step: &Step<'_>) {
        let zero: &[u8] = b"\0";
        let (opcode, answer) = match step {
            Step::Named { opcode, node, name } => {
                let opcode = [1, 10, 11][usize::from(*opcode) % 3];
                let answer = self.send(opcode, self.node(*node), &[name.bytes(), zero], ROOM, None);
                if opcode == 1 && name.bytes().eq_ignore_ascii_case(HIDDEN) && self.node(*node) == 2 {
                    let told = answer.as_ref().is_some_and(|answer| answer.get(..8) != Some(&[0; 8]));
                    assert!(!told, "the hidden file is told");
                }
                (opcode, answer)
            }
            Step::Make { opcode, node, words, name } => {
                let (opcode, count) = [(9, 2), (8, 4), (35, 4), (51, 4)][usize::from(*opcode) % 4];
                let words: Vec<u8> = words.iter().take(count).flat_map(|word| word.to_le_bytes()).collect();
                (opcode, self.send(opcode, self.node(*node), &[&words, name.bytes(), zero], ROOM, None))
            }
            Step::Symlink { node, name, target } => {
                let body = [name.bytes(), zero, target.bytes(), zero];
                (6, self.send(6, self.node(*node), &body, ROOM, None))
            }
            Step::Link { old, node, name } => {
                let old = self.node(*old).to_le_bytes();
                (13, self.send(13, self.node(*node), &[&old, name.bytes(), zero], ROOM, None))
            }
            Step::Rename { node, name, to, new, flags } => {
                let to = self.node(*to).to_le_bytes();
                let flags = [*flags, 0, 0, 0, 0, 0, 0, 0];
                let body = [&to[..], &flags, name.bytes(), zero, new.bytes(), zero];
                (45, self.send(45, self.node(*node), &body, ROOM, None))
            }
            Step::Open { is_directory, node, flags } => {
                let opcode = if *is_directory { 27 } else { 14 };
                (opcode, self.send(opcode, self.node(*node), &[&flags.to_le_bytes(), &[0; 4]], ROOM, None))
            }
            Step::Transfer { opcode, node, handle, offset, size, flags, data } => {
                let opcode = [15, 16, 28, 44][usize::from(*opcode) % 4];
                let size = if opcode == 16 { u32::try_from(data.len()).expect("short") } else { u32::from(*size) };
                let head = [self.handle(*handle).to_le_bytes(), u64::from(*offset).to_le_bytes()].concat();
                let body: [&[u8]; 6] = [&head, &size.to_le_bytes(), &[0; 12], &flags.to_le_bytes(), &[0; 4], data];
                (opcode, self.send(opcode, self.node(*node), &body, ROOM, None))
            }
            Step::Setattr { node, valid, mode, size } => {
                let mut body = [0; 88];
                body[..2].copy_from_slice(&valid.to_le_bytes());
                body[16..18].copy_from_slice(&size.to_le_bytes());
                body[68..70].copy_from_slice(&mode.to_le_bytes());
                (4, self.send(4, self.node(*node), &[&body], ROOM, None))
            }
            Step::Forget { node, count } => {
                (2, self.send(2, self.node(*node), &[&u64::from(*count).to_le_bytes()], ROOM, None))
            }
            Step::Raw { opcode, .. } | Step::RawNode { opcode, .. } if SPARED.contains(opcode) => return,
            Step::Raw { opcode, node, body, room, lie } => {
                (*opcode, self.send(*opcode, self.node(*node), &[body], u32::from(*room).min(ROOM), *lie))
            }
            Step::RawNode { opcode, node, body } => (*opcode, self.send(*opcode, *node, &[body], ROOM, None)),
        };
        if let Some(answer) = answer {
            self.learn(opcode, &answer);
        }
    }
}

/// Nothing on the host that must not be there.
fn check(folder: &Path) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let entry = entry.expect("an entry");
        let metadata = entry.metadata().expect("its attributes");
        let kind = metadata.file_type();
        assert!(!kind.is_char_device() && !kind.is_block_device(), "{entry:?} is a device");
        assert!(!kind.is_file() || metadata.mode() & 0o6000 == 0, "{entry:?} has a set-id bit");
        if kind.is_dir() {
            check(&entry.path());
        }
    }
}

fuzz_target!(|steps: Vec<Step<'_>>| {
    let host = tempfile::tempdir().expect("a folder");
    let at = |name: &str| host.path().join(name);
    for folder in ["0/way/kept", "0/dir", "1"] {
        fs::create_dir_all(at(folder)).expect("a folder");
    }
    for file in ["canary", "0/hidden", "0/kept", "0/way/kept/file", "0/file", "1/file"] {
        fs::write(at(file), CANARY).expect("a file");
    }
    std::os::unix::fs::symlink("../canary", at("0/link")).expect("a link");
    let mut shares = vec![Share::open(&at("0"), Access::ReadWrite).expect("a share")];
    shares.push(Share::open(&at("1"), Access::ReadOnly).expect("a share"));
    let rules = [("hidden", Rule::Hide), ("kept", Rule::Protect), ("way/kept", Rule::Protect)];
    shares[0].guarded = rules.map(|(path, rule)| Guarded { path: path.into(), rule }).into();
    let mut guest = Guest::new(shares);
    steps.iter().take(MAX_STEPS).for_each(|step| guest.step(step));
    for file in ["canary", "0/hidden", "0/kept", "0/way/kept/file", "1/file"] {
        assert_eq!(fs::read(at(file)).expect("it is still there"), CANARY, "{file}");
    }
    for (folder, entries) in [("", 3), ("1", 1), ("0/way/kept", 1)] {
        assert_eq!(fs::read_dir(at(folder)).expect("a folder").count(), entries, "{folder}");
    }
    check(host.path());
});

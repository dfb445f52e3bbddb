//! What is measured.

use std::fs;
use std::time::Duration;

use devices::fs::test_kit::{Backend, Guest, WriteIn};
use fs_reference::servers::Kind;

use crate::Clock;

/// Small files that are looked up, opened and read.
const FILES: usize = 1000;
const FILE_SIZE: usize = 4096;
/// Entries of the folder that is listed.
const ENTRIES: usize = 10_000;
/// Linux reads folders by the page.
const PAGE: u32 = 4096;
const SMALL: usize = 4096;
const LARGE: usize = 1 << 20;
const LARGE_FILE: usize = 64 << 20;
/// Requests of a sample where there is nothing to count.
const TIMES: usize = 1000;
/// O_RDONLY and O_RDWR.
const READING: u32 = 0;
const WRITING: u32 = 2;

/// One measurement.
pub struct Metric {
    /// What is done.
    pub name: &'static str,
    /// Does it many times and says what one took.
    pub measure: fn(&mut Arm) -> Duration,
}

/// All of them.
pub const METRICS: [Metric; 13] = [
    Metric { name: "unknown request (the queue alone)", measure: Arm::unknown },
    Metric { name: "lookup, first", measure: Arm::first_lookup },
    Metric { name: "lookup, again", measure: Arm::second_lookup },
    Metric { name: "lookup of what is not there", measure: Arm::absent },
    Metric { name: "getattr", measure: Arm::getattr },
    Metric { name: "open + read 4 KiB + release", measure: Arm::open_read_release },
    Metric { name: "create + release + unlink", measure: Arm::create_unlink },
    Metric { name: "readdirplus, per entry of 10000", measure: Arm::readdirplus },
    Metric { name: "readdir, per entry of 10000", measure: Arm::readdir },
    Metric { name: "read 1 MiB, in order", measure: Arm::read_large },
    Metric { name: "read 4 KiB, anywhere", measure: Arm::read_small },
    Metric { name: "write 1 MiB, in order", measure: Arm::write_large },
    Metric { name: "write 4 KiB, anywhere", measure: Arm::write_small },
];

type AnyGuest = Guest<Box<dyn Backend>>;

/// One server and its guest.
pub struct Arm {
    pub kind: Kind,
    guest: AnyGuest,
    clock: Clock,
    /// The folder of small files.
    files: u64,
    /// The folder that is listed.
    many: u64,
    /// The large file and its handle.
    large: (u64, u64),
    /// State of a generator of offsets.
    seed: u64,
}

fn name(index: usize) -> Vec<u8> {
    format!("file-{index:05}.txt").into_bytes()
}

impl Arm {
    pub fn new(kind: Kind) -> Self {
        let host = fs_reference::servers::host();
        let share = host.path().join("0");
        fs::create_dir(share.join("files")).expect("a folder");
        fs::create_dir(share.join("many")).expect("a folder");
        let contents = vec![b'x'; FILE_SIZE];
        for index in 0..FILES {
            fs::write(share.join(format!("files/file-{index:05}.txt")), &contents).expect("a file");
        }
        for index in 0..ENTRIES {
            fs::write(share.join(format!("many/entry-{index:05}")), b"").expect("a file");
        }
        fs::write(share.join("large"), vec![1; LARGE_FILE]).expect("a file");
        let clock = Clock::default();
        let mut guest = kind.serve_through(host, |server| clock.around(server));
        let root = kind.root();
        let files = guest.lookup(root, b"files").expect("the folder").nodeid;
        let many = guest.lookup(root, b"many").expect("the folder").nodeid;
        let large = guest.lookup(root, b"large").expect("the file").nodeid;
        let fh = guest.open(large, WRITING).expect("the file opens").fh;
        Self { kind, guest, clock, files, many, large: (large, fh), seed: 1 }
    }

    /// What one of `count` things takes: the median, as on a busy machine some wait for a processor.
    fn time(&mut self, count: usize, mut act: impl FnMut(&mut Self, usize)) -> Duration {
        let lap = |index| {
            let before = self.clock.spent();
            act(self, index);
            self.clock.spent() - before
        };
        median((0..count).map(lap).collect())
    }

    fn look_up_all(&mut self) -> Vec<u64> {
        (0..FILES).map(|index| self.guest.lookup(self.files, &name(index)).expect("a file").nodeid).collect()
    }

    fn forget(&mut self, nodes: &[u64], times: u64) {
        for node in nodes {
            self.guest.forget(*node, times);
        }
    }

    fn unknown(&mut self) -> Duration {
        const UNKNOWN: u32 = 4000;
        self.time(TIMES, |arm, _| {
            arm.guest.call(UNKNOWN, 1, &[]).expect_err("there is none");
        })
    }

    fn first_lookup(&mut self) -> Duration {
        let mut nodes = Vec::new();
        let time = self.time(FILES, |arm, index| {
            nodes.push(arm.guest.lookup(arm.files, &name(index)).expect("a file").nodeid);
        });
        self.forget(&nodes, 1);
        time
    }

    fn second_lookup(&mut self) -> Duration {
        let nodes = self.look_up_all();
        let time = self.time(FILES, |arm, index| {
            arm.guest.lookup(arm.files, &name(index)).expect("a file");
        });
        self.forget(&nodes, 2);
        time
    }

    fn absent(&mut self) -> Duration {
        self.time(TIMES, |arm, _| {
            // An error or an entry without a node.
            let found = arm.guest.lookup(arm.files, b"not there");
            assert!(found.is_ok_and(|entry| entry.nodeid == 0) || arm.kind != Kind::Ours);
        })
    }

    fn getattr(&mut self) -> Duration {
        let nodes = self.look_up_all();
        let time = self.time(FILES, |arm, index| {
            arm.guest.getattr(nodes[index]).expect("attributes");
        });
        self.forget(&nodes, 1);
        time
    }

    fn open_read_release(&mut self) -> Duration {
        let nodes = self.look_up_all();
        let time = self.time(FILES, |arm, index| {
            let node = nodes[index];
            let fh = arm.guest.open(node, READING).expect("a file opens").fh;
            let data = arm.guest.read(node, fh, 0, PAGE).expect("it can be read");
            assert_eq!(data.len(), FILE_SIZE);
            arm.guest.release(node, fh).expect("it closes");
        });
        self.forget(&nodes, 1);
        time
    }

    fn create_unlink(&mut self) -> Duration {
        const COUNT: usize = 200;
        let mut nodes = Vec::new();
        let time = self.time(COUNT, |arm, _| {
            let (entry, fh) = arm.guest.create(arm.files, b"new", 0o644).expect("a new file");
            arm.guest.release(entry.nodeid, fh).expect("it closes");
            arm.guest.unlink(arm.files, b"new").expect("it goes");
            nodes.push(entry.nodeid);
        });
        self.forget(&nodes, 1);
        time
    }

    fn readdirplus(&mut self) -> Duration {
        let mut nodes = Vec::new();
        let time = self.list(|guest, folder, fh, offset| {
            let piece = guest.readdirplus_from(folder, fh, offset, PAGE).expect("entries");
            nodes.extend(piece.iter().map(|(_, known, _)| known.nodeid).filter(|node| *node != 0));
            (piece.len(), piece.last().map(|(.., next)| *next))
        });
        assert_eq!(nodes.len(), ENTRIES);
        self.forget(&nodes, 1);
        time
    }

    fn readdir(&mut self) -> Duration {
        self.list(|guest, folder, fh, offset| {
            let piece = guest.readdir(folder, fh, offset, PAGE).expect("entries");
            (piece.len(), piece.last().map(|(_, next)| *next))
        })
    }

    /// What an entry takes when a folder is listed by `read`, which returns how many it got and where to go on.
    fn list(&mut self, mut read: impl FnMut(&mut AnyGuest, u64, u64, u64) -> (usize, Option<u64>)) -> Duration {
        let fh = self.guest.opendir(self.many).expect("a folder opens");
        let (mut offset, mut total, mut laps) = (0, 0, Vec::new());
        loop {
            let before = self.clock.spent();
            let (count, next) = read(&mut self.guest, self.many, fh, offset);
            let Some(next) = next else { break };
            laps.push((self.clock.spent() - before) / u32::try_from(count).expect("a page of entries"));
            total += count;
            offset = next;
        }
        self.guest.releasedir(self.many, fh).expect("it closes");
        // Some leave out `.` and `..`.
        assert!((ENTRIES..=ENTRIES + 2).contains(&total), "{total}");
        median(laps)
    }

    fn read_large(&mut self) -> Duration {
        self.time(LARGE_FILE / LARGE, |arm, index| arm.read(index * LARGE, LARGE))
    }

    fn read_small(&mut self) -> Duration {
        self.time(TIMES, |arm, _| {
            let offset = arm.anywhere();
            arm.read(offset, SMALL);
        })
    }

    fn write_large(&mut self) -> Duration {
        let data = vec![2; LARGE];
        self.time(LARGE_FILE / LARGE, |arm, index| arm.write(index * LARGE, &data))
    }

    fn write_small(&mut self) -> Duration {
        let data = vec![3; SMALL];
        self.time(TIMES, |arm, _| {
            let offset = arm.anywhere();
            arm.write(offset, &data);
        })
    }

    fn read(&mut self, offset: usize, size: usize) {
        let (node, fh) = self.large;
        let (offset, asked) = (offset.try_into().expect("64 bits"), u32::try_from(size).expect("a megabyte"));
        let data = self.guest.read(node, fh, offset, asked).expect("it can be read");
        assert_eq!(data.len(), size);
    }

    fn write(&mut self, offset: usize, data: &[u8]) {
        let (node, fh) = self.large;
        let (offset, size) = (offset.try_into().expect("64 bits"), u32::try_from(data.len()).expect("a megabyte"));
        let asked = WriteIn { fh, offset, size, flags: WRITING, ..WriteIn::default() };
        assert_eq!(self.guest.write_as(node, &asked, data), Ok(size));
    }

    /// The offset of some page of the large file; the same ones for every server.
    fn anywhere(&mut self) -> usize {
        // Knuth's linear congruential generator.
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.seed >> 33).expect("64 bits") % (LARGE_FILE / SMALL) * SMALL
    }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

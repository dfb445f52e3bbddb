//! What a large tree costs the host once the guest has walked it. A process of its own, as it measures the process.

use std::fs;
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::path::Path;

use devices::fs::{Access, Fs, Share};
use virtio::test_kit::{Buffer, DATA, DriverQueue, Exchange, Local, Transport, ram};

/// With so many files the tables have just grown: no larger tree costs more per file.
const FOLDERS: usize = 2350;
const FILES: usize = 48;
const NODES: usize = FOLDERS * (1 + FILES);

/// Goals of the project.
const MAX_BYTES: usize = 300;
const MAX_DESCRIPTORS: usize = 4096;

/// Numbers of `linux/fuse.h`.
const INIT: u32 = 26;
const READDIRPLUS: u32 = 44;
const ENTRY: usize = 128;
const DIRENT: usize = 24;
const MODE: usize = 40 + 60;
const SHARE: u64 = 2;
const ROOM: u32 = 64 << 10;
const ANSWER: u64 = DATA + (1 << 19);

struct Guest {
    device: Local,
    driver: DriverQueue,
}

impl Guest {
    fn call(&mut self, opcode: u32, node: u64, body: &[u8]) -> Vec<u8> {
        let len = u32::try_from(40 + body.len()).expect("a short request");
        let header =
            [&len.to_le_bytes()[..], &opcode.to_le_bytes(), &1_u64.to_le_bytes(), &node.to_le_bytes(), &[0; 16]];
        self.driver.write(DATA, &[&header.concat()[..], body].concat());
        let buffers = [Buffer::readable(DATA, len), Buffer::writable(ANSWER, ROOM)];
        let used = self.device.exchange(1, &mut self.driver, &buffers);
        let answer = self.driver.read(ANSWER, wide(used.length));
        assert_eq!(answer[4..8], [0; 4], "an error");
        answer[16..].to_vec()
    }

    /// Lists a directory with everything that is in it; the nodes of directories.
    fn list(&mut self, node: u64, found: &mut usize) -> Vec<u64> {
        let mut folders = Vec::new();
        let mut offset = [0; 8];
        loop {
            // Not opened: handle 0.
            let asked = [&[0; 8][..], &offset, &ROOM.to_le_bytes(), &[0; 20]].concat();
            let answer = self.call(READDIRPLUS, node, &asked);
            let mut rest = answer.as_slice();
            if rest.is_empty() {
                return folders;
            }
            while !rest.is_empty() {
                let nodeid = u64::from_le_bytes(bytes_at(rest, 0));
                let mode = u32::from_le_bytes(bytes_at(rest, MODE));
                offset.copy_from_slice(&rest[ENTRY + 8..ENTRY + 16]);
                let name = wide(u32::from_le_bytes(bytes_at(rest, ENTRY + 16)));
                rest = &rest[ENTRY + DIRENT + name.next_multiple_of(8)..];
                *found += usize::from(nodeid != 0);
                if nodeid != 0 && mode & 0o170_000 == 0o040_000 {
                    folders.push(nodeid);
                }
            }
        }
    }
}

fn bytes_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    *bytes[at..].first_chunk().expect("a whole entry")
}

fn wide(length: u32) -> usize {
    usize::try_from(length).expect("a host of 64 bits")
}

fn make_tree(root: &Path) {
    for folder in 0..FOLDERS {
        let folder = root.join(format!("a folder {folder}"));
        fs::create_dir(&folder).expect("a new folder");
        for file in 0..FILES {
            fs::File::create(folder.join(format!("source file {file}.rs"))).expect("a new file");
        }
    }
}

fn resident() -> usize {
    let status = fs::read_to_string("/proc/self/statm").expect("statistics");
    status.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).expect("a number of pages") * 4096
}

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").expect("a listing").count()
}

#[test]
fn known_file_costs_at_most_300_bytes_and_hardly_a_descriptor() {
    let memory = Path::new("/dev/shm");
    let root = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
    make_tree(root.path());
    let fs = Fs::new(vec![Share::open(root.path(), Access::ReadWrite).unwrap()]).unwrap();
    let notifier = fs.notifier();
    let ram = ram();
    let queues = [DriverQueue::new(&ram, 0, 64), DriverQueue::new(&ram, 1, 64)];
    let mut device = Local::serve(Box::new(fs), &ram);
    device.start(0, &queues);
    let [_, driver] = queues;
    let mut guest = Guest { device, driver };
    let features = [7_u32, 41, 1 << 20, u32::MAX, u32::MAX];
    let init = [features.map(u32::to_le_bytes).concat(), vec![0; 44]].concat();
    guest.call(INIT, 0, &init);
    // Told of changes, so that every directory is watched.
    let (ours, mut guests) = UnixStream::pair().unwrap();
    notifier.connect(ours).unwrap();
    guests.read_exact(&mut [0; 16]).unwrap();

    let (memory_before, open_before) = (resident(), descriptors());
    let mut found = 0;
    let mut left = vec![SHARE];
    while let Some(node) = left.pop() {
        left.extend(guest.list(node, &mut found));
    }
    drop(left);
    let bytes = resident().saturating_sub(memory_before) / NODES;
    let open = descriptors() - open_before;
    println!("{found} files and directories: {bytes} bytes each, {open} descriptors");
    assert_eq!(found, NODES);
    assert!(bytes <= MAX_BYTES, "{bytes}");
    assert!(open <= MAX_DESCRIPTORS, "{open}");
}

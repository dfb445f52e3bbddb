//! Chains no honest driver sends.

use super::{DATA, Descriptor, DriverQueue, HIGH_END, HOLE, LOW_SEAM};

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// One way to be nasty.
#[derive(Debug, Clone)]
pub struct Hostile {
    /// What it is, for the failure message.
    pub name: &'static str,
    /// Whether the chain breaks the ring's own rules: then it comes back with length 0 unseen by the device. The others
    /// are well formed and merely make no sense.
    pub malformed: bool,
    chain: Vec<Descriptor>,
    indirect: bool,
}

impl Hostile {
    /// Makes the chain available on `queue`; returns its head.
    pub fn send(&self, queue: &mut DriverQueue) -> u16 {
        if self.indirect { queue.send_table(&self.chain) } else { queue.send_raw(&self.chain) }
    }
}

fn descriptor(address: u64, length: u32, flags: u16, next: u16) -> Descriptor {
    Descriptor { address, length, flags, next }
}

fn malformed(name: &'static str, chain: Vec<Descriptor>) -> Hostile {
    Hostile { name, malformed: true, chain, indirect: false }
}

fn odd(name: &'static str, chain: Vec<Descriptor>) -> Hostile {
    Hostile { name, malformed: false, chain, indirect: false }
}

fn indirect(hostile: Hostile) -> Hostile {
    Hostile { indirect: true, ..hostile }
}

/// Every kind of bad chain that ever hurt a virtual machine monitor, for a queue of at least 8 descriptors.
pub fn hostile_chains() -> Vec<Hostile> {
    let mut chains = unreachable_memory();
    chains.extend(broken_links());
    chains.extend(bad_tables());
    chains.extend(senseless());
    chains
}

fn unreachable_memory() -> Vec<Hostile> {
    vec![
        malformed("writable past the end of RAM", vec![descriptor(HIGH_END - 16, 32, WRITE, 0)]),
        malformed("readable past the end of RAM", vec![descriptor(HIGH_END - 16, 32, 0, 0)]),
        malformed("from RAM into the MMIO hole", vec![descriptor(HOLE - 16, 32, WRITE, 0)]),
        malformed("inside the MMIO hole", vec![descriptor(HOLE + 4096, 4096, WRITE, 0)]),
        malformed("at the top of the address space", vec![descriptor(u64::MAX, 1, WRITE, 0)]),
        malformed("wrapping around the address space", vec![descriptor(u64::MAX - 8, 4096, WRITE, 0)]),
        malformed("longest length", vec![descriptor(DATA, u32::MAX, WRITE, 0)]),
        malformed(
            "second descriptor outside RAM",
            vec![descriptor(DATA, 16, NEXT, 1), descriptor(HIGH_END, 16, WRITE, 0)],
        ),
    ]
}

fn broken_links() -> Vec<Hostile> {
    vec![
        malformed("a chain that is its own next", vec![descriptor(DATA, 16, NEXT | WRITE, 0)]),
        malformed("a loop of two", vec![descriptor(DATA, 16, NEXT | WRITE, 1), descriptor(DATA, 16, NEXT | WRITE, 0)]),
        malformed("next past the table", vec![descriptor(DATA, 16, NEXT | WRITE, u16::MAX)]),
        malformed("readable after writable", vec![descriptor(DATA, 16, NEXT | WRITE, 1), descriptor(DATA, 16, 0, 0)]),
        indirect(malformed("4 GiB in all", {
            (1..=1024u16).map(|next| descriptor(0, 4 << 20, WRITE | if next < 1024 { NEXT } else { 0 }, next)).collect()
        })),
    ]
}

fn bad_tables() -> Vec<Hostile> {
    vec![
        malformed("indirect table outside RAM", vec![descriptor(HIGH_END, 16, INDIRECT, 0)]),
        malformed("indirect table in the MMIO hole", vec![descriptor(HOLE, 16, INDIRECT, 0)]),
        malformed("indirect table of odd length", vec![descriptor(DATA, 17, INDIRECT, 0)]),
        malformed("empty indirect table", vec![descriptor(DATA, 0, INDIRECT, 0)]),
        malformed("longest indirect table", vec![descriptor(DATA, u32::MAX, INDIRECT, 0)]),
        indirect(malformed("indirect table within an indirect table", vec![descriptor(DATA, 16, INDIRECT, 0)])),
        indirect(malformed("loop within an indirect table", vec![descriptor(DATA, 16, NEXT | WRITE, 0)])),
        indirect(malformed("next past the indirect table", vec![descriptor(DATA, 16, NEXT | WRITE, 7)])),
    ]
}

fn senseless() -> Vec<Hostile> {
    let overlapping = |flags: u16| {
        let mut chain: Vec<Descriptor> = (1..=255).map(|next| descriptor(DATA, 1 << 20, NEXT | flags, next)).collect();
        chain.push(descriptor(DATA, 1 << 20, flags, 0));
        chain
    };
    vec![
        odd("one readable byte", vec![descriptor(DATA, 1, 0, 0)]),
        odd("one writable byte", vec![descriptor(DATA, 1, WRITE, 0)]),
        odd("readable of no length", vec![descriptor(DATA, 0, 0, 0)]),
        odd("writable of no length", vec![descriptor(DATA, 0, WRITE, 0)]),
        odd("no length outside RAM", vec![descriptor(u64::MAX, 0, WRITE, 0)]),
        odd("nothing but readable", vec![descriptor(DATA, 16, NEXT, 1), descriptor(DATA, 512, 0, 0)]),
        odd("nothing but writable", vec![descriptor(DATA, 16, NEXT | WRITE, 1), descriptor(DATA, 512, WRITE, 0)]),
        odd("across two mappings", vec![descriptor(LOW_SEAM - 100, 200, 0, 0)]),
        odd(
            "readable and writable on the same bytes",
            vec![descriptor(DATA, 512, NEXT, 1), descriptor(DATA, 512, WRITE, 0)],
        ),
        indirect(odd("256 overlapping readable MiB", overlapping(0))),
        indirect(odd("256 overlapping writable MiB", overlapping(WRITE))),
    ]
}

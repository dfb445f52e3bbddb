//! A disk against any driver; the first byte decides whether it may be written.
#![no_main]

use devices::blk::{Access, Blk, Disk};
use libfuzzer_sys::fuzz_target;
use virtio::test_kit::{Subject, play};

fuzz_target!(|input: &[u8]| {
    let Some((first, script)) = input.split_first() else { return };
    let access = if first.is_multiple_of(4) { Access::ReadOnly } else { Access::ReadWrite };
    let image = tempfile::tempfile().expect("a temporary file");
    image.set_len(1 << 20).expect("a sparse file");
    let disk = Disk::new(image, access).expect("a disk");
    play(Subject::new(Blk::new(disk, "fuzz"), &[0]), script);
});

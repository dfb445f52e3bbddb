//! The network card against any driver, with a stack that has frames for it and takes all.
#![no_main]

use devices::net::{Net, NetConfig};
use libfuzzer_sys::fuzz_target;
use virtio::frame::{FrameHeader, PartialChecksum};
use virtio::test_kit::{FakeStack, Subject, play};

fuzz_target!(|script: &[u8]| {
    let (device, stack) = FakeStack::at_hand();
    let partial = FrameHeader { checksum: Some(PartialChecksum { start: 34, offset: 16 }), ..FrameHeader::default() };
    for (header, len) in [(FrameHeader::default(), 60), (partial, 9000), (FrameHeader::default(), 60)] {
        stack.send(&header, &vec![0x5a; len]);
    }
    play(Subject::new(Net::new(device, NetConfig::default()), &[]).keeping(stack), script);
});

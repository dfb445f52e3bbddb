//! The network card against any driver, with a stack that has frames for it and takes none.
#![no_main]

use devices::net::{Net, NetConfig};
use libfuzzer_sys::fuzz_target;
use virtio::frame::{FrameHeader, FrameLink, PartialChecksum};
use virtio::test_kit::{Subject, play};

fuzz_target!(|script: &[u8]| {
    let FrameLink { device, stack } = FrameLink::new().expect("a socket pair");
    let partial = FrameHeader { checksum: Some(PartialChecksum { start: 34, offset: 16 }), ..FrameHeader::default() };
    for (header, len) in [(FrameHeader::default(), 60), (partial, 9000), (FrameHeader::default(), 60)] {
        stack.send(&header, &vec![0x5a; len]).expect("an empty link takes it");
    }
    play(Subject::new(Net::new(device, NetConfig::default()), &[]).keeping(stack), script);
});

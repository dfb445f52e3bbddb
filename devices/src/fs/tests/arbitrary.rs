//! Any messages in any order: nothing panics, hangs, or leaves the share.

use proptest::collection::vec;
use proptest::prelude::*;
use zerocopy::IntoBytes;

use super::guest::{Guest, SHARE};
use crate::fs::Access;
use crate::fs::wire::{InHeader, opcode};

/// Numbers that are offsets, sizes, modes, flags, nodes or handles to some request.
fn number() -> impl Strategy<Value = u32> {
    prop_oneof![
        8 => 0..8u32,
        1 => any::<u32>(),
        1 => Just(u32::MAX),
        1 => (0..32u32).prop_map(|bit| 1 << bit),
        1 => Just(0o100_644),
        1 => Just(0o020_666),
    ]
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => (0..4u8).prop_map(|index| vec![b'a' + index, 0]),
        1 => Just(b"..\0".to_vec()),
        1 => Just(b"../canary\0".to_vec()),
        1 => Just(b"link\0".to_vec()),
        1 => Just(b"link/canary\0".to_vec()),
        1 => vec(any::<u8>(), 0..20),
    ]
}

/// Not sent: what ends the session, what may rightly fill the disk, what waits for it.
const SPARED: [u32; 5] = [opcode::INIT, opcode::DESTROY, opcode::FALLOCATE, opcode::COPY_FILE_RANGE, opcode::SYNCFS];

#[derive(Debug, Clone)]
struct Message {
    opcode: u32,
    node: u64,
    numbers: Vec<u32>,
    names: Vec<Vec<u8>>,
    lie: Option<u32>,
    room: u32,
}

fn message() -> impl Strategy<Value = Message> {
    let node = prop_oneof![6 => 0..12u64, 1 => any::<u64>()];
    let opcode = prop_oneof![30 => 1..=53u32, 1 => any::<u32>()]
        .prop_map(|opcode| if SPARED.contains(&opcode) { opcode::LOOKUP } else { opcode });
    let lie = prop_oneof![20 => Just(None), 1 => any::<u32>().prop_map(Some)];
    let room = prop_oneof![6 => Just(4096), 1 => 0..300u32];
    (opcode, node, vec(number(), 0..23), vec(name(), 0..3), lie, room)
        .prop_map(|(opcode, node, numbers, names, lie, room)| Message { opcode, node, numbers, names, lie, room })
}

impl Message {
    fn bytes(&self) -> Vec<u8> {
        let body = [self.numbers.as_slice().as_bytes(), &self.names.concat()].concat();
        let len = self.lie.unwrap_or(u32::try_from(40 + body.len()).unwrap());
        let header = InHeader { len, opcode: self.opcode, unique: 1, nodeid: self.node, ..InHeader::default() };
        [header.as_bytes(), &body].concat()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_messages_leave_the_host_alone(messages in vec(message(), 1..120)) {
        let mut guest = Guest::with_access(&[Access::ReadWrite, Access::ReadOnly]);
        std::os::unix::fs::symlink(guest.outside(""), guest.path("link")).unwrap();
        std::fs::write(guest.outside("1/file"), b"").unwrap();
        for message in &messages {
            guest.raw(&message.bytes(), message.room);
        }
        guest.assert_nothing_escaped();
        let read_only: Vec<_> = std::fs::read_dir(guest.outside("1")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        prop_assert_eq!(read_only, ["file"]);
        guest.getattr(SHARE).unwrap();
    }
}

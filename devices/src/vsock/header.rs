//! The header of every packet (virtio 1.2, section 5.10.6), taken apart once.

/// Bytes of a header in a ring.
pub(super) const HEADER_LEN: usize = 44;
/// The host's address.
pub(super) const HOST_CID: u64 = 2;
/// VIRTIO_VSOCK_TYPE_STREAM.
pub(super) const STREAM: u16 = 1;

/// What a packet is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Op {
    Request,
    Response,
    Reset,
    Shutdown,
    Data,
    CreditUpdate,
    CreditRequest,
}

impl Op {
    const ALL: [(u16, Self); 7] = [
        (1, Self::Request),
        (2, Self::Response),
        (3, Self::Reset),
        (4, Self::Shutdown),
        (5, Self::Data),
        (6, Self::CreditUpdate),
        (7, Self::CreditRequest),
    ];

    fn from_code(code: u16) -> Option<Self> {
        Self::ALL.iter().find(|(known, _)| *known == code).map(|(_, op)| *op)
    }

    fn code(self) -> u16 {
        Self::ALL.iter().find(|(_, known)| *known == self).map_or(0, |(code, _)| *code)
    }
}

/// Which halves of a connection are over, as seen by the sender of a Shutdown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Halves {
    /// It takes no more data.
    pub(super) receive: bool,
    /// It sends no more data.
    pub(super) send: bool,
}

impl Halves {
    pub(super) const BOTH: Self = Self { receive: true, send: true };

    pub(super) fn from_flags(flags: u32) -> Self {
        Self { receive: flags & 1 != 0, send: flags & 2 != 0 }
    }

    pub(super) fn flags(self) -> u32 {
        u32::from(self.receive) | u32::from(self.send) << 1
    }
}

/// A packet's header, unknown operations included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) src_cid: u64,
    pub(super) dst_cid: u64,
    pub(super) src_port: u32,
    pub(super) dst_port: u32,
    pub(super) len: u32,
    pub(super) kind: u16,
    pub(super) op: Option<Op>,
    pub(super) flags: u32,
    pub(super) buf_alloc: u32,
    pub(super) fwd_cnt: u32,
}

impl Header {
    pub(super) fn parse(bytes: &[u8; HEADER_LEN]) -> Self {
        let mut rest = &bytes[..];
        Self {
            src_cid: u64::from_le_bytes(take(&mut rest)),
            dst_cid: u64::from_le_bytes(take(&mut rest)),
            src_port: u32::from_le_bytes(take(&mut rest)),
            dst_port: u32::from_le_bytes(take(&mut rest)),
            len: u32::from_le_bytes(take(&mut rest)),
            kind: u16::from_le_bytes(take(&mut rest)),
            op: Op::from_code(u16::from_le_bytes(take(&mut rest))),
            flags: u32::from_le_bytes(take(&mut rest)),
            buf_alloc: u32::from_le_bytes(take(&mut rest)),
            fwd_cnt: u32::from_le_bytes(take(&mut rest)),
        }
    }

    pub(super) fn bytes(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        let op = self.op.map_or(0, Op::code);
        let fields = [
            &self.src_cid.to_le_bytes()[..],
            &self.dst_cid.to_le_bytes(),
            &self.src_port.to_le_bytes(),
            &self.dst_port.to_le_bytes(),
            &self.len.to_le_bytes(),
            &self.kind.to_le_bytes(),
            &op.to_le_bytes(),
            &self.flags.to_le_bytes(),
            &self.buf_alloc.to_le_bytes(),
            &self.fwd_cnt.to_le_bytes(),
        ];
        let mut rest = &mut bytes[..];
        for field in fields {
            let (head, tail) = rest.split_at_mut(field.len());
            head.copy_from_slice(field);
            rest = tail;
        }
        bytes
    }

    /// The refusal of this packet: a Reset the way it came.
    pub(super) fn refusal(&self) -> Self {
        Self {
            src_cid: self.dst_cid,
            dst_cid: self.src_cid,
            src_port: self.dst_port,
            dst_port: self.src_port,
            len: 0,
            kind: self.kind,
            op: Some(Op::Reset),
            flags: 0,
            buf_alloc: 0,
            fwd_cnt: 0,
        }
    }
}

/// The first `N` bytes of `rest`; the fields of [`Header::parse`] add up to its input.
fn take<const N: usize>(rest: &mut &[u8]) -> [u8; N] {
    let (head, tail) = rest.split_first_chunk::<N>().map_or(([0; N], &[][..]), |(head, tail)| (*head, tail));
    *rest = tail;
    head
}

#[cfg(test)]
mod tests {
    use proptest::{prelude::any, prop_assert_eq, proptest};

    use super::{HEADER_LEN, Header, Op};

    proptest! {
        #[test]
        fn headers_of_known_operations_survive_parsing(mut bytes in proptest::collection::vec(any::<u8>(), HEADER_LEN), op in 1..=7u8) {
            bytes[30] = op;
            bytes[31] = 0;
            let bytes: [u8; HEADER_LEN] = bytes.try_into().expect("of that length");
            prop_assert_eq!(Header::parse(&bytes).bytes(), bytes);
        }
    }

    #[test]
    fn fields_lie_where_the_specification_puts_them() {
        let mut bytes = [0; HEADER_LEN];
        for (at, value) in [(0, 3), (8, 2), (16, 10), (20, 11), (24, 12), (28, 1), (30, 5), (32, 3), (36, 13), (40, 14)]
        {
            bytes[at] = value;
        }
        let expected = Header {
            src_cid: 3,
            dst_cid: 2,
            src_port: 10,
            dst_port: 11,
            len: 12,
            kind: 1,
            op: Some(Op::Data),
            flags: 3,
            buf_alloc: 13,
            fwd_cnt: 14,
        };
        assert_eq!(Header::parse(&bytes), expected);
    }
}

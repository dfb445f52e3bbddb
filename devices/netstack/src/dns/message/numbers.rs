//! The numbers of DNS (RFC 1035, 6891, 9460), and the parts of a message that are made of nothing else.

pub(super) const HEADER: usize = 12;

pub(super) const QR: u16 = 0x8000;
pub(super) const OPCODE: u16 = 0x7800;
pub(super) const AA: u16 = 0x0400;
pub(super) const TC: u16 = 0x0200;
pub(super) const RD: u16 = 0x0100;
pub(super) const RA: u16 = 0x0080;
pub(super) const AD: u16 = 0x0020;
pub(super) const CD: u16 = 0x0010;
pub(super) const RCODE: u16 = 0x000f;

pub(super) const CLASS_IN: u16 = 1;
pub(super) const TYPE_A: u16 = 1;
pub(super) const TYPE_NS: u16 = 2;
pub(super) const TYPE_CNAME: u16 = 5;
pub(super) const TYPE_SOA: u16 = 6;
pub(super) const TYPE_PTR: u16 = 12;
pub(super) const TYPE_MX: u16 = 15;
pub(super) const TYPE_AAAA: u16 = 28;
pub(super) const TYPE_SRV: u16 = 33;
pub(super) const TYPE_DNAME: u16 = 39;
pub(super) const TYPE_OPT: u16 = 41;
pub(super) const TYPE_SVCB: u16 = 64;
pub(super) const TYPE_HTTPS: u16 = 65;
/// Transfers of whole zones (251, 252) and other questions that are not about one type.
pub(super) const TYPE_IXFR: u16 = 251;
pub(super) const TYPE_AXFR: u16 = 252;
/// Everything there is about a name, which no program needs and servers need not give (RFC 8482).
pub(super) const TYPE_ANY: u16 = 255;

pub(super) const DNSSEC_OK: u32 = 0x8000;

/// Response codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::dns) enum Rcode {
    NoError = 0,
    FormErr = 1,
    ServFail = 2,
    NxDomain = 3,
    NotImp = 4,
    Refused = 5,
}

/// A message that cannot be what it claims to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed DNS message")]
pub(in crate::dns) struct Malformed;

pub(super) fn header(id: u16, flags: u16, counts: [u16; 4]) -> Vec<u8> {
    [id, flags].iter().chain(&counts).flat_map(|field| field.to_be_bytes()).collect()
}

pub(super) fn opt(payload: u16, dnssec_ok: bool) -> Vec<u8> {
    let flags = if dnssec_ok { DNSSEC_OK } else { 0 };
    let mut record = vec![0];
    record.extend_from_slice(&TYPE_OPT.to_be_bytes());
    record.extend_from_slice(&payload.to_be_bytes());
    record.extend_from_slice(&flags.to_be_bytes());
    record.extend_from_slice(&[0, 0]);
    record
}

//! The guest's questions, and what is said to them.

use policy::Name;

use super::answer::Answer;
use super::numbers::{
    AD, CD, CLASS_IN, DNSSEC_OK, Malformed, OPCODE, QR, RA, RD, Rcode, TC, TYPE_AAAA, TYPE_ANY, TYPE_AXFR, TYPE_IXFR,
    TYPE_OPT, header, opt,
};
use super::reader::{Reader, host_name};

/// What fits into one packet nearly everywhere (the DNS flag day of 2020).
const UPSTREAM_PAYLOAD: u16 = 1232;
const MIN_PAYLOAD: u16 = 512;
const MAX_PAYLOAD: u16 = 4096;

/// A question of the guest that can be asked on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::dns) struct Query {
    id: u16,
    pub(in crate::dns) name: Name,
    pub(in crate::dns) kind: u16,
    /// The question section as the guest wrote it, letter case included.
    pub(super) question: Vec<u8>,
    flags: u16,
    /// The guest's EDNS: how much it takes over UDP, and whether it wants DNSSEC records.
    edns: Option<(u16, bool)>,
}

/// A message that is answered with an error at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::dns) struct Refusal {
    id: u16,
    flags: u16,
    question: Vec<u8>,
    rcode: Rcode,
}

/// Reads a message of the guest; `None` when it does not deserve an answer.
pub(in crate::dns) fn parse_query(message: &[u8]) -> Option<Result<Query, Refusal>> {
    let mut reader = Reader { message, at: 0 };
    let (id, flags) = (reader.u16().ok()?, reader.u16().ok()?);
    let counts = [reader.u16().ok()?, reader.u16().ok()?, reader.u16().ok()?, reader.u16().ok()?];
    if flags & QR != 0 {
        return None;
    }
    let refuse = |question: &[u8], rcode| Some(Err(Refusal { id, flags, question: question.to_vec(), rcode }));
    if flags & OPCODE != 0 {
        return refuse(&[], Rcode::NotImp);
    }
    let [1, 0, 0, additional] = counts else { return refuse(&[], Rcode::FormErr) };
    let start = reader.at;
    let parsed = reader.name().and_then(|name| Ok((name, reader.u16()?, reader.u16()?)));
    let Ok((wire, kind, class)) = parsed else { return refuse(&[], Rcode::FormErr) };
    let question = message.get(start..reader.at).unwrap_or_default();
    // A pointer in the only name there is would point into the header.
    if question.len() != wire.len() + 4 {
        return refuse(&[], Rcode::FormErr);
    }
    let Ok(edns) = parse_opt(&mut reader, additional) else { return refuse(question, Rcode::FormErr) };
    if kind == TYPE_ANY {
        return refuse(question, Rcode::NotImp);
    }
    let whole_zone = matches!(kind, TYPE_IXFR | TYPE_AXFR | TYPE_OPT);
    match host_name(&wire) {
        Some(name) if class == CLASS_IN && !whole_zone => {
            Some(Ok(Query { id, name, kind, question: question.to_vec(), flags, edns }))
        }
        _ => refuse(question, Rcode::Refused),
    }
}

/// The EDNS of a query among its additional records; its options are not passed on, they could carry anything.
fn parse_opt(reader: &mut Reader<'_>, records: u16) -> Result<Option<(u16, bool)>, Malformed> {
    let mut edns = None;
    for _ in 0..records {
        let name = reader.name()?;
        let (kind, payload, flags, len) = (reader.u16()?, reader.u16()?, reader.u32()?, reader.u16()?);
        reader.bytes(usize::from(len))?;
        if kind == TYPE_OPT {
            if name != [0] || edns.is_some() {
                return Err(Malformed);
            }
            edns = Some((payload, flags & DNSSEC_OK != 0));
        }
    }
    Ok(edns)
}

impl Refusal {
    /// The answer, with the question where there was one.
    pub(in crate::dns) fn to_bytes(&self) -> Vec<u8> {
        let questions = u16::from(!self.question.is_empty());
        let flags = QR | RA | self.flags & (OPCODE | RD | CD) | self.rcode as u16;
        let mut message = header(self.id, flags, [questions, 0, 0, 0]);
        message.extend_from_slice(&self.question);
        message
    }
}

impl Query {
    /// Whether the guest wants DNSSEC records.
    pub(in crate::dns) fn wants_dnssec(&self) -> bool {
        self.edns.is_some_and(|(_, dnssec_ok)| dnssec_ok)
    }

    /// Whether the guest wants answers that fail DNSSEC, too.
    pub(in crate::dns) fn wants_unchecked(&self) -> bool {
        self.flags & CD != 0
    }

    /// Whether IPv6 addresses are asked for.
    pub(in crate::dns) fn is_aaaa(&self) -> bool {
        self.kind == TYPE_AAAA
    }

    /// The question as it is asked of a resolver, under an ID of our own. In lower case: the guest's spelling could say
    /// something.
    pub(in crate::dns) fn to_upstream(&self, id: u16) -> Vec<u8> {
        let mut message = header(id, RD | self.flags & (AD | CD), [1, 0, 0, 1]);
        let (name, rest) = self.question.split_at(self.question.len().saturating_sub(4));
        message.extend(name.iter().map(u8::to_ascii_lowercase));
        message.extend_from_slice(rest);
        message.extend_from_slice(&opt(UPSTREAM_PAYLOAD, self.wants_dnssec()));
        message
    }

    /// The answer without any record.
    pub(in crate::dns) fn fail(&self, rcode: Rcode) -> Vec<u8> {
        self.respond(rcode as u16, [0, 0], &[])
    }

    /// The answer for the guest. Over UDP one that is too long is cut to nothing, and the guest asks again over TCP.
    pub(in crate::dns) fn answer(&self, answer: &Answer, over_udp: bool) -> Vec<u8> {
        let flags = answer.rcode as u16 | if answer.authentic { AD } else { 0 };
        let whole = self.respond(flags, answer.counts, &answer.records);
        let room = match self.edns {
            _ if !over_udp => usize::from(u16::MAX),
            Some((payload, _)) => payload.clamp(MIN_PAYLOAD, MAX_PAYLOAD).into(),
            None => MIN_PAYLOAD.into(),
        };
        if answer.truncated || whole.len() > room { self.respond(flags | TC, [0, 0], &[]) } else { whole }
    }

    fn respond(&self, flags: u16, [answers, authorities]: [u16; 2], records: &[u8]) -> Vec<u8> {
        let additional = u16::from(self.edns.is_some());
        let flags = QR | RA | self.flags & (RD | CD) | flags;
        let mut message = header(self.id, flags, [1, answers, authorities, additional]);
        message.extend_from_slice(&self.question);
        message.extend_from_slice(records);
        if let Some((_, dnssec_ok)) = self.edns {
            message.extend_from_slice(&opt(MAX_PAYLOAD, dnssec_ok));
        }
        message
    }
}

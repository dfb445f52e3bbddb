//! DNS messages (RFC 1035, 6891, 9460): the guest's questions, the resolvers' answers. Neither side is trusted.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use policy::Name;

const HEADER: usize = 12;
const MAX_WIRE_NAME: usize = 255;
/// A chain of pointers longer than this is made to waste time; each must point backwards anyway.
const MAX_POINTERS: usize = 32;

const QR: u16 = 0x8000;
const OPCODE: u16 = 0x7800;
const AA: u16 = 0x0400;
const TC: u16 = 0x0200;
const RD: u16 = 0x0100;
const RA: u16 = 0x0080;
const AD: u16 = 0x0020;
const CD: u16 = 0x0010;
const RCODE: u16 = 0x000f;

const CLASS_IN: u16 = 1;
const TYPE_A: u16 = 1;
const TYPE_NS: u16 = 2;
const TYPE_CNAME: u16 = 5;
const TYPE_SOA: u16 = 6;
const TYPE_PTR: u16 = 12;
const TYPE_MX: u16 = 15;
const TYPE_AAAA: u16 = 28;
const TYPE_SRV: u16 = 33;
const TYPE_DNAME: u16 = 39;
const TYPE_OPT: u16 = 41;
const TYPE_SVCB: u16 = 64;
const TYPE_HTTPS: u16 = 65;
/// Transfers of whole zones (251, 252) and other questions that are not about one type.
const TYPE_IXFR: u16 = 251;
const TYPE_AXFR: u16 = 252;
/// Everything there is about a name, which no program needs and servers need not give (RFC 8482).
const TYPE_ANY: u16 = 255;

/// Longest lifetime that the guest is told, and that of a negative answer (RFC 2308, 5).
const MAX_TTL: u32 = 24 * 3600;
const MAX_NEGATIVE: u32 = 300;
/// Names that may lead to an address by way of one another.
const MAX_ALIASES: usize = 32;

const PARAM_MANDATORY: u16 = 0;
const PARAM_IPV4HINT: u16 = 4;
const PARAM_ECH: u16 = 5;
const PARAM_IPV6HINT: u16 = 6;

const DNSSEC_OK: u32 = 0x8000;
/// What fits into one packet nearly everywhere (the DNS flag day of 2020).
const UPSTREAM_PAYLOAD: u16 = 1232;
const MIN_PAYLOAD: u16 = 512;
const MAX_PAYLOAD: u16 = 4096;

/// Response codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rcode {
    NoError = 0,
    FormErr = 1,
    ServFail = 2,
    NxDomain = 3,
    NotImp = 4,
    Refused = 5,
}

/// A question of the guest that can be asked on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Query {
    id: u16,
    pub(super) name: Name,
    pub(super) kind: u16,
    /// The question section as the guest wrote it, letter case included.
    question: Vec<u8>,
    flags: u16,
    /// The guest's EDNS: how much it takes over UDP, and whether it wants DNSSEC records.
    edns: Option<(u16, bool)>,
}

/// A message that is answered with an error at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    id: u16,
    flags: u16,
    question: Vec<u8>,
    rcode: Rcode,
}

/// A resolver's answer, made fit for the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) rcode: Rcode,
    truncated: bool,
    authentic: bool,
    records: Vec<u8>,
    counts: [u16; 2],
    /// Where in `records` lifetimes are.
    lifetimes: Vec<usize>,
    /// How long the answer as a whole holds.
    ttl: Option<u32>,
    /// The names that the name asked for stands for.
    pub(super) aliases: Vec<Name>,
    /// Addresses in it that were let through, with their lifetimes.
    pub(super) addresses: Vec<(IpAddr, Duration)>,
    /// Addresses that were not.
    pub(super) withheld: usize,
}

/// A message that cannot be what it claims to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed DNS message")]
pub(super) struct Malformed;

/// A position in a message.
#[derive(Debug, Clone, Copy)]
struct Reader<'a> {
    message: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn bytes(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let end = self.at.checked_add(count).ok_or(Malformed)?;
        let bytes = self.message.get(self.at..end).ok_or(Malformed)?;
        self.at = end;
        Ok(bytes)
    }

    fn until(&mut self, end: usize) -> Result<&'a [u8], Malformed> {
        self.bytes(end.checked_sub(self.at).ok_or(Malformed)?)
    }

    fn u8(&mut self) -> Result<u8, Malformed> {
        self.bytes(1)?.first().copied().ok_or(Malformed)
    }

    fn u16(&mut self) -> Result<u16, Malformed> {
        let bytes: [u8; 2] = self.bytes(2)?.try_into().map_err(|_| Malformed)?;
        Ok(u16::from_be_bytes(bytes))
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        let bytes: [u8; 4] = self.bytes(4)?.try_into().map_err(|_| Malformed)?;
        Ok(u32::from_be_bytes(bytes))
    }

    /// Reads a name and gives it without compression.
    fn name(&mut self) -> Result<Vec<u8>, Malformed> {
        let mut name = Vec::new();
        let mut reader = *self;
        let mut end = None;
        for _ in 0..=MAX_POINTERS {
            let start = reader.at;
            loop {
                let len = reader.u8()?;
                match len >> 6 {
                    0 => {
                        name.push(len);
                        name.extend_from_slice(reader.bytes(usize::from(len))?);
                        if name.len() > MAX_WIRE_NAME {
                            return Err(Malformed);
                        }
                        if len == 0 {
                            self.at = end.unwrap_or(reader.at);
                            return Ok(name);
                        }
                    }
                    3 => {
                        let target = usize::from(len & 0x3f) << 8 | usize::from(reader.u8()?);
                        end.get_or_insert(reader.at);
                        // Only backwards, so that there is no loop.
                        if target >= start {
                            return Err(Malformed);
                        }
                        reader.at = target;
                        break;
                    }
                    _ => return Err(Malformed),
                }
            }
        }
        Err(Malformed)
    }
}

/// A name in wire form as a host name.
fn host_name(wire: &[u8]) -> Option<Name> {
    let mut text = String::new();
    let mut rest = wire;
    while let Some((&len, after)) = rest.split_first()
        && len > 0
    {
        let (label, after) = after.split_at_checked(usize::from(len))?;
        // A dot in a label would become a border between labels.
        if label.contains(&b'.') {
            return None;
        }
        text.push_str(std::str::from_utf8(label).ok()?);
        text.push('.');
        rest = after;
    }
    text.parse().ok()
}

/// Reads a message of the guest; `None` when it does not deserve an answer.
pub(super) fn parse_query(message: &[u8]) -> Option<Result<Query, Refusal>> {
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
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let questions = u16::from(!self.question.is_empty());
        let flags = QR | RA | self.flags & (OPCODE | RD | CD) | self.rcode as u16;
        let mut message = header(self.id, flags, [questions, 0, 0, 0]);
        message.extend_from_slice(&self.question);
        message
    }
}

fn header(id: u16, flags: u16, counts: [u16; 4]) -> Vec<u8> {
    [id, flags].iter().chain(&counts).flat_map(|field| field.to_be_bytes()).collect()
}

fn opt(payload: u16, dnssec_ok: bool) -> Vec<u8> {
    let flags = if dnssec_ok { DNSSEC_OK } else { 0 };
    let mut record = vec![0];
    record.extend_from_slice(&TYPE_OPT.to_be_bytes());
    record.extend_from_slice(&payload.to_be_bytes());
    record.extend_from_slice(&flags.to_be_bytes());
    record.extend_from_slice(&[0, 0]);
    record
}

impl Query {
    /// Whether the guest wants DNSSEC records.
    pub(super) fn wants_dnssec(&self) -> bool {
        self.edns.is_some_and(|(_, dnssec_ok)| dnssec_ok)
    }

    /// Whether the guest wants answers that fail DNSSEC, too.
    pub(super) fn wants_unchecked(&self) -> bool {
        self.flags & CD != 0
    }

    /// Whether IPv6 addresses are asked for.
    pub(super) fn is_aaaa(&self) -> bool {
        self.kind == TYPE_AAAA
    }

    /// The question as it is asked of a resolver, under an ID of our own. In lower case: the guest's spelling could say
    /// something.
    pub(super) fn to_upstream(&self, id: u16) -> Vec<u8> {
        let mut message = header(id, RD | self.flags & (AD | CD), [1, 0, 0, 1]);
        let (name, rest) = self.question.split_at(self.question.len().saturating_sub(4));
        message.extend(name.iter().map(u8::to_ascii_lowercase));
        message.extend_from_slice(rest);
        message.extend_from_slice(&opt(UPSTREAM_PAYLOAD, self.wants_dnssec()));
        message
    }

    /// The answer without any record.
    pub(super) fn fail(&self, rcode: Rcode) -> Vec<u8> {
        self.respond(rcode as u16, [0, 0], &[])
    }

    /// The answer for the guest. Over UDP one that is too long is cut to nothing, and the guest asks again over TCP.
    pub(super) fn answer(&self, answer: &Answer, over_udp: bool) -> Vec<u8> {
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

    /// Takes a resolver's answer to `to_upstream(id)` apart; `allows` says which addresses the guest may see. With
    /// `plain`, keys for encrypted hellos are left out, since the guest's own words will have to name the server.
    pub(super) fn accept(
        &self,
        message: &[u8],
        id: u16,
        plain: bool,
        mut allows: impl FnMut(IpAddr) -> bool,
    ) -> Result<Answer, Malformed> {
        let mut reader = Reader { message, at: 0 };
        let (answered, flags) = (reader.u16()?, reader.u16()?);
        let [questions, answers, authorities, _] = [reader.u16()?, reader.u16()?, reader.u16()?, reader.u16()?];
        let question = message.get(HEADER..HEADER + self.question.len()).ok_or(Malformed)?;
        let same = question.eq_ignore_ascii_case(&self.question);
        if answered != id || flags & QR == 0 || flags & OPCODE != 0 || questions != 1 || !same {
            return Err(Malformed);
        }
        let rcode = match flags & RCODE {
            0 => Rcode::NoError,
            3 => Rcode::NxDomain,
            5 => Rcode::Refused,
            _ => Rcode::ServFail,
        };
        let mut answer = Answer {
            rcode,
            truncated: flags & TC != 0,
            authentic: flags & (AD | AA) == AD,
            records: Vec::new(),
            counts: [0, 0],
            lifetimes: Vec::new(),
            ttl: None,
            aliases: Vec::new(),
            addresses: Vec::new(),
            withheld: 0,
        };
        if answer.truncated {
            return Ok(answer);
        }
        reader.at = HEADER + self.question.len();
        for (section, records) in [answers, authorities].into_iter().enumerate() {
            for _ in 0..records {
                let place = Place { authority: section == 1, plain };
                if self.copy_record(&mut reader, &mut answer, place, &mut allows)?
                    && let Some(count) = answer.counts.get_mut(section)
                {
                    *count += 1;
                }
            }
        }
        Ok(answer)
    }

    /// Copies one record, without compression but for our own question's name. False when it is left out.
    fn copy_record(
        &self,
        reader: &mut Reader<'_>,
        answer: &mut Answer,
        place: Place,
        allows: &mut impl FnMut(IpAddr) -> bool,
    ) -> Result<bool, Malformed> {
        let owner = reader.name()?;
        let (kind, class, ttl, len) = (reader.u16()?, reader.u16()?, reader.u32()?, reader.u16()?);
        let end = reader.at.checked_add(usize::from(len)).ok_or(Malformed)?;
        let mut addresses = Vec::new();
        let mut data = copy_data(reader, kind, end, &mut addresses)?;
        if reader.at != end {
            return Err(Malformed);
        }
        if class != CLASS_IN || kind == TYPE_OPT {
            return Ok(false);
        }
        if !addresses.iter().all(|address| allows(*address)) {
            answer.withheld += addresses.len();
            return Ok(false);
        }
        // No answer has its addresses there.
        if place.authority && !addresses.is_empty() {
            return Ok(false);
        }
        if place.plain && matches!(kind, TYPE_SVCB | TYPE_HTTPS) {
            let Some(stripped) = without_ech(&data)? else { return Ok(false) };
            answer.authentic &= stripped.len() == data.len();
            data = stripped;
        }
        if matches!(kind, TYPE_CNAME | TYPE_DNAME) {
            if answer.aliases.len() >= MAX_ALIASES {
                return Err(Malformed);
            }
            answer.aliases.extend(host_name(&data));
        }
        // A lifetime with its highest bit set is zero (RFC 2181, 8).
        let ttl = if ttl > i32::MAX.unsigned_abs() { 0 } else { ttl.min(MAX_TTL) };
        let holds = match data.last_chunk::<4>() {
            _ if !place.authority => Some(ttl),
            Some(minimum) if kind == TYPE_SOA => Some(ttl.min(u32::from_be_bytes(*minimum)).min(MAX_NEGATIVE)),
            _ => None,
        };
        if let Some(holds) = holds {
            answer.ttl = Some(answer.ttl.map_or(holds, |shortest| shortest.min(holds)));
        }
        let lifetime = Duration::from_secs(ttl.into());
        answer.addresses.extend(addresses.into_iter().map(|address| (address, lifetime)));

        let own = self.question.get(..self.question.len().saturating_sub(4)).unwrap_or_default();
        if owner.eq_ignore_ascii_case(own) {
            answer.records.extend_from_slice(&[0xc0, 12]);
        } else {
            answer.records.extend_from_slice(&owner);
        }
        answer.records.extend_from_slice(&kind.to_be_bytes());
        answer.records.extend_from_slice(&class.to_be_bytes());
        answer.lifetimes.push(answer.records.len());
        answer.records.extend_from_slice(&ttl.to_be_bytes());
        answer.records.extend_from_slice(&u16::try_from(data.len()).map_err(|_| Malformed)?.to_be_bytes());
        answer.records.extend_from_slice(&data);
        if answer.records.len() > usize::from(u16::MAX) {
            return Err(Malformed);
        }
        Ok(true)
    }
}

/// Where a record was found, and what may be in it.
#[derive(Debug, Clone, Copy)]
struct Place {
    authority: bool,
    plain: bool,
}

impl Answer {
    /// An answer that there is nothing of the kind.
    pub(super) fn nothing(rcode: Rcode) -> Self {
        Self {
            rcode,
            truncated: false,
            authentic: false,
            records: Vec::new(),
            counts: [0, 0],
            lifetimes: Vec::new(),
            ttl: None,
            aliases: Vec::new(),
            addresses: Vec::new(),
            withheld: 0,
        }
    }

    /// How long it may be given again; none when it may not.
    pub(super) fn lifetime(&self) -> Option<Duration> {
        let holds = matches!(self.rcode, Rcode::NoError | Rcode::NxDomain) && !self.truncated;
        self.ttl.filter(|_| holds).map(|ttl| Duration::from_secs(ttl.into()))
    }

    /// Bytes of records in it.
    pub(super) fn size(&self) -> usize {
        self.records.len()
    }

    /// The same answer some time later.
    pub(super) fn aged(&self, age: Duration) -> Self {
        let mut aged = self.clone();
        let seconds = u32::try_from(age.as_secs()).unwrap_or(u32::MAX);
        for at in &self.lifetimes {
            if let Some(field) = aged.records.get_mut(*at..*at + 4)
                && let Ok(ttl) = <[u8; 4]>::try_from(&*field)
            {
                field.copy_from_slice(&u32::from_be_bytes(ttl).saturating_sub(seconds).to_be_bytes());
            }
        }
        for (_, lifetime) in &mut aged.addresses {
            *lifetime = lifetime.saturating_sub(age);
        }
        aged
    }
}

/// A service binding without keys for encrypted hellos; none when it insists on them.
fn without_ech(data: &[u8]) -> Result<Option<Vec<u8>>, Malformed> {
    let mut reader = Reader { message: data, at: 0 };
    reader.bytes(2)?;
    reader.name()?;
    let mut kept = data.get(..reader.at).ok_or(Malformed)?.to_vec();
    while reader.at < data.len() {
        let start = reader.at;
        let (key, len) = (reader.u16()?, reader.u16()?);
        let value = reader.bytes(len.into())?;
        match key {
            PARAM_MANDATORY if value.chunks(2).any(|key| key == PARAM_ECH.to_be_bytes()) => return Ok(None),
            PARAM_ECH => {}
            _ => kept.extend_from_slice(data.get(start..reader.at).ok_or(Malformed)?),
        }
    }
    Ok(Some(kept))
}

/// The data of a record up to `end`, names in it uncompressed, addresses in it collected.
fn copy_data(
    reader: &mut Reader<'_>,
    kind: u16,
    end: usize,
    addresses: &mut Vec<IpAddr>,
) -> Result<Vec<u8>, Malformed> {
    let mut data = Vec::new();
    match kind {
        TYPE_A => {
            data.extend_from_slice(reader.until(end)?);
            addresses.push(v4(&data)?);
        }
        TYPE_AAAA => {
            data.extend_from_slice(reader.until(end)?);
            addresses.push(v6(&data)?);
        }
        TYPE_NS | TYPE_CNAME | TYPE_PTR | TYPE_DNAME => data = reader.name()?,
        TYPE_MX => {
            data.extend_from_slice(reader.bytes(2)?);
            data.extend(reader.name()?);
        }
        TYPE_SRV => {
            data.extend_from_slice(reader.bytes(6)?);
            data.extend(reader.name()?);
        }
        TYPE_SOA => {
            data.extend(reader.name()?);
            data.extend(reader.name()?);
            data.extend_from_slice(reader.bytes(20)?);
        }
        TYPE_SVCB | TYPE_HTTPS => {
            data.extend_from_slice(reader.bytes(2)?);
            data.extend(reader.name()?);
            let params = reader.until(end)?;
            collect_hints(params, addresses)?;
            data.extend_from_slice(params);
        }
        _ => data.extend_from_slice(reader.until(end)?),
    }
    Ok(data)
}

/// The addresses among the parameters of a service binding (RFC 9460, 7.3).
fn collect_hints(params: &[u8], addresses: &mut Vec<IpAddr>) -> Result<(), Malformed> {
    let mut reader = Reader { message: params, at: 0 };
    while reader.at < params.len() {
        let (key, len) = (reader.u16()?, reader.u16()?);
        let value = reader.bytes(usize::from(len))?;
        match key {
            PARAM_IPV4HINT => value.chunks(4).try_for_each(|hint| v4(hint).map(|a| addresses.push(a)))?,
            PARAM_IPV6HINT => value.chunks(16).try_for_each(|hint| v6(hint).map(|a| addresses.push(a)))?,
            _ => {}
        }
    }
    Ok(())
}

fn v4(bytes: &[u8]) -> Result<IpAddr, Malformed> {
    <[u8; 4]>::try_from(bytes).map(|bytes| Ipv4Addr::from(bytes).into()).map_err(|_| Malformed)
}

fn v6(bytes: &[u8]) -> Result<IpAddr, Malformed> {
    <[u8; 16]>::try_from(bytes).map(|bytes| Ipv6Addr::from(bytes).into()).map_err(|_| Malformed)
}

#[cfg(test)]
mod tests;

//! A resolver's answer: what of it the guest gets, and for how long.

use std::net::IpAddr;
use std::time::Duration;

use policy::Name;

use super::numbers::{
    AA, AD, CLASS_IN, HEADER, Malformed, OPCODE, QR, RCODE, Rcode, TC, TYPE_CNAME, TYPE_DNAME, TYPE_HTTPS, TYPE_OPT,
    TYPE_SOA, TYPE_SVCB,
};
use super::query::Query;
use super::reader::{Reader, host_name};
use super::record::{copy_data, without_ech};

/// Longest lifetime that the guest is told, and that of a negative answer (RFC 2308, 5).
pub(super) const MAX_TTL: u32 = 24 * 3600;
pub(super) const MAX_NEGATIVE: u32 = 300;
/// Names that may lead to an address by way of one another.
pub(super) const MAX_ALIASES: usize = 32;

/// A resolver's answer, made fit for the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::dns) struct Answer {
    pub(in crate::dns) rcode: Rcode,
    pub(super) truncated: bool,
    pub(super) authentic: bool,
    pub(super) records: Vec<u8>,
    pub(super) counts: [u16; 2],
    /// Where in `records` lifetimes are.
    lifetimes: Vec<usize>,
    /// How long the answer as a whole holds.
    ttl: Option<u32>,
    /// The names that the name asked for stands for.
    pub(in crate::dns) aliases: Vec<Name>,
    /// Addresses in it that were let through, with their lifetimes.
    pub(in crate::dns) addresses: Vec<(IpAddr, Duration)>,
    /// Addresses that were not.
    pub(in crate::dns) withheld: usize,
}

impl Query {
    /// Takes a resolver's answer to `to_upstream(id)` apart; `allows` says which addresses the guest may see. With
    /// `plain`, keys for encrypted hellos are left out, since the guest's own words will have to name the server.
    pub(in crate::dns) fn accept(
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
        let (truncated, authentic) = (flags & TC != 0, flags & (AD | AA) == AD);
        let mut answer = Answer { truncated, authentic, ..Answer::nothing(rcode) };
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
    pub(in crate::dns) fn nothing(rcode: Rcode) -> Self {
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
    pub(in crate::dns) fn lifetime(&self) -> Option<Duration> {
        let holds = matches!(self.rcode, Rcode::NoError | Rcode::NxDomain) && !self.truncated;
        self.ttl.filter(|_| holds).map(|ttl| Duration::from_secs(ttl.into()))
    }

    /// Bytes of records in it.
    pub(in crate::dns) fn size(&self) -> usize {
        self.records.len()
    }

    /// The same answer some time later.
    pub(in crate::dns) fn aged(&self, age: Duration) -> Self {
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

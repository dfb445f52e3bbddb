//! The data of single records: names uncompressed, addresses found, keys for encrypted hellos taken out.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::numbers::{
    Malformed, TYPE_A, TYPE_AAAA, TYPE_CNAME, TYPE_DNAME, TYPE_HTTPS, TYPE_MX, TYPE_NS, TYPE_PTR, TYPE_SOA, TYPE_SRV,
    TYPE_SVCB,
};
use super::reader::Reader;

const PARAM_MANDATORY: u16 = 0;
const PARAM_IPV4HINT: u16 = 4;
const PARAM_ECH: u16 = 5;
const PARAM_IPV6HINT: u16 = 6;

/// A service binding without keys for encrypted hellos; none when it insists on them.
pub(super) fn without_ech(data: &[u8]) -> Result<Option<Vec<u8>>, Malformed> {
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
pub(super) fn copy_data(
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

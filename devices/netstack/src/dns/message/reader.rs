//! Reading a message of anybody's, and the names in it.

use policy::Name;

use super::numbers::Malformed;

const MAX_WIRE_NAME: usize = 255;
/// A chain of pointers longer than this is made to waste time; each must point backwards anyway.
const MAX_POINTERS: usize = 32;

/// A position in a message.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'a> {
    pub(super) message: &'a [u8],
    pub(super) at: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn bytes(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let end = self.at.checked_add(count).ok_or(Malformed)?;
        let bytes = self.message.get(self.at..end).ok_or(Malformed)?;
        self.at = end;
        Ok(bytes)
    }

    pub(super) fn until(&mut self, end: usize) -> Result<&'a [u8], Malformed> {
        self.bytes(end.checked_sub(self.at).ok_or(Malformed)?)
    }

    pub(super) fn u8(&mut self) -> Result<u8, Malformed> {
        self.bytes(1)?.first().copied().ok_or(Malformed)
    }

    pub(super) fn u16(&mut self) -> Result<u16, Malformed> {
        let bytes: [u8; 2] = self.bytes(2)?.try_into().map_err(|_| Malformed)?;
        Ok(u16::from_be_bytes(bytes))
    }

    pub(super) fn u32(&mut self) -> Result<u32, Malformed> {
        let bytes: [u8; 4] = self.bytes(4)?.try_into().map_err(|_| Malformed)?;
        Ok(u32::from_be_bytes(bytes))
    }

    /// Reads a name and gives it without compression.
    pub(super) fn name(&mut self) -> Result<Vec<u8>, Malformed> {
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
pub(super) fn host_name(wire: &[u8]) -> Option<Name> {
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

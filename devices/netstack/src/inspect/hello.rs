//! The ClientHello of TLS (RFC 8446, 4.1.2), read from a stream piece by piece as far as the policy needs it.

use policy::{BadName, Name};

/// Longest hello that is read; post-quantum key shares make 2 KiB common, nothing known comes near this.
pub const MAX_HELLO: usize = 64 << 10;
/// Longest plaintext of one record (RFC 8446, 5.1).
const MAX_RECORD: usize = 1 << 14;
/// Bytes of records in which a hello may arrive: one of full length in small records.
const MAX_STREAM: usize = 2 * MAX_HELLO;

const RECORD_HEADER: usize = 5;
const HANDSHAKE_HEADER: usize = 4;
const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const HOST_NAME: u8 = 0;

const EXTENSION_SERVER_NAME: u16 = 0;
const EXTENSION_ALPN: u16 = 16;
const EXTENSION_ENCRYPTED_HELLO: u16 = 0xfe0d;
/// What came before it, and was never a standard.
const EXTENSION_ENCRYPTED_NAME: u16 = 0xffce;

/// What a client says at the start of a TLS connection. All of it is the guest's claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientHello {
    /// The server it names.
    pub server_name: Option<Name>,
    /// Whether there is an encrypted hello inside, which names another server.
    pub encrypted: bool,
    /// The protocols it offers (RFC 7301), in its order.
    pub protocols: Vec<Vec<u8>>,
}

/// A stream that does not begin with a ClientHello which can be trusted to mean one thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadHello {
    /// Not as the standard has it.
    #[error("Malformed TLS ClientHello")]
    Malformed,
    /// Longer than anybody sends.
    #[error("TLS ClientHello is longer than {MAX_HELLO} bytes")]
    TooLong,
    /// The server's name is none.
    #[error("TLS server name: {0}")]
    Name(#[from] BadName),
}

/// Reads a hello across any split into segments and records.
#[derive(Debug, Default)]
pub struct HelloReader {
    header: Vec<u8>,
    /// Bytes of the current record that are to come.
    record_left: usize,
    message: Vec<u8>,
    taken: usize,
}

impl HelloReader {
    /// Takes the next bytes of the stream; gives the hello as soon as it is complete.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Option<ClientHello>, BadHello> {
        let mut rest = bytes;
        while !rest.is_empty() {
            if self.taken > MAX_STREAM {
                return Err(BadHello::TooLong);
            }
            if self.record_left == 0 {
                let (part, after) = rest.split_at(rest.len().min(RECORD_HEADER - self.header.len()));
                self.header.extend_from_slice(part);
                self.taken += part.len();
                rest = after;
                self.begin_record()?;
                continue;
            }
            let (part, after) = rest.split_at(rest.len().min(self.record_left));
            self.message.extend_from_slice(part);
            self.taken += part.len();
            self.record_left -= part.len();
            rest = after;
            if let Some(hello) = self.complete()? {
                return Ok(Some(hello));
            }
        }
        Ok(None)
    }

    fn begin_record(&mut self) -> Result<(), BadHello> {
        // Judged byte by byte, so that what is no TLS is found out early.
        if self.header.first().is_some_and(|kind| *kind != HANDSHAKE) || self.header.get(1).is_some_and(|v| *v != 3) {
            return Err(BadHello::Malformed);
        }
        if let [_, _, _, high, low] = *self.header {
            self.record_left = u16::from_be_bytes([high, low]).into();
            self.header.clear();
            if self.record_left == 0 || self.record_left > MAX_RECORD {
                return Err(BadHello::Malformed);
            }
        }
        Ok(())
    }

    fn complete(&mut self) -> Result<Option<ClientHello>, BadHello> {
        let Some(&[kind, a, b, c]) = self.message.first_chunk::<HANDSHAKE_HEADER>() else { return Ok(None) };
        let len = usize::try_from(u32::from_be_bytes([0, a, b, c])).unwrap_or(usize::MAX);
        if kind != CLIENT_HELLO {
            return Err(BadHello::Malformed);
        }
        if len > MAX_HELLO {
            return Err(BadHello::TooLong);
        }
        let Some(body) = self.message.get(HANDSHAKE_HEADER..HANDSHAKE_HEADER + len) else { return Ok(None) };
        // Nothing may follow a hello in its record, or two readers could see two hellos.
        if self.message.len() != HANDSHAKE_HEADER + len || self.record_left != 0 {
            return Err(BadHello::Malformed);
        }
        parse(body).map(Some)
    }
}

/// Fields of TLS: lengths in front of everything.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn bytes(&mut self, count: usize) -> Result<&'a [u8], BadHello> {
        let (bytes, rest) = self.0.split_at_checked(count).ok_or(BadHello::Malformed)?;
        self.0 = rest;
        Ok(bytes)
    }

    fn u8(&mut self) -> Result<u8, BadHello> {
        self.bytes(1)?.first().copied().ok_or(BadHello::Malformed)
    }

    fn u16(&mut self) -> Result<u16, BadHello> {
        let bytes: [u8; 2] = self.bytes(2)?.try_into().map_err(|_| BadHello::Malformed)?;
        Ok(u16::from_be_bytes(bytes))
    }

    /// A field behind its length in one byte.
    fn short(&mut self) -> Result<&'a [u8], BadHello> {
        let len = self.u8()?;
        self.bytes(len.into())
    }

    /// A field behind its length in two bytes.
    fn long(&mut self) -> Result<&'a [u8], BadHello> {
        let len = self.u16()?;
        self.bytes(len.into())
    }

    fn end(&self) -> Result<(), BadHello> {
        if self.0.is_empty() { Ok(()) } else { Err(BadHello::Malformed) }
    }
}

fn parse(body: &[u8]) -> Result<ClientHello, BadHello> {
    let mut fields = Fields(body);
    if fields.u16()? >> 8 != 3 {
        return Err(BadHello::Malformed);
    }
    fields.bytes(32)?;
    let (session, ciphers, compressions) = (fields.short()?, fields.long()?, fields.short()?);
    if session.len() > 32 || ciphers.is_empty() || ciphers.len() % 2 != 0 || compressions.is_empty() {
        return Err(BadHello::Malformed);
    }
    let mut hello = ClientHello { server_name: None, encrypted: false, protocols: Vec::new() };
    if fields.0.is_empty() {
        return Ok(hello);
    }
    let mut extensions = Fields(fields.long()?);
    fields.end()?;
    let mut seen = Vec::new();
    while !extensions.0.is_empty() {
        let (kind, data) = (extensions.u16()?, extensions.long()?);
        // Readers differ in whether the first or the last of two counts; nobody of good will sends two.
        if matches!(kind, EXTENSION_SERVER_NAME | EXTENSION_ALPN) {
            if seen.contains(&kind) {
                return Err(BadHello::Malformed);
            }
            seen.push(kind);
        }
        match kind {
            EXTENSION_SERVER_NAME => hello.server_name = Some(server_name(data)?),
            EXTENSION_ALPN => hello.protocols = protocols(data)?,
            EXTENSION_ENCRYPTED_HELLO | EXTENSION_ENCRYPTED_NAME => hello.encrypted = true,
            _ => {}
        }
    }
    Ok(hello)
}

/// The one host name in the extension (RFC 6066, 3).
fn server_name(data: &[u8]) -> Result<Name, BadHello> {
    let mut fields = Fields(data);
    let mut list = Fields(fields.long()?);
    fields.end()?;
    let (kind, name) = (list.u8()?, list.long()?);
    list.end()?;
    if kind != HOST_NAME {
        return Err(BadHello::Malformed);
    }
    let name = std::str::from_utf8(name).map_err(|_| BadHello::Malformed)?;
    Ok(name.parse()?)
}

fn protocols(data: &[u8]) -> Result<Vec<Vec<u8>>, BadHello> {
    let mut fields = Fields(data);
    let mut list = Fields(fields.long()?);
    fields.end()?;
    let mut protocols = Vec::new();
    while !list.0.is_empty() {
        protocols.push(list.short()?.to_vec());
    }
    Ok(protocols)
}

#[cfg(test)]
mod tests;

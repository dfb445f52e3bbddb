//! Requests of HTTP/1 (RFC 9112) on one connection, followed closely enough to know the host of each.
//!
//! Whatever two readers could understand differently is refused rather than understood: bare line feeds, folded
//! lines, lengths that contradict one another, hosts that do.

use policy::Name;

/// Longest request line with all fields, and longest line between chunks.
const MAX_HEAD: usize = 64 << 10;
const MAX_CHUNK_LINE: usize = 4096;

/// Why a request does not go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadRequest {
    /// Not as the standard has it, or not in one way only.
    #[error("Malformed HTTP request: {0}")]
    Malformed(&'static str),
    /// Longer than anybody sends.
    #[error("HTTP request head is longer than {MAX_HEAD} bytes")]
    TooLong,
    /// It names no host.
    #[error("HTTP request names no host")]
    Nameless,
    /// It would turn the connection into something nobody can look into.
    #[error("HTTP {0} would hide what follows")]
    Tunnel(&'static str),
    /// It is for another host.
    #[error("HTTP request is for {0:?}")]
    Elsewhere(String),
}

#[derive(Debug)]
enum State {
    /// In the request line or the fields.
    Head,
    /// In a body, so many bytes before its end.
    Body(u64),
    /// In the line before a chunk.
    ChunkSize,
    /// In a chunk.
    Chunk(u64),
    /// Before the line break after a chunk.
    ChunkEnd,
    /// Behind the last chunk.
    Trailer,
}

/// What the head at hand has said so far.
#[derive(Debug, Default)]
struct Head {
    started: bool,
    bytes: usize,
    /// The host in the target, if the target has one.
    target: Option<String>,
    host: Option<String>,
    length: Option<u64>,
    chunked: bool,
    old: bool,
}

/// Follows the requests of one connection.
#[derive(Debug)]
pub struct RequestReader {
    state: State,
    line: Vec<u8>,
    head: Head,
}

impl Default for RequestReader {
    fn default() -> Self {
        Self { state: State::Head, line: Vec::new(), head: Head::default() }
    }
}

impl RequestReader {
    /// Takes the next bytes. Gives how many of them belong to requests that may go on, `None` for none yet; bytes after
    /// those wait with whatever waited before.
    pub fn push(&mut self, bytes: &[u8], allows: &mut dyn FnMut(&Name) -> bool) -> Result<Option<usize>, BadRequest> {
        let mut at = 0;
        let mut approved = None;
        while let Some(rest) = bytes.get(at..)
            && !rest.is_empty()
        {
            match &mut self.state {
                State::Body(left) | State::Chunk(left) => {
                    let count = rest.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                    *left -= u64::try_from(count).unwrap_or(0);
                    let (done, in_chunk) = (*left == 0, matches!(self.state, State::Chunk(_)));
                    if done {
                        self.state = if in_chunk { State::ChunkEnd } else { State::Head };
                    }
                    at += count;
                    approved = Some(at);
                }
                State::Head | State::ChunkSize | State::ChunkEnd | State::Trailer => {
                    let end = rest.iter().position(|byte| *byte == b'\n').map(|end| end + 1);
                    let count = end.unwrap_or(rest.len());
                    self.line.extend_from_slice(rest.get(..count).unwrap_or_default());
                    at += count;
                    let most = match self.state {
                        State::ChunkSize | State::ChunkEnd => MAX_CHUNK_LINE,
                        _ => MAX_HEAD,
                    };
                    if self.head.bytes.saturating_add(self.line.len()) > most {
                        return Err(BadRequest::TooLong);
                    }
                    if end.is_some() && self.on_line(allows)? {
                        approved = Some(at);
                    }
                }
            }
        }
        Ok(approved)
    }

    /// Takes a whole line; true when everything up to its end may go on.
    fn on_line(&mut self, allows: &mut dyn FnMut(&Name) -> bool) -> Result<bool, BadRequest> {
        let line = std::mem::take(&mut self.line);
        let text = line.strip_suffix(b"\r\n").ok_or(BadRequest::Malformed("a line that does not end in CR LF"))?;
        if text.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t') {
            return Err(BadRequest::Malformed("a control character"));
        }
        match self.state {
            State::ChunkSize => {
                self.head.bytes = 0;
                self.state = match chunk_size(text)? {
                    0 => State::Trailer,
                    size => State::Chunk(size),
                };
                Ok(true)
            }
            State::ChunkEnd if !text.is_empty() => Err(BadRequest::Malformed("a chunk longer than its size")),
            State::ChunkEnd => {
                self.state = State::ChunkSize;
                Ok(true)
            }
            State::Trailer => {
                self.head.bytes += line.len();
                if text.is_empty() {
                    self.state = State::Head;
                    self.head = Head::default();
                } else {
                    field(text)?;
                }
                Ok(true)
            }
            _ if !self.head.started => {
                self.head.started = true;
                self.head.bytes = line.len();
                self.head.request_line(text)?;
                Ok(false)
            }
            _ if !text.is_empty() => {
                self.head.bytes += line.len();
                self.head.field(text)?;
                Ok(false)
            }
            _ => {
                let head = std::mem::take(&mut self.head);
                self.state = head.judge(allows)?;
                Ok(true)
            }
        }
    }
}

impl Head {
    fn request_line(&mut self, line: &[u8]) -> Result<(), BadRequest> {
        let line = std::str::from_utf8(line).map_err(|_| BadRequest::Malformed("a request line that is not text"))?;
        let mut words = line.split(' ');
        let (Some(method), Some(target), Some(version), None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Err(BadRequest::Malformed("a request line of other than three words"));
        };
        if method.is_empty() || !method.bytes().all(is_token) {
            return Err(BadRequest::Malformed("a method that is no word"));
        }
        if method.eq_ignore_ascii_case("CONNECT") {
            return Err(BadRequest::Tunnel("CONNECT"));
        }
        self.old = match version {
            "HTTP/1.1" => false,
            "HTTP/1.0" => true,
            _ => return Err(BadRequest::Malformed("a version other than HTTP/1")),
        };
        if let Some(rest) = strip_scheme(target) {
            let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
            self.target = Some(authority.to_owned());
        } else if !target.starts_with('/') && target != "*" {
            return Err(BadRequest::Malformed("a target that is neither a path nor a URL"));
        }
        Ok(())
    }

    fn field(&mut self, line: &[u8]) -> Result<(), BadRequest> {
        let (name, value) = field(line)?;
        match name.as_str() {
            "host" if self.host.is_some() => return Err(BadRequest::Malformed("two Host fields")),
            "host" => self.host = Some(value),
            "content-length" if self.length.is_some() => {
                return Err(BadRequest::Malformed("two Content-Length fields"));
            }
            "content-length" => {
                let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
                let length = value.parse().ok().filter(|_| digits);
                self.length = Some(length.ok_or(BadRequest::Malformed("a Content-Length that is no number"))?);
            }
            "transfer-encoding" if self.chunked || !value.eq_ignore_ascii_case("chunked") => {
                return Err(BadRequest::Malformed("a Transfer-Encoding other than chunked"));
            }
            "transfer-encoding" => self.chunked = true,
            "upgrade" => return Err(BadRequest::Tunnel("Upgrade")),
            _ => {}
        }
        Ok(())
    }

    /// The head is whole: what comes after it?
    fn judge(self, allows: &mut dyn FnMut(&Name) -> bool) -> Result<State, BadRequest> {
        let host = self.host.ok_or(BadRequest::Nameless)?;
        for claimed in self.target.iter().chain([&host]) {
            let name = host_name(claimed).ok_or_else(|| BadRequest::Elsewhere(shorten(claimed)))?;
            if !allows(&name) {
                return Err(BadRequest::Elsewhere(name.to_string()));
            }
        }
        match (self.chunked, self.length) {
            (true, Some(_)) => Err(BadRequest::Malformed("both Content-Length and Transfer-Encoding")),
            (true, None) if self.old => Err(BadRequest::Malformed("chunks in HTTP/1.0")),
            (true, None) => Ok(State::ChunkSize),
            (false, None | Some(0)) => Ok(State::Head),
            (false, Some(length)) => Ok(State::Body(length)),
        }
    }
}

/// A field as its name in lower case and its value.
fn field(line: &[u8]) -> Result<(String, String), BadRequest> {
    let colon = line.iter().position(|byte| *byte == b':');
    let (name, value) = colon.and_then(|at| line.split_at_checked(at)).ok_or(BadRequest::Malformed("no field"))?;
    // A space before the colon or at the start of a line (folding) is read in different ways.
    if name.is_empty() || !name.iter().copied().all(is_token) {
        return Err(BadRequest::Malformed("a field whose name is no word"));
    }
    let value = String::from_utf8_lossy(value.get(1..).unwrap_or_default());
    Ok((String::from_utf8_lossy(name).to_ascii_lowercase(), value.trim_matches([' ', '\t']).to_owned()))
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn strip_scheme(target: &str) -> Option<&str> {
    let (scheme, rest) = target.split_once("://")?;
    (scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https")).then_some(rest)
}

/// The name in `host[:port]`.
fn host_name(authority: &str) -> Option<Name> {
    let (host, port) = authority.split_once(':').unwrap_or((authority, "0"));
    if port.is_empty() || port.len() > 5 || !port.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    host.parse().ok()
}

fn shorten(text: &str) -> String {
    text.chars().take(100).collect()
}

fn chunk_size(line: &[u8]) -> Result<u64, BadRequest> {
    let wrong = BadRequest::Malformed("a chunk without a size");
    let digits = line.split(|byte| *byte == b';').next().unwrap_or_default();
    // Eight digits are 4 GiB, more than anybody puts into one chunk.
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return Err(wrong);
    }
    let digits = std::str::from_utf8(digits).map_err(|_| wrong.clone())?;
    u64::from_str_radix(digits, 16).map_err(|_| wrong)
}

#[cfg(test)]
mod tests;

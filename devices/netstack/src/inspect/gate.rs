//! The gate between the guest's bytes and the upstream connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use policy::Name;

use super::hello::{BadHello, ClientHello, HelloReader};
use super::request::{BadRequest, RequestReader};

/// Bytes that all gates of a guest may hold back together.
const MAX_HELD: usize = 16 << 20;
/// Bytes taken from the guest at a time.
const PIECE: usize = 64 << 10;
/// Longest first line that is waited for to tell HTTP from other protocols of words.
const MAX_FIRST_LINE: usize = 8192;
/// Longest method of HTTP that is looked for.
const MAX_WORD: usize = 32;
/// Ports that a name rule opens for TLS and HTTP only.
const WEB: [u16; 2] = [80, 443];

/// What streams of flows that rest on names may do besides what the module says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamChecks {
    /// TLS that names no server is let through to an address that a name rule opens.
    pub allow_unnamed_tls: bool,
    /// TLS that hides the name of its server behind another one is let through.
    pub allow_encrypted_hello: bool,
    /// How long a hello or a request head may take from its first byte.
    pub patience: Duration,
}

impl Default for StreamChecks {
    fn default() -> Self {
        Self { allow_unnamed_tls: false, allow_encrypted_hello: false, patience: Duration::from_secs(30) }
    }
}

/// Bytes held back in all gates, so that many slow hellos cost a bounded amount.
#[derive(Debug, Clone, Default)]
pub(crate) struct Budget(Arc<AtomicUsize>);

/// What a stream has to keep to.
#[derive(Debug, Clone, Default)]
pub(crate) struct Terms {
    /// The names that are pinned to the address and allowed there.
    pub(crate) names: Vec<Name>,
    /// Whether the flow rests on them. If not, the gate only looks for a hello.
    pub(crate) bound: bool,
    /// The port that the rule names, if it names one.
    pub(crate) port: Option<u16>,
    /// Whether somebody wants to see the hello before it goes on.
    pub(crate) watched: bool,
}

/// Why a stream ended at the gate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Denial {
    #[error(transparent)]
    Hello(#[from] BadHello),
    #[error(transparent)]
    Request(#[from] BadRequest),
    #[error("TLS for {0}, which this address was not opened for")]
    Elsewhere(Name),
    #[error("TLS without a server name")]
    Nameless,
    #[error("TLS with an encrypted ClientHello (ECH), which hides the server it is for; switch ECH off in the client")]
    Encrypted,
    #[error("Neither TLS nor HTTP: name the port in the rule if the service is neither")]
    Opaque,
    #[error("The stream ended before it said what it is for")]
    Ended,
    #[error("The stream took too long to say what it is for")]
    TooSlow,
    #[error("Too many streams at once have not said what they are for")]
    Crowded,
}

/// What came out, for the audit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finding {
    /// The host that the stream named.
    pub(crate) host: Option<Name>,
    pub(crate) denial: Option<Denial>,
}

#[derive(Debug)]
enum Stage {
    First,
    Hello(HelloReader),
    Requests(RequestReader),
    /// The hello is fine; somebody is to be asked what becomes of the flow.
    Asking(ClientHello),
    Open,
}

/// Holds the guest's bytes back until they have said whom they are for.
#[derive(Debug)]
pub(crate) struct Gate {
    terms: Terms,
    checks: StreamChecks,
    stage: Stage,
    /// Bytes of the guest that are not sent, those that may be first.
    buffer: Vec<u8>,
    released: usize,
    /// Since when bytes are held back.
    since: Option<Instant>,
    budget: Budget,
    reserved: usize,
    finding: Option<Finding>,
    /// The host of the last request.
    shown: Option<Name>,
}

impl Gate {
    pub(crate) fn new(terms: Terms, checks: StreamChecks, budget: Budget) -> Self {
        Self {
            terms,
            checks,
            stage: Stage::First,
            buffer: Vec::new(),
            released: 0,
            since: None,
            budget,
            reserved: 0,
            finding: None,
            shown: None,
        }
    }

    /// How many bytes `push` may be given now.
    pub(crate) fn room(&self) -> usize {
        let waiting = matches!(self.stage, Stage::Asking(_) | Stage::Open) || self.released > 0;
        if waiting && !self.buffer.is_empty() { 0 } else { PIECE }
    }

    /// Takes bytes of the guest.
    pub(crate) fn push(&mut self, bytes: &[u8], now: Instant) -> Result<(), Denial> {
        let start = self.buffer.len();
        self.buffer.extend_from_slice(bytes);
        let judged = self.judge(start).and_then(|()| self.settle(now));
        if let Err(denial) = &judged {
            self.refuse(denial);
        }
        judged
    }

    /// Bytes that may go on.
    pub(crate) fn released(&self) -> &[u8] {
        self.buffer.get(..self.released).unwrap_or_default()
    }

    /// So many of them have gone.
    pub(crate) fn sent(&mut self, count: usize) {
        let count = count.min(self.released);
        self.buffer.drain(..count);
        self.released -= count;
        if self.buffer.is_empty() {
            // Between two requests a connection may rest for long.
            self.buffer = Vec::new();
        }
    }

    /// The guest sends no more: does that leave something unsaid?
    pub(crate) fn finish(&mut self) -> Result<(), Denial> {
        if self.released == self.buffer.len() || matches!(self.stage, Stage::Asking(_)) {
            return Ok(());
        }
        let opaque = matches!(self.stage, Stage::First);
        let ended = if opaque { self.opaque() } else { self.lenient(Denial::Ended) };
        if let Err(denial) = &ended {
            self.refuse(denial);
        }
        ended
    }

    /// When the guest has had time enough.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.since.map(|since| since + self.checks.patience)
    }

    /// Ends the patience if its time has come.
    pub(crate) fn expire(&mut self, now: Instant) -> Result<(), Denial> {
        if self.deadline().is_none_or(|deadline| now < deadline) {
            return Ok(());
        }
        let expired = self.lenient(Denial::TooSlow);
        if let Err(denial) = &expired {
            self.refuse(denial);
        }
        expired
    }

    /// The hello that somebody is to be asked about.
    pub(crate) fn question(&self) -> Option<&ClientHello> {
        match &self.stage {
            Stage::Asking(hello) => Some(hello),
            _ => None,
        }
    }

    /// Lets everything pass from now on.
    pub(crate) fn open(&mut self) {
        self.stage = Stage::Open;
        self.released = self.buffer.len();
        self.since = None;
    }

    /// Whether nothing is held back any more and nothing ever will be.
    pub(crate) fn is_open(&self) -> bool {
        matches!(self.stage, Stage::Open) && self.buffer.is_empty()
    }

    /// What there is to tell, once.
    pub(crate) fn take_finding(&mut self) -> Option<Finding> {
        self.finding.take()
    }

    /// The names that the flow rests on.
    pub(crate) fn names(&self) -> &[Name] {
        &self.terms.names
    }

    /// Looks at what came since `start`, and goes on to another stage if that tells what the stream is.
    fn judge(&mut self, mut start: usize) -> Result<(), Denial> {
        if matches!(self.stage, Stage::First) {
            self.stage = match first(&self.buffer) {
                // Only a hello is looked for, and this is none.
                First::Unclear if !self.terms.bound && !self.buffer.starts_with(&[22]) => return self.opaque(),
                First::Unclear => return Ok(()),
                First::Tls => Stage::Hello(HelloReader::default()),
                First::Http if self.terms.bound => Stage::Requests(RequestReader::default()),
                First::Http | First::Opaque => return self.opaque(),
            };
            start = 0;
        }
        let bytes = self.buffer.get(start..).unwrap_or_default();
        match &mut self.stage {
            Stage::Hello(reader) => match reader.push(bytes) {
                Ok(None) => Ok(()),
                Ok(Some(hello)) => self.on_hello(hello),
                Err(error) => self.lenient(error.into()),
            },
            Stage::Requests(reader) => {
                let (names, shown, finding) = (&self.terms.names, &mut self.shown, &mut self.finding);
                let mut allows = |name: &Name| {
                    if shown.as_ref() != Some(name) {
                        *shown = Some(name.clone());
                        *finding = Some(Finding { host: Some(name.clone()), denial: None });
                    }
                    names.contains(name)
                };
                if let Some(count) = reader.push(bytes, &mut allows)? {
                    self.released = start + count;
                }
                Ok(())
            }
            Stage::Open => {
                self.released = self.buffer.len();
                Ok(())
            }
            Stage::First | Stage::Asking(_) => Ok(()),
        }
    }

    fn on_hello(&mut self, hello: ClientHello) -> Result<(), Denial> {
        if self.terms.bound {
            match &hello.server_name {
                Some(name) if !self.terms.names.contains(name) => return Err(Denial::Elsewhere(name.clone())),
                None if !self.checks.allow_unnamed_tls => return Err(Denial::Nameless),
                _ if hello.encrypted && !self.checks.allow_encrypted_hello => return Err(Denial::Encrypted),
                // From now on the flow rests on this name alone.
                Some(name) => self.terms.names = vec![name.clone()],
                None => {}
            }
            self.finding = Some(Finding { host: hello.server_name.clone(), denial: None });
        }
        if self.terms.watched {
            self.stage = Stage::Asking(hello);
        } else {
            self.open();
        }
        Ok(())
    }

    /// The stream is neither TLS nor HTTP.
    fn opaque(&mut self) -> Result<(), Denial> {
        if self.terms.port.is_none_or(|port| WEB.contains(&port)) {
            return self.lenient(Denial::Opaque);
        }
        if self.terms.bound {
            self.finding = Some(Finding { host: None, denial: None });
        }
        self.open();
        Ok(())
    }

    /// Denies where the flow rests on what it says; elsewhere it may say what it likes.
    fn lenient(&mut self, denial: Denial) -> Result<(), Denial> {
        if self.terms.bound {
            return Err(denial);
        }
        self.open();
        Ok(())
    }

    /// Accounts for what is held back now.
    fn settle(&mut self, now: Instant) -> Result<(), Denial> {
        let held = self.buffer.len() - self.released;
        self.since = if held == 0 || self.question().is_some() { None } else { self.since.or(Some(now)) };
        // A hello is kept twice, as it came and as a message.
        let wanted = 2 * held;
        let before = self.reserved;
        self.reserved = wanted;
        if wanted <= before {
            self.budget.0.fetch_sub(before - wanted, Ordering::Relaxed);
            return Ok(());
        }
        let total = self.budget.0.fetch_add(wanted - before, Ordering::Relaxed) + (wanted - before);
        if total > MAX_HELD { self.lenient(Denial::Crowded) } else { Ok(()) }
    }

    fn refuse(&mut self, denial: &Denial) {
        let host = match denial {
            Denial::Elsewhere(name) => Some(name.clone()),
            _ => None,
        };
        self.finding = Some(Finding { host, denial: Some(denial.clone()) });
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.budget.0.fetch_sub(self.reserved, Ordering::Relaxed);
    }
}

/// What the first bytes look like.
enum First {
    Unclear,
    Tls,
    Http,
    Opaque,
}

fn first(bytes: &[u8]) -> First {
    match bytes {
        [] | [22] => return First::Unclear,
        [22, 3, ..] => return First::Tls,
        // Servers skip empty lines before a request; the reader of requests does not.
        [b'\r' | b'\n', ..] => return First::Http,
        _ => {}
    }
    let line_end = bytes.iter().position(|byte| *byte == b'\n');
    let line = bytes.get(..line_end.unwrap_or(bytes.len())).unwrap_or_default();
    let word_end = line.iter().position(|byte| *byte == b' ').unwrap_or(line.len());
    let word = line.get(..word_end).unwrap_or_default();
    let is_word = !word.is_empty() && word.len() <= MAX_WORD && word.iter().all(|b| b.is_ascii_graphic() && *b != b'<');
    let is_text = line.iter().all(|byte| !byte.is_ascii_control() || matches!(byte, b'\t' | b'\r'));
    if !is_word || !is_text || line.len() > MAX_FIRST_LINE {
        return First::Opaque;
    }
    if line_end.is_none() {
        return First::Unclear;
    }
    let says_http = line.windows(5).any(|window| window.eq_ignore_ascii_case(b"HTTP/"));
    if says_http { First::Http } else { First::Opaque }
}

#[cfg(test)]
mod tests;

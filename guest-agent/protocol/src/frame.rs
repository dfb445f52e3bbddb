//! Frames: `u32` length of the body, `u8` kind, body.
//!
//! Both sides of both connections use this. A [`FrameReader`] is fed from any `Read` and never holds more than one
//! frame of its kind's limit plus one read; the limit is applied to the length prefix, before the body arrives.

use std::io::{self, Read};
use std::marker::PhantomData;

use crate::bytes::Invalid;
use crate::wire::{Decoder, Encoder};

/// Bytes in front of every body.
pub const HEADER_LEN: usize = 5;
/// What a reader asks the stream for at a time.
const READ_LEN: usize = 128 * 1024;

/// The other side broke the protocol; the connection is of no use any more.
#[derive(Debug, thiserror::Error)]
pub enum ProtocolError {
    /// Host and agent were built from different sources.
    #[error(
        "Agent protocol version {theirs} on the other side, {ours} here: host and guest agent do not belong together"
    )]
    Version {
        /// What the other side speaks.
        theirs: u32,
        /// What this side speaks.
        ours: u32,
    },
    /// A frame kind this side does not take.
    #[error("Unexpected message of kind {0}")]
    Kind(u8),
    /// A frame longer than its kind may be.
    #[error("Message of kind {kind} with {len} bytes, more than the {max} allowed")]
    TooLong {
        /// The frame's kind.
        kind: u8,
        /// The length it announced.
        len: usize,
        /// The longest its kind may be.
        max: usize,
    },
    /// A body that does not parse.
    #[error("Malformed message: {0}")]
    Malformed(&'static str),
    /// A field that breaks its type's rule.
    #[error("Malformed message")]
    Invalid(#[from] Invalid),
    /// More data than was allowed for.
    #[error("Data beyond the credit given")]
    Credit,
    /// The other side left in the middle of a frame or before the end of the conversation.
    #[error("Connection closed before the end of the conversation")]
    Closed,
    /// The stream failed.
    #[error("Agent connection failed")]
    Io(#[from] io::Error),
}

/// One direction of one kind of connection: the messages that may travel there.
pub trait Message: Sized {
    /// The frame kind of this message.
    fn kind(&self) -> u8;
    /// The longest body of a kind, `None` for kinds that do not exist.
    fn max_len(kind: u8) -> Option<usize>;
    /// Writes the body.
    fn encode_body(&self, out: &mut Encoder<'_>);
    /// Reads the body of a frame of `kind`.
    fn decode_body(kind: u8, body: &mut Decoder<'_>) -> Result<Self, ProtocolError>;
}

/// Encodes one message as a frame.
pub fn encode<M: Message>(message: &M) -> Result<Vec<u8>, ProtocolError> {
    let kind = message.kind();
    let mut frame = vec![0; HEADER_LEN];
    let mut body = Encoder::new(&mut frame);
    message.encode_body(&mut body);
    let is_too_long = body.is_too_long();
    let len = frame.len() - HEADER_LEN;
    let max = M::max_len(kind).ok_or(ProtocolError::Kind(kind))?;
    match u32::try_from(len) {
        Ok(prefix) if len <= max && !is_too_long => {
            frame[..HEADER_LEN].copy_from_slice(&header(kind, prefix));
            Ok(frame)
        }
        _ => Err(ProtocolError::TooLong { kind, len, max }),
    }
}

/// The bytes in front of a body.
pub(crate) fn header(kind: u8, len: u32) -> [u8; HEADER_LEN] {
    let [a, b, c, d] = len.to_le_bytes();
    [a, b, c, d, kind]
}

/// Cuts a stream of bytes into messages.
#[derive(Debug)]
pub struct FrameReader<M> {
    buffer: Vec<u8>,
    /// `buffer[start..end]` was received and not decoded yet.
    start: usize,
    end: usize,
    message: PhantomData<fn() -> M>,
}

impl<M: Message> Default for FrameReader<M> {
    fn default() -> Self {
        Self::new()
    }
}

impl<M: Message> FrameReader<M> {
    /// An empty reader; its buffer is allocated by the first read.
    pub fn new() -> Self {
        Self { buffer: Vec::new(), start: 0, end: 0, message: PhantomData }
    }

    /// Reads once from `stream`; 0 means the end. Call [`next`](Self::next) until it gives `None` before reading again.
    pub fn fill(&mut self, mut stream: impl Read) -> io::Result<usize> {
        self.make_room();
        let count = stream.read(&mut self.buffer[self.end..])?;
        self.end += count;
        Ok(count)
    }

    /// The next whole message received, if there is one.
    #[expect(clippy::should_implement_trait, reason = "fallible, and more may come after `None`")]
    pub fn next(&mut self) -> Result<Option<M>, ProtocolError> {
        let received = &self.buffer[self.start..self.end];
        let Some((kind, len)) = peek::<M>(received)? else { return Ok(None) };
        let Some(frame) = received.get(..HEADER_LEN + len) else { return Ok(None) };
        let mut body = Decoder::new(&frame[HEADER_LEN..]);
        let message = M::decode_body(kind, &mut body)?;
        body.finish()?;
        self.start += HEADER_LEN + len;
        Ok(Some(message))
    }

    /// Blocks until a message arrives; `None` when the stream ends between two messages.
    pub fn receive(&mut self, mut stream: impl Read) -> Result<Option<M>, ProtocolError> {
        loop {
            if let Some(message) = self.next()? {
                return Ok(Some(message));
            }
            match self.fill(&mut stream) {
                Ok(0) if self.is_between_messages() => return Ok(None),
                Ok(0) => return Err(ProtocolError::Closed),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Whether everything received was decoded.
    pub fn is_between_messages(&self) -> bool {
        self.start == self.end
    }

    /// Moves what is left to the front, and grows for a frame longer than the buffer (its length was checked).
    fn make_room(&mut self) {
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        let wanted = match peek::<M>(&self.buffer[..self.end]) {
            Ok(Some((_, len))) => HEADER_LEN + len,
            _ => 0,
        };
        let len = wanted.max(READ_LEN);
        if self.buffer.len() < len || self.end == self.buffer.len() {
            self.buffer.resize(len.max(self.end + READ_LEN), 0);
        } else if self.buffer.len() > 4 * READ_LEN && len == READ_LEN && self.end < READ_LEN {
            self.buffer.truncate(READ_LEN);
            self.buffer.shrink_to_fit();
        }
    }
}

/// The kind and body length at the head of `received`, once its header is there.
fn peek<M: Message>(received: &[u8]) -> Result<Option<(u8, usize)>, ProtocolError> {
    let Some(&[a, b, c, d, kind]) = received.first_chunk::<HEADER_LEN>() else { return Ok(None) };
    let len = usize::try_from(u32::from_le_bytes([a, b, c, d])).unwrap_or(usize::MAX);
    let max = M::max_len(kind).ok_or(ProtocolError::Kind(kind))?;
    if len > max { Err(ProtocolError::TooLong { kind, len, max }) } else { Ok(Some((kind, len))) }
}

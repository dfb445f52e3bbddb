//! The messages of an exec connection.

use super::command::{Exec, MAX_EXEC, WindowSize};
use super::status::{Refusal, Signal, Status};
use crate::VERSION;
use crate::bytes::{MAX_TEXT, Text};
use crate::control::decode_version;
use crate::frame::{HEADER_LEN, Message, ProtocolError, header};
use crate::wire::{Decoder, Encoder};

/// Most bytes in one Data message.
pub const MAX_DATA: usize = 64 * 1024;
/// Bytes in front of the payload of a Data message.
pub const DATA_HEADER_LEN: usize = HEADER_LEN + 1;
const KIND_DATA: u8 = 2;

/// The streams of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// What the command reads.
    Stdin,
    /// What it writes, or its terminal.
    Stdout,
    /// What it writes on descriptor 2, unless it has a terminal.
    Stderr,
}

impl Stream {
    fn code(self) -> u8 {
        match self {
            Self::Stdin => 0,
            Self::Stdout => 1,
            Self::Stderr => 2,
        }
    }

    fn decode(body: &mut Decoder<'_>) -> Result<Self, ProtocolError> {
        match body.u8()? {
            0 => Ok(Self::Stdin),
            1 => Ok(Self::Stdout),
            2 => Ok(Self::Stderr),
            _ => Err(ProtocolError::Malformed("stream other than 0, 1 and 2")),
        }
    }

    fn decode_output(body: &mut Decoder<'_>) -> Result<Self, ProtocolError> {
        match Self::decode(body)? {
            Self::Stdin => Err(ProtocolError::Malformed("standard input in the wrong direction")),
            output => Ok(output),
        }
    }
}

/// What the host tells the agent about a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToGuest {
    /// What to run; the first message.
    Exec(Box<Exec>),
    /// Bytes for standard input, 1 to [`MAX_DATA`].
    Data(Vec<u8>),
    /// No more standard input. A terminal in line mode gets its end-of-file character.
    CloseStdin,
    /// The host can take this many further bytes of an output stream.
    Credit {
        /// Which.
        stream: Stream,
        /// How many more.
        bytes: u32,
    },
    /// Nobody reads an output stream any more: the command gets SIGPIPE when it writes, or SIGHUP on a terminal.
    CloseOutput {
        /// Which.
        stream: Stream,
    },
    /// A signal, for the foreground process group of the terminal, or else the command's process group.
    Signal(Signal),
    /// The terminal has a new size.
    Resize(WindowSize),
}

/// What the agent tells the host about a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToHost {
    /// The program is running.
    Started {
        /// Its process ID in the guest.
        pid: u32,
        /// Guest monotonic clock when it was started, nanoseconds.
        at_ns: u64,
    },
    /// Bytes of an output stream, 1 to [`MAX_DATA`].
    Data {
        /// Which.
        stream: Stream,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// The agent can take this many further bytes of standard input.
    Credit {
        /// How many more.
        bytes: u32,
    },
    /// No more output on this stream; for `Stdin`: the command will read no more.
    Closed {
        /// Which.
        stream: Stream,
    },
    /// The command ended and all its output was sent; the last message.
    Exited(Status),
    /// The command was not started; the last message.
    Refused {
        /// Why, for the exit status.
        reason: Refusal,
        /// Why, for the user.
        message: Text,
    },
}

/// Header of a Data message whose payload follows, so that payload need not be copied into a message.
///
/// `from` is `None` for data to the guest. More than [`MAX_DATA`] bytes are refused by the other side.
pub fn data_header(from: Option<Stream>, len: usize) -> [u8; DATA_HEADER_LEN] {
    let len = u32::try_from(len).unwrap_or(u32::MAX);
    let [a, b, c, d, kind] = header(KIND_DATA, len.saturating_add(1));
    [a, b, c, d, kind, from.map_or(0, Stream::code)]
}

impl Message for ToGuest {
    fn kind(&self) -> u8 {
        match self {
            Self::Exec(_) => 1,
            Self::Data(_) => KIND_DATA,
            Self::CloseStdin => 3,
            Self::Credit { .. } => 4,
            Self::CloseOutput { .. } => 5,
            Self::Signal(_) => 6,
            Self::Resize(_) => 7,
        }
    }

    fn max_len(kind: u8) -> Option<usize> {
        match kind {
            1 => Some(MAX_EXEC),
            KIND_DATA => Some(MAX_DATA + 1),
            3..=7 => Some(5),
            _ => None,
        }
    }

    fn encode_body(&self, out: &mut Encoder<'_>) {
        match self {
            Self::Exec(exec) => {
                out.u32(VERSION);
                exec.encode(out);
            }
            Self::Data(bytes) => {
                out.u8(Stream::Stdin.code());
                out.raw(bytes);
            }
            Self::CloseStdin => {}
            Self::Credit { stream, bytes } => {
                out.u8(stream.code());
                out.u32(*bytes);
            }
            Self::CloseOutput { stream } => out.u8(stream.code()),
            Self::Signal(signal) => out.u8(signal.number()),
            Self::Resize(size) => size.encode(out),
        }
    }

    fn decode_body(kind: u8, body: &mut Decoder<'_>) -> Result<Self, ProtocolError> {
        match kind {
            1 => {
                decode_version(body)?;
                Ok(Self::Exec(Box::new(Exec::decode(body)?)))
            }
            KIND_DATA => match Stream::decode(body)? {
                Stream::Stdin => Ok(Self::Data(decode_data(body)?)),
                _ => Err(ProtocolError::Malformed("output in the wrong direction")),
            },
            3 => Ok(Self::CloseStdin),
            4 => Ok(Self::Credit { stream: Stream::decode_output(body)?, bytes: body.u32()? }),
            5 => Ok(Self::CloseOutput { stream: Stream::decode_output(body)? }),
            6 => Ok(Self::Signal(Signal::decode(body)?)),
            7 => Ok(Self::Resize(WindowSize::decode(body)?)),
            _ => Err(ProtocolError::Kind(kind)),
        }
    }
}

impl Message for ToHost {
    fn kind(&self) -> u8 {
        match self {
            Self::Started { .. } => 1,
            Self::Data { .. } => KIND_DATA,
            Self::Credit { .. } => 3,
            Self::Closed { .. } => 4,
            Self::Exited(_) => 5,
            Self::Refused { .. } => 6,
        }
    }

    fn max_len(kind: u8) -> Option<usize> {
        match kind {
            1 => Some(12),
            KIND_DATA => Some(MAX_DATA + 1),
            3..=5 => Some(4),
            6 => Some(MAX_TEXT + 5),
            _ => None,
        }
    }

    fn encode_body(&self, out: &mut Encoder<'_>) {
        match self {
            Self::Started { pid, at_ns } => {
                out.u32(*pid);
                out.u64(*at_ns);
            }
            Self::Data { stream, bytes } => {
                out.u8(stream.code());
                out.raw(bytes);
            }
            Self::Credit { bytes } => out.u32(*bytes),
            Self::Closed { stream } => out.u8(stream.code()),
            Self::Exited(status) => status.encode(out),
            Self::Refused { reason, message } => {
                reason.encode(out);
                message.encode(out);
            }
        }
    }

    fn decode_body(kind: u8, body: &mut Decoder<'_>) -> Result<Self, ProtocolError> {
        match kind {
            1 => Ok(Self::Started { pid: body.u32()?, at_ns: body.u64()? }),
            KIND_DATA => Ok(Self::Data { stream: Stream::decode_output(body)?, bytes: decode_data(body)? }),
            3 => Ok(Self::Credit { bytes: body.u32()? }),
            4 => Ok(Self::Closed { stream: Stream::decode(body)? }),
            5 => Ok(Self::Exited(Status::decode(body)?)),
            6 => Ok(Self::Refused { reason: Refusal::decode(body)?, message: Text::decode(body)? }),
            _ => Err(ProtocolError::Kind(kind)),
        }
    }
}

/// Empty data would cost the receiver work and the sender no credit.
fn decode_data(body: &mut Decoder<'_>) -> Result<Vec<u8>, ProtocolError> {
    match body.rest() {
        [] => Err(ProtocolError::Malformed("data without bytes")),
        bytes => Ok(bytes.to_vec()),
    }
}

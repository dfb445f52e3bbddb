//! How a command ends, or why it does not start, and the exit statuses that say so.

use crate::frame::ProtocolError;
use crate::wire::{Decoder, Encoder};

/// The highest signal number of Linux.
pub const MAX_SIGNAL: u8 = 64;
/// Status of a failure of ours, as opposed to the command's.
pub const STATUS_OURS: u8 = 125;
/// Status of a command that exists and cannot be started.
pub const STATUS_NOT_EXECUTABLE: u8 = 126;
/// Status of a command that does not exist.
pub const STATUS_NOT_FOUND: u8 = 127;

/// A signal number, 1 to [`MAX_SIGNAL`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signal(u8);

impl Signal {
    /// Takes a number of Linux's range.
    pub fn new(number: i32) -> Option<Self> {
        u8::try_from(number).ok().filter(|number| (1..=MAX_SIGNAL).contains(number)).map(Self)
    }

    /// The number.
    pub fn number(self) -> u8 {
        self.0
    }

    pub(super) fn decode(body: &mut Decoder<'_>) -> Result<Self, ProtocolError> {
        Self::new(i32::from(body.u8()?)).ok_or(ProtocolError::Malformed("signal number out of range"))
    }
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// By itself.
    Exited(u8),
    /// By a signal.
    Signalled(Signal),
}

impl Status {
    /// The shell's number for it: the status itself, or 128 and the signal.
    pub fn code(self) -> u8 {
        match self {
            Self::Exited(code) => code,
            Self::Signalled(signal) => 128 + signal.number(),
        }
    }

    pub(super) fn encode(self, out: &mut Encoder<'_>) {
        let (way, number) = match self {
            Self::Exited(code) => (0, code),
            Self::Signalled(signal) => (1, signal.number()),
        };
        out.u8(way);
        out.u8(number);
    }

    pub(super) fn decode(body: &mut Decoder<'_>) -> Result<Self, ProtocolError> {
        match body.u8()? {
            0 => Ok(Self::Exited(body.u8()?)),
            1 => Ok(Self::Signalled(Signal::decode(body)?)),
            _ => Err(ProtocolError::Malformed("unknown way to end")),
        }
    }
}

/// Why a command was not started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// No such program.
    NotFound,
    /// The program is there and cannot be executed.
    NotExecutable,
    /// No such user in the guest.
    NoSuchUser,
    /// The working directory cannot be entered.
    BadDirectory,
    /// The guest is out of something, or shutting down.
    Other,
}

impl Refusal {
    /// The exit status that says so.
    pub fn code(self) -> u8 {
        match self {
            Self::NotFound => STATUS_NOT_FOUND,
            Self::NotExecutable | Self::BadDirectory => STATUS_NOT_EXECUTABLE,
            Self::NoSuchUser | Self::Other => STATUS_OURS,
        }
    }

    pub(super) fn encode(self, out: &mut Encoder<'_>) {
        out.u8(match self {
            Self::NotFound => 0,
            Self::NotExecutable => 1,
            Self::NoSuchUser => 2,
            Self::BadDirectory => 3,
            Self::Other => 4,
        });
    }

    pub(super) fn decode(body: &mut Decoder<'_>) -> Result<Self, ProtocolError> {
        match body.u8()? {
            0 => Ok(Self::NotFound),
            1 => Ok(Self::NotExecutable),
            2 => Ok(Self::NoSuchUser),
            3 => Ok(Self::BadDirectory),
            4 => Ok(Self::Other),
            _ => Err(ProtocolError::Malformed("unknown reason")),
        }
    }
}

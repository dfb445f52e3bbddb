//! The control connection: opened by the agent, alive as long as the guest.
//!
//! ```text
//! agent                         host
//!   Hello{version, marks}  -->
//!                          <--  Setup
//!   (Owner                 -->
//!                          <--  Owned)?
//!   Ready | Failed         -->
//!                          <--  (SetClock | Ping | Relay | Watch)*  Shutdown
//!   (Pong | Relays | Listening)* Stopped  -->
//! ```
//! When the connection ends without `Shutdown`, the agent shuts the guest down all the same.

use std::time::Duration;

use crate::VERSION;
use crate::bytes::Text;
use crate::frame::{Message, ProtocolError};
use crate::setup::Setup;
use crate::wire::{Decoder, Encoder};

/// Longest list of marks.
pub const MAX_MARKS: usize = 64;
/// Longest list of warnings.
pub const MAX_WARNINGS: usize = 32;
/// Longest body of a Setup, files included.
pub const MAX_SETUP: usize = 4 * 1024 * 1024;
/// Most ports in one message.
pub const MAX_PORTS: usize = 256;
const MAX_TO_HOST: usize = 512 * 1024;
const MAX_PORT_LIST: usize = 4 + MAX_PORTS * 4;

/// A moment of the guest's boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// What had just been reached.
    pub name: Text,
    /// Guest monotonic clock: nanoseconds since the kernel started its clock.
    pub at_ns: u64,
}

/// A port of the guest's loopback, and where on the link it is reachable instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Relay {
    /// The port whose service may listen on loopback only.
    pub port: u16,
    /// The port of the guest's IPv4 address on which the agent passes connections on.
    pub at: u16,
}

/// What the agent tells the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToHost {
    /// The first message.
    Hello {
        /// Moments up to here.
        marks: Vec<Mark>,
    },
    /// Setup is done and commands are taken on the exec port.
    Ready {
        /// Moments up to here.
        marks: Vec<Mark>,
        /// What was left out because the image lacks something, for the log.
        warnings: Vec<Text>,
        /// Whether the kernel takes notices, so that the host may connect to the notice port.
        takes_notices: bool,
    },
    /// Setup failed; the guest powers off when the host closes the connection.
    Failed {
        /// What failed and why.
        message: Text,
    },
    /// Answer to `Ping`.
    Pong {
        /// The ping's number.
        nonce: u64,
    },
    /// Everything is stopped and synced; the power goes off next.
    Stopped,
    /// Answer to `Relay`: the ports that are passed on now. One that is missing cannot be.
    Relays {
        /// All of them.
        relays: Vec<Relay>,
    },
    /// The TCP ports on which something in the guest listens where the host can reach it; said after `Watch` and
    /// whenever that changes.
    Listening {
        /// All of them, or the lowest [`MAX_PORTS`].
        ports: Vec<u16>,
    },
    /// Who the owner in Setup is. Not said of one that the image does not know: the files are root's then.
    Owner {
        /// User.
        uid: u32,
        /// Group.
        gid: u32,
    },
}

/// What the host tells the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToGuest {
    /// What the guest is to become; exactly once.
    Setup(Box<Setup>),
    /// Sets the wall clock, for instance after the host slept.
    SetClock {
        /// Nanoseconds since 1970.
        unix_ns: u64,
    },
    /// Asks whether the agent is alive.
    Ping {
        /// Comes back in `Pong`.
        nonce: u64,
    },
    /// Ends every process, syncs and powers off.
    Shutdown {
        /// How long processes get between SIGTERM and SIGKILL.
        grace: Duration,
    },
    /// Passes connections from the link on to these ports of the guest's loopback, and to no others.
    Relay {
        /// All ports that are to be relayed.
        ports: Vec<u16>,
    },
    /// Asks for `Listening` from now on.
    Watch,
    /// Answer to `Owner`: that is how the shares look from now on.
    Owned,
}

fn encode_marks(marks: &[Mark], out: &mut Encoder<'_>) {
    out.list(marks, |out, mark| {
        mark.name.encode(out);
        out.u64(mark.at_ns);
    });
}

fn decode_marks(body: &mut Decoder<'_>) -> Result<Vec<Mark>, ProtocolError> {
    body.list(MAX_MARKS, |body| Ok(Mark { name: Text::decode(body)?, at_ns: body.u64()? }))
}

/// The version leads the first message of each side, in front of everything that may ever change.
pub(crate) fn decode_version(body: &mut Decoder<'_>) -> Result<(), ProtocolError> {
    match body.u32()? {
        VERSION => Ok(()),
        theirs => {
            body.rest();
            Err(ProtocolError::Version { theirs, ours: VERSION })
        }
    }
}

impl Message for ToHost {
    fn kind(&self) -> u8 {
        match self {
            Self::Hello { .. } => 1,
            Self::Ready { .. } => 2,
            Self::Failed { .. } => 3,
            Self::Pong { .. } => 4,
            Self::Stopped => 5,
            Self::Relays { .. } => 6,
            Self::Listening { .. } => 7,
            Self::Owner { .. } => 8,
        }
    }

    fn max_len(kind: u8) -> Option<usize> {
        match kind {
            1 | 2 => Some(MAX_TO_HOST),
            3 => Some(crate::bytes::MAX_TEXT + 4),
            4 | 8 => Some(8),
            5 => Some(0),
            6 | 7 => Some(MAX_PORT_LIST),
            _ => None,
        }
    }

    fn encode_body(&self, out: &mut Encoder<'_>) {
        match self {
            Self::Hello { marks } => {
                out.u32(VERSION);
                encode_marks(marks, out);
            }
            Self::Ready { marks, warnings, takes_notices } => {
                encode_marks(marks, out);
                out.list(warnings, |out, warning| warning.encode(out));
                out.bool(*takes_notices);
            }
            Self::Failed { message } => message.encode(out),
            Self::Pong { nonce } => out.u64(*nonce),
            Self::Stopped => {}
            Self::Relays { relays } => out.list(relays, |out, relay| {
                out.u16(relay.port);
                out.u16(relay.at);
            }),
            Self::Listening { ports } => out.list(ports, |out, port| out.u16(*port)),
            Self::Owner { uid, gid } => {
                out.u32(*uid);
                out.u32(*gid);
            }
        }
    }

    fn decode_body(kind: u8, body: &mut Decoder<'_>) -> Result<Self, ProtocolError> {
        match kind {
            1 => {
                decode_version(body)?;
                Ok(Self::Hello { marks: decode_marks(body)? })
            }
            2 => Ok(Self::Ready {
                marks: decode_marks(body)?,
                warnings: body.list(MAX_WARNINGS, Text::decode)?,
                takes_notices: body.bool()?,
            }),
            3 => Ok(Self::Failed { message: Text::decode(body)? }),
            4 => Ok(Self::Pong { nonce: body.u64()? }),
            5 => Ok(Self::Stopped),
            6 => Ok(Self::Relays {
                relays: body.list(MAX_PORTS, |body| Ok(Relay { port: body.u16()?, at: body.u16()? }))?,
            }),
            7 => Ok(Self::Listening { ports: body.list(MAX_PORTS, Decoder::u16)? }),
            8 => Ok(Self::Owner { uid: body.u32()?, gid: body.u32()? }),
            _ => Err(ProtocolError::Kind(kind)),
        }
    }
}

impl Message for ToGuest {
    fn kind(&self) -> u8 {
        match self {
            Self::Setup(_) => 1,
            Self::SetClock { .. } => 2,
            Self::Ping { .. } => 3,
            Self::Shutdown { .. } => 4,
            Self::Relay { .. } => 5,
            Self::Watch => 6,
            Self::Owned => 7,
        }
    }

    fn max_len(kind: u8) -> Option<usize> {
        match kind {
            1 => Some(MAX_SETUP),
            2..=4 => Some(8),
            5 => Some(MAX_PORT_LIST),
            6 | 7 => Some(0),
            _ => None,
        }
    }

    fn encode_body(&self, out: &mut Encoder<'_>) {
        match self {
            Self::Setup(setup) => {
                out.u32(VERSION);
                setup.encode(out);
            }
            Self::SetClock { unix_ns } => out.u64(*unix_ns),
            Self::Ping { nonce } => out.u64(*nonce),
            Self::Shutdown { grace } => out.u64(u64::try_from(grace.as_millis()).unwrap_or(u64::MAX)),
            Self::Relay { ports } => out.list(ports, |out, port| out.u16(*port)),
            Self::Watch | Self::Owned => {}
        }
    }

    fn decode_body(kind: u8, body: &mut Decoder<'_>) -> Result<Self, ProtocolError> {
        match kind {
            1 => {
                decode_version(body)?;
                Ok(Self::Setup(Box::new(Setup::decode(body)?)))
            }
            2 => Ok(Self::SetClock { unix_ns: body.u64()? }),
            3 => Ok(Self::Ping { nonce: body.u64()? }),
            4 => Ok(Self::Shutdown { grace: Duration::from_millis(body.u64()?) }),
            5 => Ok(Self::Relay { ports: body.list(MAX_PORTS, Decoder::u16)? }),
            6 => Ok(Self::Watch),
            7 => Ok(Self::Owned),
            _ => Err(ProtocolError::Kind(kind)),
        }
    }
}

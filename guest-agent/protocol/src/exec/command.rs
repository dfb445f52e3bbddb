//! What to run: the request an exec connection begins with.

use std::fmt;

use crate::bytes::{Arg, EnvVar, GuestPath, Invalid, Word};
use crate::frame::ProtocolError;
use crate::wire::{Decoder, Encoder};

/// Most words of a command line.
pub const MAX_ARGS: usize = 65_536;
/// Most environment variables.
pub const MAX_ENV: usize = 4096;
/// Longest body of an Exec (the kernel itself takes about 2 MiB of arguments and environment).
pub const MAX_EXEC: usize = 4 * 1024 * 1024;

/// A command to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exec {
    /// The program, looked up in the PATH of the command's environment unless it holds a slash, and its arguments.
    pub argv: Argv,
    /// On top of the agent's defaults (HOME, USER, LOGNAME, SHELL, PATH) and those of Setup.
    pub env: Vec<EnvVar>,
    /// Working directory; the user's home when absent.
    pub cwd: Option<GuestPath>,
    /// Who runs it.
    pub user: User,
    /// A terminal instead of pipes.
    pub terminal: Option<Terminal>,
}

/// A command line: never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Argv(Vec<Arg>);

impl Argv {
    /// Takes 1 to [`MAX_ARGS`] words.
    pub fn new(words: Vec<Arg>) -> Option<Self> {
        (1..=MAX_ARGS).contains(&words.len()).then_some(Self(words))
    }

    /// Checks each word of a command line; `None` when there are none or too many.
    pub fn from_words<W: Into<Vec<u8>>>(words: impl IntoIterator<Item = W>) -> Result<Option<Self>, Invalid> {
        Ok(Self::new(words.into_iter().map(Arg::new).collect::<Result<_, _>>()?))
    }

    /// The words, at least one.
    pub fn words(&self) -> &[Arg] {
        &self.0
    }
}

/// The user a command runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum User {
    /// root.
    Root,
    /// Somebody in the guest's /etc/passwd.
    Name(Word),
    /// Anybody, in /etc/passwd or not.
    Id {
        /// User.
        uid: u32,
        /// Group.
        gid: u32,
    },
}

/// The terminal a command gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terminal {
    /// Its size at first.
    pub size: WindowSize,
    /// Value of TERM.
    pub term: Word,
}

/// Size of a terminal in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowSize {
    /// Lines.
    pub rows: u16,
    /// Characters per line.
    pub columns: u16,
}

impl Exec {
    pub(super) fn encode(&self, out: &mut Encoder<'_>) {
        out.list(&self.argv.0, |out, word| word.encode(out));
        out.list(&self.env, |out, variable| variable.encode(out));
        out.option(self.cwd.as_ref(), |out, cwd| cwd.encode(out));
        self.user.encode(out);
        out.option(self.terminal.as_ref(), |out, terminal| {
            terminal.size.encode(out);
            terminal.term.encode(out);
        });
    }

    pub(super) fn decode(body: &mut Decoder<'_>) -> Result<Self, ProtocolError> {
        let words = body.list(MAX_ARGS, Arg::decode)?;
        Ok(Self {
            argv: Argv::new(words).ok_or(ProtocolError::Malformed("empty command line"))?,
            env: body.list(MAX_ENV, EnvVar::decode)?,
            cwd: body.option(GuestPath::decode)?,
            user: User::decode(body)?,
            terminal: body
                .option(|body| Ok(Terminal { size: WindowSize::decode(body)?, term: Word::decode(body)? }))?,
        })
    }
}

impl User {
    pub(crate) fn encode(&self, out: &mut Encoder<'_>) {
        match self {
            Self::Root => out.u8(0),
            Self::Name(name) => {
                out.u8(1);
                name.encode(out);
            }
            Self::Id { uid, gid } => {
                out.u8(2);
                out.u32(*uid);
                out.u32(*gid);
            }
        }
    }

    pub(crate) fn decode(body: &mut Decoder<'_>) -> Result<Self, ProtocolError> {
        match body.u8()? {
            0 => Ok(Self::Root),
            1 => Ok(Self::Name(Word::decode(body)?)),
            2 => Ok(Self::Id { uid: body.u32()?, gid: body.u32()? }),
            _ => Err(ProtocolError::Malformed("unknown way to name a user")),
        }
    }
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => f.write_str("root"),
            Self::Name(name) => write!(f, "{}", name.as_bytes().escape_ascii()),
            Self::Id { uid, gid } => write!(f, "{uid}:{gid}"),
        }
    }
}

impl WindowSize {
    pub(super) fn encode(self, out: &mut Encoder<'_>) {
        out.u16(self.rows);
        out.u16(self.columns);
    }

    pub(super) fn decode(body: &mut Decoder<'_>) -> Result<Self, ProtocolError> {
        Ok(Self { rows: body.u16()?, columns: body.u16()? })
    }
}

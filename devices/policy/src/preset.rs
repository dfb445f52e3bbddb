//! What holds where no rule speaks.

use std::fmt;
use std::str::FromStr;

/// The verdict for flows that no rule is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Preset {
    /// The public internet; every private or special range is denied.
    #[default]
    Public,
    /// Nothing.
    None,
    /// The public internet and private networks. Loopback, link-local, metadata and the host stay denied.
    Open,
}

/// A preset nobody knows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("egress preset {value:?} is unknown: use public, none or open (for example: --egress public)")]
pub struct UnknownPreset {
    value: String,
}

impl FromStr for Preset {
    type Err = UnknownPreset;

    fn from_str(text: &str) -> Result<Self, UnknownPreset> {
        match text {
            "public" => Ok(Self::Public),
            "none" => Ok(Self::None),
            "open" => Ok(Self::Open),
            _ => Err(UnknownPreset { value: text.to_owned() }),
        }
    }
}

impl fmt::Display for Preset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Public => "public",
            Self::None => "none",
            Self::Open => "open",
        })
    }
}

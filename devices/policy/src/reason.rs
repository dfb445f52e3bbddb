//! Why a verdict came out as it did.

use std::fmt;

use crate::Class;

/// What a verdict rests on, for logs and for `policy explain`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The user published the port.
    Published,
    /// The gateway's address stands for the host's loopback, of which each port is granted or not.
    HostPort,
    /// The host itself answers there.
    OwnAddress,
    /// A rule about the address.
    AddressRule,
    /// A rule about a name, which the gateway's resolver gave this address for.
    NameRule {
        /// The port that the rule names, if it names one.
        port: Option<u16>,
    },
    /// Private networks were opened as a whole.
    Lan,
    /// No rule is about it, and the preset speaks.
    Preset,
    /// No rule opens it, and no preset opens addresses of this kind.
    Class(Class),
    /// The name of a metadata service.
    MetadataName,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Published => f.write_str("the port is published"),
            Self::HostPort => f.write_str("ports of the host are open one by one, with --allow-host PORT"),
            Self::OwnAddress => f.write_str("the host itself answers at this address, and no rule opens that"),
            Self::AddressRule => f.write_str("the first rule that is about this address decides"),
            Self::NameRule { .. } => f.write_str("the first rule that is about this name decides"),
            Self::Lan => f.write_str("no rule is about it, and private networks are open"),
            Self::Preset => f.write_str("no rule is about it, so the preset decides"),
            Self::Class(Class::Private) => {
                f.write_str("the address is private; --allow-lan or a rule for its network opens it")
            }
            Self::Class(Class::Metadata) => {
                f.write_str("a cloud's metadata service could answer there with the host's credentials")
            }
            Self::Class(class) => write!(f, "the address is {class}, which no preset opens"),
            Self::MetadataName => {
                f.write_str("a cloud's metadata service has this name and could answer with the host's credentials")
            }
        }
    }
}

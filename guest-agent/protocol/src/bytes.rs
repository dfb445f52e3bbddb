//! Byte strings with a rule: once made, they cannot be wrong.
//!
//! Paths and arguments are bytes, not UTF-8. Every type here is made by `new`, on the sending side from what the user
//! asked for and on the receiving side from the wire; whoever holds one need not check again.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::frame::ProtocolError;
use crate::wire::{Decoder, Encoder};

/// Longest argument or environment entry (the kernel's MAX_ARG_STRLEN).
pub const MAX_ARG: usize = 128 * 1024 - 1;
/// Longest path (the kernel's PATH_MAX, less the terminator).
pub const MAX_PATH: usize = 4095;
/// Longest name within a directory.
pub const MAX_NAME: usize = 255;
/// Longest [`Text`].
pub const MAX_TEXT: usize = 4096;

/// A byte string that breaks the rule of its type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} must be {rule}, and \"{}\" is not", found.escape_ascii())]
pub struct Invalid {
    what: &'static str,
    rule: &'static str,
    found: Vec<u8>,
}

/// How much of a refused byte string an error message repeats.
const MAX_REPEATED: usize = 128;

macro_rules! checked_bytes {
    ($(#[$doc:meta])* $name:ident, $max:expr, $what:literal, $rule:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Vec<u8>);

        impl $name {
            #[doc = concat!("Takes bytes that are ", $rule, ".")]
            pub fn new(bytes: impl Into<Vec<u8>>) -> Result<Self, Invalid> {
                let bytes = bytes.into();
                let check: fn(&[u8]) -> bool = $check;
                if bytes.len() <= $max && check(&bytes) {
                    return Ok(Self(bytes));
                }
                let found = bytes.iter().copied().take(MAX_REPEATED).collect();
                Err(Invalid { what: $what, rule: $rule, found })
            }

            /// The bytes.
            pub fn as_bytes(&self) -> &[u8] {
                &self.0
            }

            /// The bytes as the standard library's string of the system.
            pub fn as_os_str(&self) -> &OsStr {
                OsStr::from_bytes(&self.0)
            }

            pub(crate) fn encode(&self, out: &mut Encoder<'_>) {
                out.bytes(&self.0);
            }

            pub(crate) fn decode(body: &mut Decoder<'_>) -> Result<Self, ProtocolError> {
                Ok(Self::new(body.bytes($max)?)?)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "\"{}\"", self.0.escape_ascii())
            }
        }
    };
}

checked_bytes!(
    /// One word of a command line, or the value of an environment variable.
    Arg, MAX_ARG, "An argument", "free of NUL and shorter than 128 KiB", |bytes| !bytes.contains(&0)
);
checked_bytes!(
    /// The name of an environment variable.
    EnvName, MAX_ARG, "An environment variable's name", "non-empty and free of '=' and NUL",
    |bytes| !bytes.is_empty() && !bytes.iter().any(|byte| matches!(byte, 0 | b'='))
);
checked_bytes!(
    /// An absolute path in the guest, without `.`, `..` or empty components.
    GuestPath, MAX_PATH, "A guest path", "absolute, shorter than 4 KiB and free of NUL, \"//\", \".\" and \"..\"", is_plain_path
);
checked_bytes!(
    /// The name of an entry in the root of the virtio-fs device.
    EntryName, MAX_NAME, "An entry name", "one path component of at most 255 bytes", is_component
);
checked_bytes!(
    /// The guest's host name.
    Hostname, 64, "A host name", "1 to 64 letters, digits, '-' and '.'",
    |bytes| !bytes.is_empty() && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.'))
);
checked_bytes!(
    /// The serial number of a block device (virtio-blk's GET_ID answer).
    Serial, 20, "A disk serial", "1 to 20 letters, digits, '-' and '_'",
    |bytes| !bytes.is_empty() && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
);
checked_bytes!(
    /// The name of a sysctl, with dots: `net.ipv4.ip_forward`.
    SysctlName, MAX_NAME, "A sysctl", "names of letters, digits, '_' and '-' joined by single dots",
    |bytes| bytes.split(|byte| *byte == b'.').all(|part| {
        !part.is_empty() && part.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
    })
);
checked_bytes!(
    /// The value of a sysctl.
    SysctlValue, MAX_NAME, "A sysctl's value", "one line of at most 255 bytes", |bytes| bytes.iter().all(|byte| *byte == b'\t' || !byte.is_ascii_control())
);
checked_bytes!(
    /// A time zone of the tz database: `Europe/Berlin`.
    Timezone, MAX_NAME, "A time zone", "names of letters, digits, '_', '-' and '+' joined by '/'",
    |bytes| bytes.split(|byte| *byte == b'/').all(|part| {
        !part.is_empty() && part.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'+'))
    })
);
checked_bytes!(
    /// A login name, or the value of TERM: one word of printable ASCII.
    Word, MAX_NAME, "A name", "1 to 255 printable ASCII characters without ':' and '/'",
    |bytes| !bytes.is_empty() && bytes.iter().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b':' | b'/'))
);
checked_bytes!(
    /// A domain name, for resolv.conf and hosts.
    Domain, 253, "A domain name", "1 to 253 letters, digits, '-', '_' and '.'",
    |bytes| !bytes.is_empty() && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
);

impl GuestPath {
    /// The path as the standard library's type.
    pub fn as_path(&self) -> &Path {
        Path::new(self.as_os_str())
    }

    /// The components, none for `/`.
    pub fn components(&self) -> impl Iterator<Item = &[u8]> {
        self.as_bytes().split(|byte| *byte == b'/').filter(|part| !part.is_empty())
    }
}

fn is_component(bytes: &[u8]) -> bool {
    !matches!(bytes, b"" | b"." | b"..")
        && bytes.len() <= MAX_NAME
        && !bytes.iter().any(|byte| matches!(byte, 0 | b'/'))
}

fn is_plain_path(bytes: &[u8]) -> bool {
    match bytes.strip_prefix(b"/") {
        Some(b"") => true,
        Some(rest) => rest.split(|byte| *byte == b'/').all(is_component),
        None => false,
    }
}

/// Words for a person, safe to print: no control characters but line ends, at most [`MAX_TEXT`] bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text(String);

impl Text {
    /// Makes any words safe: replaces control characters and cuts what is too long.
    pub fn new(words: impl AsRef<str>) -> Self {
        let mut text = String::new();
        for symbol in words.as_ref().chars() {
            let symbol = if symbol.is_control() && symbol != '\n' { char::REPLACEMENT_CHARACTER } else { symbol };
            if text.len() + symbol.len_utf8() > MAX_TEXT {
                break;
            }
            text.push(symbol);
        }
        Self(text)
    }

    /// The words.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(crate) fn encode(&self, out: &mut Encoder<'_>) {
        out.bytes(self.0.as_bytes());
    }

    pub(crate) fn decode(body: &mut Decoder<'_>) -> Result<Self, ProtocolError> {
        Ok(Self::new(String::from_utf8_lossy(body.bytes(MAX_TEXT)?)))
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One environment variable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvVar {
    /// Its name.
    pub name: EnvName,
    /// Its value.
    pub value: Arg,
}

impl EnvVar {
    /// Checks both halves.
    pub fn new(name: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Result<Self, Invalid> {
        Ok(Self { name: EnvName::new(name)?, value: Arg::new(value)? })
    }

    pub(crate) fn encode(&self, out: &mut Encoder<'_>) {
        self.name.encode(out);
        self.value.encode(out);
    }

    pub(crate) fn decode(body: &mut Decoder<'_>) -> Result<Self, ProtocolError> {
        Ok(Self { name: EnvName::decode(body)?, value: Arg::decode(body)? })
    }
}

#[cfg(test)]
mod tests {
    use super::{Arg, EntryName, GuestPath, SysctlName, Text, Timezone};

    #[test]
    fn paths_that_climb_or_are_relative_are_refused() {
        for path in ["", "a", "/a/../b", "/..", "/a/./b", "/a//b", "/a/", "/a\0b"] {
            assert!(GuestPath::new(path).is_err(), "{path:?}");
        }
    }

    #[test]
    fn paths_may_hold_any_other_bytes() {
        for path in [&b"/"[..], b"/a b/\xff\xfe", "/größe/…".as_bytes(), b"/...", b"/a\nb"] {
            assert!(GuestPath::new(path).is_ok(), "{}", path.escape_ascii());
        }
    }

    #[test]
    fn entry_names_are_single_components() {
        assert!(EntryName::new("0").is_ok());
        for name in ["", ".", "..", "a/b", "a\0"] {
            assert!(EntryName::new(name).is_err(), "{name:?}");
        }
        assert!(EntryName::new(vec![b'x'; 256]).is_err());
    }

    #[test]
    fn names_that_become_paths_cannot_climb() {
        assert!(SysctlName::new("net.ipv4.ping_group_range").is_ok());
        assert!(SysctlName::new("net..ipv4").is_err());
        assert!(SysctlName::new("../../etc/passwd").is_err());
        assert!(Timezone::new("America/Argentina/Buenos_Aires").is_ok());
        assert!(Timezone::new("../../etc/passwd").is_err());
    }

    #[test]
    fn text_cannot_carry_terminal_escapes() {
        assert_eq!(Text::new("a\x1b[2Jb\n").as_str(), "a\u{fffd}[2Jb\n");
        assert!(Text::new("ä".repeat(5000)).as_str().len() <= super::MAX_TEXT);
    }

    #[test]
    fn refusals_name_the_rule_and_repeat_the_bytes() {
        let refusal = Arg::new("a\0b").expect_err("holds a NUL").to_string();
        assert_eq!(refusal, "An argument must be free of NUL and shorter than 128 KiB, and \"a\\x00b\" is not");
    }
}

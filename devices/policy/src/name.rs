//! Host names, in one normal form.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;

/// Longest name in text form without the final dot (RFC 1035, 2.3.4).
const MAX_NAME: usize = 253;
const MAX_LABEL: usize = 63;

/// A fully qualified host name: lower case, no final dot, labels of letters, digits, `-` and `_`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Box<str>);

/// Why a text is not a host name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadName {
    /// Nothing there.
    #[error("it is empty")]
    Empty,
    /// Longer than a name can be.
    #[error("it is longer than {MAX_NAME} characters")]
    TooLong,
    /// A label is missing.
    #[error("a label between two dots is empty")]
    EmptyLabel,
    /// A label is longer than a label can be.
    #[error("a label is longer than {MAX_LABEL} characters")]
    LongLabel,
    /// A character no host name holds.
    #[error("{0:?} cannot be in a host name (write international names in their xn-- form)")]
    Character(char),
    /// An address in one of its other spellings.
    #[error("it ends in a number, so programs take it for an address")]
    Number,
}

impl Name {
    /// The normal form as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether `self` lies below `suffix`; a name does not lie below itself.
    pub fn is_below(&self, suffix: &Name) -> bool {
        self.0.strip_suffix(&*suffix.0).is_some_and(|rest| rest.ends_with('.'))
    }
}

impl FromStr for Name {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let text = text.strip_suffix('.').unwrap_or(text);
        if text.is_empty() {
            return Err(BadName::Empty);
        }
        if text.len() > MAX_NAME {
            return Err(BadName::TooLong);
        }
        for label in text.split('.') {
            if label.is_empty() {
                return Err(BadName::EmptyLabel);
            }
            if let Some(odd) = label.chars().find(|c| !c.is_ascii_alphanumeric() && !matches!(c, '-' | '_')) {
                return Err(BadName::Character(odd));
            }
            if label.len() > MAX_LABEL {
                return Err(BadName::LongLabel);
            }
        }
        let name = text.to_ascii_lowercase();
        if name.rsplit('.').next().is_some_and(is_number) {
            return Err(BadName::Number);
        }
        Ok(Self(name.into_boxed_str()))
    }
}

/// `127.1`, `2130706433` and `0x7f.1` are addresses to most programs.
fn is_number(label: &str) -> bool {
    let hex = label.strip_prefix("0x").is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
    hex || label.bytes().all(|b| b.is_ascii_digit())
}

impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Names that a rule is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum NamePattern {
    /// Exactly this name.
    Exact(Name),
    /// `*.suffix`: every name below `suffix`, at any depth, not `suffix` itself.
    Below(Name),
}

impl NamePattern {
    /// Whether `name` is meant.
    pub fn matches(&self, name: &Name) -> bool {
        match self {
            Self::Exact(exact) => name == exact,
            Self::Below(suffix) => name.is_below(suffix),
        }
    }
}

impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => write!(f, "{name}"),
            Self::Below(name) => write!(f, "*.{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    #[test]
    fn case_and_final_dot_do_not_matter() {
        assert_eq!(name("API.Example.COM."), name("api.example.com"));
    }

    #[test]
    fn a_suffix_matches_below_itself_only() {
        let pattern = NamePattern::Below(name("pkg.example"));
        assert!(pattern.matches(&name("a.pkg.example")));
        assert!(pattern.matches(&name("a.b.pkg.example")));
        assert!(!pattern.matches(&name("pkg.example")));
        assert!(!pattern.matches(&name("evilpkg.example")));
        assert!(!pattern.matches(&name("pkg.example.evil.test")));
    }

    #[test]
    fn bytes_that_resolvers_cut_at_are_refused() {
        assert_eq!("attacker\0.allowed.com".parse::<Name>(), Err(BadName::Character('\0')));
        assert_eq!("bücher.example".parse::<Name>(), Err(BadName::Character('ü')));
        assert_eq!("a b.example".parse::<Name>(), Err(BadName::Character(' ')));
    }

    #[test]
    fn other_spellings_of_addresses_are_not_names() {
        for text in ["127.1", "2130706433", "0x7f000001", "0x7f.1", "1.2.3.0x4", "1.2.3.4", "0x"] {
            assert_eq!(text.parse::<Name>(), Err(BadName::Number), "{text}");
        }
    }

    #[test]
    fn lengths_are_bounded() {
        assert_eq!(format!("{}.test", "a".repeat(64)).parse::<Name>(), Err(BadName::LongLabel));
        assert_eq!(["a"; 130].join(".").parse::<Name>(), Err(BadName::TooLong));
        assert_eq!("a..b".parse::<Name>(), Err(BadName::EmptyLabel));
        assert_eq!(".".parse::<Name>(), Err(BadName::Empty));
    }
}

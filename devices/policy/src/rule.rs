//! One rule and its text: `IP|CIDR|DOMAIN[:PORT]`.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use crate::embedding::{canonical, meanings};
use crate::{BadName, Cidr, Class, Name, NamePattern, Protocol, Reason};

/// What a rule says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// The flow may exist.
    Allow,
    /// The flow may not.
    Deny,
}

/// What a rule is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pattern {
    /// Addresses.
    Addresses(Cidr),
    /// Names, and over TCP the addresses that the gateway's resolver gave for them.
    Names(NamePattern),
}

/// One rule; the first that matches a flow decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    action: Action,
    pattern: Pattern,
    port: Option<u16>,
    text: String,
}

/// What a rule is asked to decide about.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked<'a> {
    pub(crate) address: IpAddr,
    /// The class of `address`.
    pub(crate) class: Class,
    /// The names that vouch for it.
    pub(crate) names: &'a [Name],
    pub(crate) protocol: Protocol,
    /// None: some port, whichever.
    pub(crate) port: Option<u16>,
}

/// A rule text that cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} {value:?}: {problem} (for example: {example})")]
pub struct RuleError {
    field: &'static str,
    value: String,
    problem: String,
    example: &'static str,
}

impl RuleError {
    fn new(field: &'static str, value: &str, problem: impl Into<String>, example: &'static str) -> Self {
        Self { field, value: value.to_owned(), problem: problem.into(), example }
    }
}

impl<'a> Asked<'a> {
    pub(crate) fn new(address: IpAddr, names: &'a [Name], protocol: Protocol, port: Option<u16>) -> Self {
        let address = canonical(address);
        Self { address, class: Class::of(address), names, protocol, port }
    }
}

impl Rule {
    /// Parses `IP`, `CIDR`, `DOMAIN` or `*.SUFFIX`, each with an optional `:PORT` (IPv6 then in brackets).
    pub fn parse(action: Action, text: &str) -> Result<Self, RuleError> {
        let (destination, port) = split_port(text)?;
        let port = port.map(parse_port).transpose()?;
        let pattern = parse_pattern(destination)?;
        let word = match action {
            Action::Allow => "allow",
            Action::Deny => "deny",
        };
        let port_text = port.map(|port| format!(":{port}")).unwrap_or_default();
        let text = match &pattern {
            Pattern::Addresses(cidr) if cidr.network().is_ipv6() && port.is_some() => {
                format!("{word} [{cidr}]{port_text}")
            }
            Pattern::Addresses(cidr) => format!("{word} {cidr}{port_text}"),
            Pattern::Names(names) => format!("{word} {names}{port_text}"),
        };
        Ok(Self { action, pattern, port, text })
    }

    /// What the rule says.
    pub fn action(&self) -> Action {
        self.action
    }

    /// The rule in normal form, as verdicts name it.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// What kind of rule it is, as verdicts tell it.
    pub(crate) fn reason(&self) -> Reason {
        match &self.pattern {
            Pattern::Addresses(_) => Reason::AddressRule,
            Pattern::Names(_) => Reason::NameRule { port: self.port },
        }
    }

    /// What the rule is about.
    pub fn pattern(&self) -> &Pattern {
        &self.pattern
    }

    /// Whether the rule decides about a flow.
    pub(crate) fn matches(&self, asked: &Asked<'_>) -> bool {
        let Asked { address, class, names, protocol, port } = *asked;
        if let (Some(wanted), Some(port)) = (self.port, port)
            && wanted != port
        {
            return false;
        }
        match &self.pattern {
            Pattern::Addresses(cidr) => match self.action {
                Action::Allow => cidr.contains(address) && opens(cidr, class),
                Action::Deny => meanings(address).any(|meaning| cidr.contains(meaning)),
            },
            // An answer may point anywhere, so a name alone opens nothing but the public internet; and since QUIC hides
            // which name it is for, it opens no datagrams.
            Pattern::Names(pattern) => {
                let opens = class == Class::Public && protocol == Protocol::Tcp;
                (self.action == Action::Deny || opens) && names.iter().any(|name| pattern.matches(name))
            }
        }
    }

    /// Whether the rule is about `name` as such.
    pub(crate) fn matches_name(&self, name: &Name) -> bool {
        matches!(&self.pattern, Pattern::Names(pattern) if pattern.matches(name))
    }

    /// Bytes of `name` before the suffix that the rule is about.
    pub(crate) fn free_bytes(&self, name: &Name) -> usize {
        match &self.pattern {
            Pattern::Names(NamePattern::Below(suffix)) => name.as_str().len().saturating_sub(suffix.as_str().len() + 1),
            Pattern::Names(NamePattern::Exact(_)) | Pattern::Addresses(_) => 0,
        }
    }

    /// Whether the rule closes only some ports of what it is about.
    pub(crate) fn is_partial(&self) -> bool {
        self.port.is_some()
    }
}

/// A range opens special addresses only when it lies inside that special range, so that `0.0.0.0/0` is the public
/// internet; metadata and link-local need the exact address, the rest has no rule that opens it.
fn opens(cidr: &Cidr, class: Class) -> bool {
    match class {
        Class::Public => true,
        Class::Documentation | Class::Benchmark | Class::CarrierNat | Class::Private => cidr.class() == Some(class),
        Class::LinkLocal | Class::Metadata => cidr.is_single(),
        Class::Reserved | Class::Multicast | Class::Broadcast | Class::Unspecified | Class::Loopback => false,
    }
}

/// Cuts `:PORT` off; a bare IPv6 address has colons of its own.
fn split_port(text: &str) -> Result<(&str, Option<&str>), RuleError> {
    if let Some(rest) = text.strip_prefix('[') {
        let (inside, after) = rest.split_once(']').ok_or_else(|| {
            RuleError::new("address", text, "the closing bracket is missing", "[2606:4700::1111]:443")
        })?;
        return match after.strip_prefix(':') {
            Some(port) => Ok((inside, Some(port))),
            None if after.is_empty() => Ok((inside, None)),
            None => Err(RuleError::new("port", after, "it must follow a colon", "[2606:4700::1111]:443")),
        };
    }
    match text.split_once(':') {
        Some((before, after)) if !after.contains(':') => Ok((before, Some(after))),
        _ => Ok((text, None)),
    }
}

fn parse_port(text: &str) -> Result<u16, RuleError> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    match text.parse::<u16>() {
        Ok(port) if digits && port != 0 => Ok(port),
        _ => Err(RuleError::new("port", text, "it must be a number from 1 to 65535", "api.example.com:443")),
    }
}

fn parse_pattern(text: &str) -> Result<Pattern, RuleError> {
    if let Some((address, prefix)) = text.split_once('/') {
        return parse_cidr(text, address, prefix).map(Pattern::Addresses);
    }
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(Pattern::Addresses(Cidr::single(canonical(address))));
    }
    if text.contains(':') {
        return Err(RuleError::new("address", text, "it is not an IPv6 address", "2606:4700::1111"));
    }
    parse_domain(text).map(Pattern::Names)
}

fn parse_cidr(text: &str, address: &str, prefix: &str) -> Result<Cidr, RuleError> {
    let wrong = |field, value, problem: String| RuleError::new(field, value, problem, "10.20.0.0/16");
    let address: IpAddr =
        address.parse().map_err(|_| wrong("network", text, "the part before / is not an address".into()))?;
    if matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() && v6 != Ipv6Addr::UNSPECIFIED) {
        return Err(wrong("network", text, "write IPv4 ranges in their IPv4 form".into()));
    }
    let most: u8 = if address.is_ipv4() { 32 } else { 128 };
    let digits = !prefix.is_empty() && prefix.bytes().all(|b| b.is_ascii_digit());
    let cidr = prefix.parse::<u8>().ok().filter(|_| digits).and_then(|prefix| Cidr::new(address, prefix));
    let cidr = cidr.ok_or_else(|| wrong("prefix length", prefix, format!("it must be a number from 0 to {most}")))?;
    if cidr.network() != address {
        return Err(wrong("network", text, format!("it has bits beyond its prefix; did you mean {cidr}?")));
    }
    Ok(cidr)
}

fn parse_domain(text: &str) -> Result<NamePattern, RuleError> {
    let wrong = |problem: String| RuleError::new("domain", text, problem, "api.example.com:443 or *.example.com");
    if text == "*" {
        return Err(wrong("it is every name; --egress public allows the whole public internet".into()));
    }
    let (suffix, wildcard) = match text.strip_prefix("*.") {
        Some(suffix) => (suffix, true),
        None => (text, false),
    };
    let name: Name = suffix.parse().map_err(|bad: BadName| wrong(bad.to_string()))?;
    if !wildcard {
        return Ok(NamePattern::Exact(name));
    }
    if !name.as_str().contains('.') {
        return Err(wrong("a whole top-level domain is anybody's; name at least one label below it".into()));
    }
    Ok(NamePattern::Below(name))
}

impl FromStr for Rule {
    type Err = RuleError;

    /// An allow rule, as `--allow-egress` takes it.
    fn from_str(text: &str) -> Result<Self, RuleError> {
        Self::parse(Action::Allow, text)
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests;

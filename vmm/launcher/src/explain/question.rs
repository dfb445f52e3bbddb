//! A destination as people write it: `URL`, `HOST:PORT`, `IP:PORT`.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use policy::{Name, Protocol};

/// The port of a destination that names none.
const HTTPS: u16 = 443;
/// Schemes, their ports, and what they run over.
const SCHEMES: [(&str, Option<u16>, Protocol); 13] = [
    ("https", Some(HTTPS), Protocol::Tcp),
    ("http", Some(80), Protocol::Tcp),
    ("wss", Some(HTTPS), Protocol::Tcp),
    ("ws", Some(80), Protocol::Tcp),
    ("ssh", Some(22), Protocol::Tcp),
    ("git+ssh", Some(22), Protocol::Tcp),
    ("git", Some(9418), Protocol::Tcp),
    ("ftp", Some(21), Protocol::Tcp),
    ("postgres", Some(5432), Protocol::Tcp),
    ("postgresql", Some(5432), Protocol::Tcp),
    ("redis", Some(6379), Protocol::Tcp),
    ("tcp", None, Protocol::Tcp),
    ("udp", None, Protocol::Udp),
];

/// Where a flow would lead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Host {
    Name(Name),
    Address(IpAddr),
}

/// One destination to be judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    pub(crate) host: Host,
    pub(crate) port: u16,
    pub(crate) protocol: Protocol,
}

/// A destination that cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "destination {value:?}: {problem} (for example: https://api.example.com, db.example.com:5432, udp://192.0.2.7:53)"
)]
pub struct BadQuestion {
    value: String,
    problem: String,
}

impl Question {
    /// The name to resolve, if the destination has one.
    pub fn name(&self) -> Option<&str> {
        match &self.host {
            Host::Name(name) => Some(name.as_str()),
            Host::Address(_) => None,
        }
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl FromStr for Question {
    type Err = BadQuestion;

    fn from_str(text: &str) -> Result<Self, BadQuestion> {
        let wrong = |problem: String| BadQuestion { value: text.to_owned(), problem };
        let (scheme, rest) = match text.split_once("://") {
            Some((scheme, rest)) => (Some(scheme.to_ascii_lowercase()), rest),
            None => (None, text),
        };
        let (default_port, protocol) = match &scheme {
            None => (Some(HTTPS), Protocol::Tcp),
            Some(scheme) => match SCHEMES.iter().find(|(known, _, _)| known == scheme) {
                Some((_, port, protocol)) => (*port, *protocol),
                None => (None, Protocol::Tcp),
            },
        };
        let authority = match scheme {
            Some(_) => rest.split(['/', '?', '#']).next().unwrap_or_default(),
            None => rest,
        };
        // What programs make of these differs, and one of them would connect elsewhere than was judged.
        if let Some(odd) =
            authority.chars().find(|c| matches!(c, '/' | '\\' | '%') || c.is_control() || c.is_whitespace())
        {
            return Err(wrong(format!("{odd:?} cannot be in it; a path needs a scheme such as https://")));
        }
        let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        let (host, port) = split_port(authority).map_err(|problem| wrong(problem.into()))?;
        let port = match port {
            Some(text) => text.parse().ok().filter(|port| *port != 0 && text.bytes().all(|b| b.is_ascii_digit())),
            None => default_port,
        };
        let port = port.ok_or_else(|| wrong("it needs a port from 1 to 65535".into()))?;
        let host = match host.parse::<IpAddr>() {
            Ok(address) => Host::Address(address),
            Err(_) => Host::Name(host.parse().map_err(|bad: policy::BadName| wrong(bad.to_string()))?),
        };
        Ok(Self { host, port, protocol })
    }
}

/// Cuts `:PORT` off, brackets of an IPv6 address too.
fn split_port(authority: &str) -> Result<(&str, Option<&str>), &'static str> {
    if let Some(rest) = authority.strip_prefix('[') {
        let (inside, after) = rest.split_once(']').ok_or("the closing bracket is missing")?;
        return match after.strip_prefix(':') {
            Some(port) => Ok((inside, Some(port))),
            None if after.is_empty() => Ok((inside, None)),
            None => Err("the port must follow a colon"),
        };
    }
    if authority.parse::<Ipv6Addr>().is_ok() {
        return Ok((authority, None));
    }
    Ok(authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port))))
}

impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.protocol == Protocol::Udp {
            f.write_str("udp://")?;
        }
        match &self.host {
            Host::Name(name) => write!(f, "{name}:{}", self.port),
            Host::Address(IpAddr::V6(v6)) => write!(f, "[{v6}]:{}", self.port),
            Host::Address(address) => write!(f, "{address}:{}", self.port),
        }
    }
}

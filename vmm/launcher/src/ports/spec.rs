//! A published port in the user's words: `[IP:]HOST:GUEST[/tcp|udp]`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use netstack::Transport;
use serde::{Deserialize, Serialize};

/// Which port of the host leads to which port of the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PortSpec {
    /// The host's address; both loopback addresses if absent.
    pub address: Option<IpAddr>,
    /// The host's port; 0 is any that is free.
    pub host: u16,
    /// The guest's port.
    pub guest: u16,
    /// Over what.
    pub transport: Transport,
}

/// A text that is no published port.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} {value:?} in {text:?}: {problem} (for example: {example})")]
pub struct PortError {
    field: &'static str,
    value: String,
    text: String,
    problem: &'static str,
    example: &'static str,
}

impl PortSpec {
    /// The addresses to bind.
    pub(crate) fn addresses(&self) -> Vec<IpAddr> {
        match self.address {
            Some(address) => vec![address],
            None => vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
        }
    }

    /// True if others than this host can connect.
    pub fn is_open(&self) -> bool {
        self.address.is_some_and(|address| !address.to_canonical().is_loopback())
    }

    /// What `rm` takes: the same text, or `[IP:]HOST[/tcp|udp]`. Gives address, port and transport.
    pub fn parse_removal(text: &str) -> Result<(Option<IpAddr>, u16, Transport), PortError> {
        if let Ok(spec) = text.parse::<Self>() {
            return Ok((spec.address, spec.host, spec.transport));
        }
        let wrong = |field, value: &str, problem| PortError {
            field,
            value: value.to_owned(),
            text: text.to_owned(),
            problem,
            example: "8080, 127.0.0.1:8080 or 5353/udp",
        };
        let (rest, transport) = split_transport(text, wrong)?;
        let (address, host) = match rest.rsplit_once(':') {
            Some((address, host)) => (Some(parse_address(address, wrong)?), host),
            None => (None, rest),
        };
        Ok((address, parse_port("host port", host, wrong)?, transport))
    }
}

impl FromStr for PortSpec {
    type Err = PortError;

    fn from_str(text: &str) -> Result<Self, PortError> {
        let wrong = |field, value: &str, problem| PortError {
            field,
            value: value.to_owned(),
            text: text.to_owned(),
            problem,
            example: "8080:80, 127.0.0.1:8080:80 or 5353:53/udp",
        };
        let (rest, transport) = split_transport(text, wrong)?;
        let (rest, guest) =
            rest.rsplit_once(':').ok_or_else(|| wrong("ports", rest, "write both, as in HOST:GUEST"))?;
        let (address, host) = match rest.rsplit_once(':') {
            Some((address, host)) => (Some(parse_address(address, wrong)?), host),
            None => (None, rest),
        };
        let guest_port = parse_port("guest port", guest, wrong)?;
        if guest_port == 0 {
            return Err(wrong("guest port", guest, "it must be a number from 1 to 65535"));
        }
        Ok(Self { address, host: parse_port("host port", host, wrong)?, guest: guest_port, transport })
    }
}

fn split_transport(
    text: &str,
    wrong: impl Fn(&'static str, &str, &'static str) -> PortError,
) -> Result<(&str, Transport), PortError> {
    match text.split_once('/') {
        None => Ok((text, Transport::Tcp)),
        Some((rest, "tcp")) => Ok((rest, Transport::Tcp)),
        Some((rest, "udp")) => Ok((rest, Transport::Udp)),
        Some((_, other)) => Err(wrong("protocol", other, "it must be tcp or udp")),
    }
}

fn parse_address(
    text: &str,
    wrong: impl Fn(&'static str, &str, &'static str) -> PortError,
) -> Result<IpAddr, PortError> {
    match text.strip_prefix('[').and_then(|text| text.strip_suffix(']')) {
        Some(inside) => match inside.parse::<Ipv6Addr>() {
            Ok(address) => Ok(address.into()),
            Err(_) => Err(wrong("address", text, "it is not an IPv6 address in brackets, as in [::1]")),
        },
        None => match text.parse::<Ipv4Addr>() {
            Ok(address) => Ok(address.into()),
            Err(_) => Err(wrong("address", text, "it must be an IPv4 address, or an IPv6 address in brackets")),
        },
    }
}

fn parse_port(
    field: &'static str,
    text: &str,
    wrong: impl Fn(&'static str, &str, &'static str) -> PortError,
) -> Result<u16, PortError> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let port = text.parse().ok().filter(|_| is_number);
    port.ok_or_else(|| wrong(field, text, "it must be a number up to 65535"))
}

impl fmt::Display for PortSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            Some(IpAddr::V4(address)) => write!(f, "{address}:")?,
            Some(IpAddr::V6(address)) => write!(f, "[{address}]:")?,
            None => {}
        }
        let transport = match self.transport {
            Transport::Tcp => "tcp",
            Transport::Udp => "udp",
        };
        write!(f, "{}:{}/{transport}", self.host, self.guest)
    }
}

impl TryFrom<String> for PortSpec {
    type Error = PortError;

    fn try_from(text: String) -> Result<Self, PortError> {
        text.parse()
    }
}

impl From<PortSpec> for String {
    fn from(spec: PortSpec) -> Self {
        spec.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_understood_and_written_back() {
        for (text, normal) in [
            ("8080:80", "8080:80/tcp"),
            ("0:80/tcp", "0:80/tcp"),
            ("127.0.0.1:8080:80", "127.0.0.1:8080:80/tcp"),
            ("0.0.0.0:5353:53/udp", "0.0.0.0:5353:53/udp"),
            ("[::1]:8080:80/udp", "[::1]:8080:80/udp"),
        ] {
            let spec: PortSpec = text.parse().unwrap();
            assert_eq!(spec.to_string(), normal);
            assert_eq!(normal.parse(), Ok(spec));
        }
    }

    #[test]
    fn without_an_address_only_this_host_can_connect() {
        let spec: PortSpec = "8080:80".parse().unwrap();
        assert!(!spec.is_open());
        assert_eq!(spec.addresses(), ["127.0.0.1".parse::<IpAddr>().unwrap(), "::1".parse().unwrap()]);
        for (text, is_open) in
            [("0.0.0.0:1:2", true), ("[::]:1:2", true), ("127.0.0.2:1:2", false), ("[::ffff:127.0.0.1]:1:2", false)]
        {
            assert_eq!(text.parse::<PortSpec>().unwrap().is_open(), is_open, "{text}");
        }
    }

    #[test]
    fn errors_name_the_field_the_value_and_a_right_example() {
        for (text, start) in [
            ("8080", "ports \"8080\""),
            ("8080:", "guest port \"\""),
            ("8080:0", "guest port \"0\""),
            ("8080:65536", "guest port \"65536\""),
            ("+8:80", "host port \"+8\""),
            ("http:80", "host port \"http\""),
            ("localhost:8080:80", "address \"localhost\""),
            ("::1:8080:80", "address \"::1\""),
            ("[127.0.0.1]:8080:80", "address \"[127.0.0.1]\""),
            ("8080:80/sctp", "protocol \"sctp\""),
            ("", "ports \"\""),
        ] {
            let message = text.parse::<PortSpec>().unwrap_err().to_string();
            assert!(message.starts_with(start) && message.contains("(for example: "), "{message}");
        }
    }

    #[test]
    fn removals_need_no_guest_port() {
        for (text, address, port, transport) in [
            ("8080", None, 8080, Transport::Tcp),
            ("8080/udp", None, 8080, Transport::Udp),
            ("[::1]:8080", Some("::1".parse().unwrap()), 8080, Transport::Tcp),
            ("8080:80", None, 8080, Transport::Tcp),
        ] {
            assert_eq!(PortSpec::parse_removal(text), Ok((address, port, transport)), "{text}");
        }
        assert!(PortSpec::parse_removal("x").unwrap_err().to_string().contains("host port \"x\""));
    }
}

//! What is not for the proxy: `NO_PROXY`, as curl and Go read it.

use std::net::{IpAddr, SocketAddr};

use policy::{Cidr, Name};

#[derive(Debug, Clone, PartialEq, Eq)]
enum Entry {
    Everything,
    /// A name and all below it.
    Domain(Name),
    Range(Cidr),
}

/// A list of exceptions.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Bypass {
    entries: Vec<(Entry, Option<u16>)>,
    /// As they were written.
    texts: Vec<String>,
}

impl Bypass {
    /// Reads a list; gives the entry that cannot be understood, if there is one.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let texts = text.split([',', ' ', '\t']).filter(|entry| !entry.is_empty()).map(str::to_owned);
        let texts: Vec<String> = texts.collect();
        let entries = texts.iter().map(|entry| parse(entry).ok_or_else(|| entry.clone())).collect::<Result<_, _>>()?;
        Ok(Self { entries, texts })
    }

    /// The exceptions as they were written.
    pub(super) fn texts(&self) -> &[String] {
        &self.texts
    }

    /// Whether a flow goes around the proxy.
    pub(super) fn matches(&self, remote: SocketAddr, names: &[Name]) -> bool {
        let address = remote.ip().to_canonical();
        address.is_loopback()
            || self.entries.iter().any(|(entry, port)| {
                let matches = match entry {
                    Entry::Everything => true,
                    Entry::Domain(domain) => names.iter().any(|name| name == domain || name.is_below(domain)),
                    Entry::Range(range) => range.contains(address),
                };
                matches && port.is_none_or(|port| port == remote.port())
            })
    }
}

fn parse(entry: &str) -> Option<(Entry, Option<u16>)> {
    if entry == "*" {
        return Some((Entry::Everything, None));
    }
    if let Some((address, prefix)) = entry.split_once('/') {
        let range = Cidr::new(address.parse().ok()?, prefix.parse().ok()?)?;
        return Some((Entry::Range(range), None));
    }
    if let Ok(address) = entry.trim_matches(['[', ']']).parse::<IpAddr>() {
        return Some((Entry::Range(Cidr::single(address.to_canonical())), None));
    }
    if let Ok(socket) = entry.parse::<SocketAddr>() {
        return Some((Entry::Range(Cidr::single(socket.ip().to_canonical())), Some(socket.port())));
    }
    let (host, port) = match entry.rsplit_once(':') {
        Some((host, port)) => (host, Some(port.parse().ok()?)),
        None => (entry, None),
    };
    let host = host.strip_prefix("*.").or_else(|| host.strip_prefix('.')).unwrap_or(host);
    Some((Entry::Domain(host.parse().ok()?), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn goes_around(list: &str, remote: &str, names: &[&str]) -> bool {
        let names: Vec<Name> = names.iter().map(|name| name.parse().unwrap()).collect();
        Bypass::parse(list).unwrap().matches(remote.parse().unwrap(), &names)
    }

    #[test]
    fn every_form_of_an_exception_is_understood() {
        for (list, remote, names) in [
            ("*", "93.184.216.34:443", &[][..]),
            ("example.com", "93.184.216.34:443", &["example.com"]),
            ("a.test, .example.com", "93.184.216.34:443", &["x.example.com"]),
            ("*.example.com:8443", "93.184.216.34:8443", &["example.com"]),
            ("10.0.0.0/8", "10.1.2.3:443", &[]),
            ("10.1.2.3", "10.1.2.3:443", &[]),
            ("10.1.2.3:443", "10.1.2.3:443", &[]),
            ("[fd00::1]", "[fd00::1]:443", &[]),
            ("", "127.0.0.1:8080", &[]),
        ] {
            assert!(goes_around(list, remote, names), "{list}");
        }
        for (list, remote, names) in [
            ("", "93.184.216.34:443", &["example.com"][..]),
            ("example.com", "93.184.216.34:443", &["notexample.com"]),
            ("example.com:8443", "93.184.216.34:443", &["example.com"]),
            ("10.1.2.3:443", "10.1.2.3:80", &[]),
            ("10.0.0.0/8", "11.0.0.1:443", &[]),
        ] {
            assert!(!goes_around(list, remote, names), "{list}");
        }
        for list in ["a b\u{1}", "10.0.0.0/33", "example.com:x", "exa_mple.com:99999"] {
            assert!(Bypass::parse(list).is_err(), "{list}");
        }
    }
}

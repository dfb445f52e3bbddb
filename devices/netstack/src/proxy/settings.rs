//! The variables that name the host's proxy.

use super::bypass::Bypass;

/// A proxy, by the URL that names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Server {
    pub(super) host: String,
    pub(super) port: u16,
    /// The value of Proxy-Authorization.
    pub(super) authorization: Option<Secret>,
}

/// A credential that no log shows.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Secret(pub(super) String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

/// The proxies of the host, and what is not for them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proxy {
    pub(super) plain: Server,
    pub(super) secure: Server,
    pub(super) bypass: Bypass,
}

/// A variable that cannot be understood. Values are not repeated where they may hold a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{variable}: {problem} (for example: {example})")]
pub struct ProxyError {
    variable: &'static str,
    problem: String,
    example: &'static str,
}

impl Proxy {
    /// Reads the environment by way of `variable`; none when no proxy is set. Lower-case names come first, an empty
    /// variable is an unset one.
    pub fn from_environment(variable: impl Fn(&str) -> Option<String>) -> Result<Option<Self>, ProxyError> {
        let read = |names: [&'static str; 2]| {
            names
                .into_iter()
                .find_map(|name| variable(name).filter(|value| !value.is_empty()).map(|value| (name, value)))
        };
        let server = |names| read(names).map(|(name, url)| Server::parse(name, &url)).transpose();
        let every = server(["all_proxy", "ALL_PROXY"])?;
        let secure = server(["https_proxy", "HTTPS_PROXY"])?.or_else(|| every.clone());
        let plain = server(["http_proxy", "HTTP_PROXY"])?.or(every);
        let (plain, secure) = match (plain, secure) {
            (None, None) => return Ok(None),
            (Some(one), None) | (None, Some(one)) => (one.clone(), one),
            (Some(plain), Some(secure)) => (plain, secure),
        };
        let bypass = match read(["no_proxy", "NO_PROXY"]) {
            Some((name, list)) => Bypass::parse(&list).map_err(|entry| ProxyError {
                variable: name,
                problem: format!("{entry:?} is neither a domain nor an address nor a range"),
                example: "NO_PROXY=.corp.example,10.0.0.0/8",
            })?,
            None => Bypass::default(),
        };
        Ok(Some(Self { plain, secure, bypass }))
    }

    /// What it means for a guest, one line each; without credentials.
    pub(super) fn describe(&self) -> Vec<String> {
        let way = match self.plain == self.secure {
            true => format!("out by proxy {}, over TCP only", self.secure),
            false => format!("out by proxy {} (port 80: {}), over TCP only", self.secure, self.plain),
        };
        let around = self.bypass.texts();
        let around = (!around.is_empty()).then(|| format!("around the proxy: {}", around.join(" ")));
        [way].into_iter().chain(around).collect()
    }
}

impl std::fmt::Display for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

impl Server {
    fn parse(variable: &'static str, url: &str) -> Result<Self, ProxyError> {
        let wrong = |problem: &str| ProxyError {
            variable,
            problem: problem.to_owned(),
            example: "HTTPS_PROXY=http://proxy.corp.example:3128",
        };
        if url.bytes().any(|byte| byte.is_ascii_control() || byte == b' ') {
            return Err(wrong("it holds a space or a control character"));
        }
        let rest = match url.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => rest,
            Some((scheme, _)) => return Err(wrong(&format!("a proxy by {scheme} is not supported, only http is"))),
            None => url,
        };
        let rest = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let (user, place) = match rest.rsplit_once('@') {
            Some((user, place)) => (Some(user), place),
            None => (None, rest),
        };
        let (host, port) = match place.strip_prefix('[').and_then(|v6| v6.split_once(']')) {
            Some((host, "")) => (host, None),
            Some((host, after)) => (host, Some(after.strip_prefix(':').ok_or_else(|| wrong("its port is malformed"))?)),
            None => match place.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (place, None),
            },
        };
        if host.is_empty() {
            return Err(wrong("it names no host"));
        }
        let port = match port {
            Some(port) => port.parse().ok().filter(|port| *port != 0),
            None => Some(80),
        };
        let port = port.ok_or_else(|| wrong("its port is not a number from 1 to 65535"))?;
        let authorization = user.map(|user| Secret(format!("Basic {}", base64(&unescape(user)))));
        Ok(Self { host: host.to_owned(), port, authorization })
    }
}

/// Takes `%XX` apart.
fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let escaped = after.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        match escaped.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) if first == b'%' => {
                bytes.push(byte);
                rest = after.get(2..).unwrap_or_default();
            }
            _ => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    bytes
}

/// RFC 4648, 4.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let byte = |at: usize| u32::from(chunk.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for digit in 0..4 {
            let index = usize::try_from(bits >> (18 - 6 * digit) & 63).unwrap_or(0);
            let filled = digit <= u32::try_from(chunk.len()).unwrap_or(0);
            text.push(if filled { ALPHABET.get(index).copied().map_or('=', char::from) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Option<Proxy>, ProxyError> {
        Proxy::from_environment(|name| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn urls_are_taken_apart() {
        let server = |url: &str| read(&[("HTTPS_PROXY", url)]).unwrap().unwrap().secure;
        let plain = server("http://proxy.corp.example:3128/");
        assert_eq!((plain.host.as_str(), plain.port, plain.authorization), ("proxy.corp.example", 3128, None));
        assert_eq!(server("proxy").port, 80);
        let v6 = server("http://[fd00::1]:8080");
        assert_eq!((v6.host.as_str(), v6.port), ("fd00::1", 8080));
        let user = server("http://us%40er:pa:ss@proxy:1");
        assert_eq!(user.authorization.clone().unwrap().0, "Basic dXNAZXI6cGE6c3M=");
        assert!(!format!("{user:?}").contains("dXNA"));
    }

    #[test]
    fn each_variable_has_its_part() {
        assert_eq!(read(&[("HTTPS_PROXY", ""), ("NO_PROXY", "a.test")]), Ok(None));
        let both =
            read(&[("http_proxy", "one:1"), ("HTTP_PROXY", "other:1"), ("https_proxy", "two:2")]).unwrap().unwrap();
        assert_eq!((both.plain.host.as_str(), both.secure.host.as_str()), ("one", "two"));
        let one = read(&[("HTTP_PROXY", "one:1")]).unwrap().unwrap();
        assert_eq!(one.plain, one.secure);
        assert_eq!(read(&[("ALL_PROXY", "one:1")]).unwrap().unwrap(), one);
    }

    #[test]
    fn a_proxy_describes_itself_without_its_password() {
        let describe = |variables: &[(&str, &str)]| read(variables).unwrap().unwrap().describe();
        assert_eq!(
            describe(&[("ALL_PROXY", "http://u:secret@[fd00::1]:3128")]),
            ["out by proxy [fd00::1]:3128, over TCP only"]
        );
        let both = [("http_proxy", "one:1"), ("https_proxy", "two:2"), ("no_proxy", ".corp.example, 10.0.0.0/8")];
        assert_eq!(
            describe(&both),
            ["out by proxy two:2 (port 80: one:1), over TCP only", "around the proxy: .corp.example 10.0.0.0/8"]
        );
    }

    #[test]
    fn errors_name_the_variable_and_a_right_example_but_no_password() {
        for url in
            ["https://u:secret@p:1", "http://u:secret@:1", "http://u:secret@p:0", "u:secret@p:x", "u:secret@[::1]x"]
        {
            let message = read(&[("HTTPS_PROXY", url)]).unwrap_err().to_string();
            assert!(message.starts_with("HTTPS_PROXY: ") && message.contains("(for example: "), "{message}");
            assert!(!message.contains("secret"));
        }
        let message = read(&[("http_proxy", "p"), ("no_proxy", "10.0.0.0/99")]).unwrap_err().to_string();
        assert!(message.starts_with("no_proxy: \"10.0.0.0/99\" "), "{message}");
    }
}

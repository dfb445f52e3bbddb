//! One line of the log.

use std::fmt;
use std::net::SocketAddr;

use netstack::{Event, Outcome, Subject};
use policy::Protocol;
use serde::{Deserialize, Serialize};

/// Names of one flow that are told; an address may have any number.
const MAX_NAMES: usize = 8;

/// What a line is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A VM was started; what follows is its.
    Start,
    /// A flow was allowed or denied.
    Verdict,
    /// A flow that a name opened said which host it is for.
    Stream,
    /// An allowed flow is over.
    Closed,
    /// A name may be asked for, or not.
    Question,
    /// Addresses were withheld from an answer.
    Withheld,
    /// A limit of the VM was reached.
    Limit,
    /// The stack had more to tell than it tells a second.
    Suppressed,
    /// The log was slower than the stack.
    Lost,
    /// Something that this version does not know.
    #[serde(other)]
    Other,
}

/// One thing that happened. Fields that have no meaning for its kind are absent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// UTC, RFC 3339.
    pub time: String,
    /// The VM's name.
    pub vm: String,
    /// What it is about.
    pub event: Kind,
    /// The number of the flow or question that it is about: the same in every line about it, and of no other since the
    /// VM's start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flow: Option<u64>,
    /// `tcp`, `udp` or `icmp`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// Where the flow leads; where it comes from, if a published port let it in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote: Option<SocketAddr>,
    /// The address of the host that a client of a published port connected to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub published: Option<SocketAddr>,
    /// The port of the guest that it leads to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest_port: Option<u16>,
    /// The names that the address was resolved from, or the one asked for: words of the guest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
    /// Type of the record asked for, as a number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record: Option<u16>,
    /// `allow` or `deny`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<String>,
    /// The rule that decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// The host that the flow itself named: words of the guest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// What was wrong with what it said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// How the flow ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<String>,
    /// Payload bytes from the guest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sent: Option<u64>,
    /// Payload bytes to the guest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub received: Option<u64>,
    /// How long the flow lasted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<u64>,
    /// How many addresses or lines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// Which limit, or what there were too many lines about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<String>,
}

impl Entry {
    /// A line with nothing but its kind.
    pub(super) fn new(event: Kind) -> Self {
        Self {
            time: String::new(),
            vm: String::new(),
            event,
            flow: None,
            protocol: None,
            remote: None,
            published: None,
            guest_port: None,
            names: Vec::new(),
            record: None,
            verdict: None,
            rule: None,
            host: None,
            why: None,
            outcome: None,
            sent: None,
            received: None,
            duration_ms: None,
            count: None,
            limit: None,
        }
    }

    /// A line about a flow.
    fn about(event: Kind, flow: &Subject) -> Self {
        Self {
            flow: Some(flow.number),
            protocol: Some(protocol_name(flow.protocol).to_owned()),
            remote: Some(flow.remote),
            published: flow.port.map(|port| port.bind),
            guest_port: flow.port.map(|port| port.guest_port),
            names: flow.names.iter().take(MAX_NAMES).map(|name| name.as_str().to_owned()).collect(),
            rule: Some(flow.rule.clone()),
            ..Self::new(event)
        }
    }

    /// What the stack told; time and VM are added when it is written.
    pub(super) fn of(event: &Event<'_>) -> Self {
        match event {
            Event::Verdict { flow, allow } => {
                Self { verdict: Some(verdict(*allow)), ..Self::about(Kind::Verdict, flow) }
            }
            Event::Question { number, name, kind, allow, rule } => Self {
                flow: Some(*number),
                names: vec![(*name).to_owned()],
                record: Some(*kind),
                verdict: Some(verdict(*allow)),
                rule: Some((*rule).to_owned()),
                ..Self::new(Kind::Question)
            },
            Event::Withheld { number, name, count } => Self {
                flow: Some(*number),
                names: vec![(*name).to_owned()],
                count: u64::try_from(*count).ok(),
                ..Self::new(Kind::Withheld)
            },
            Event::Stream { flow, host, allow, why } => Self {
                verdict: Some(verdict(*allow)),
                host: host.map(|name| name.as_str().to_owned()),
                why: (!why.is_empty()).then(|| (*why).to_owned()),
                ..Self::about(Kind::Stream, flow)
            },
            Event::Closed { flow, outcome, sent, received, duration } => Self {
                outcome: Some(outcome_name(*outcome).to_owned()),
                sent: Some(*sent),
                received: Some(*received),
                duration_ms: u64::try_from(duration.as_millis()).ok(),
                ..Self::about(Kind::Closed, flow)
            },
            Event::Limit { number, what } => {
                Self { flow: Some(*number), limit: Some((*what).to_owned()), ..Self::new(Kind::Limit) }
            }
            Event::Suppressed { what, count } => {
                Self { limit: Some((*what).to_owned()), count: Some(*count), ..Self::new(Kind::Suppressed) }
            }
            _ => Self::new(Kind::Other),
        }
    }
}

fn verdict(allow: bool) -> String {
    if allow { "allow" } else { "deny" }.to_owned()
}

fn protocol_name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Icmp => "icmp",
    }
}

fn outcome_name(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Finished => "finished",
        Outcome::GuestReset => "reset by the guest",
        Outcome::RemoteReset => "reset by the other side",
        Outcome::Unreachable => "unreachable",
        Outcome::Idle => "idle",
        Outcome::Evicted => "one too many",
        Outcome::Revoked => "no longer allowed",
        Outcome::Denied => "denied by what it said",
        Outcome::Failed => "failed",
        Outcome::Stopped => "the VM ended",
    }
}

impl fmt::Display for Entry {
    /// The line for a person; the guest's words cannot carry terminal escapes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |field: &Option<String>| field.as_deref().unwrap_or("?").escape_debug().to_string();
        let names = self.names.iter().map(|name| name.escape_debug().to_string()).collect::<Vec<_>>().join(", ");
        if self.event == Kind::Start {
            return write!(f, "{} VM {} started", self.time, self.vm);
        }
        let number = self.flow.map(|number| format!("#{number}")).unwrap_or_default();
        let word = match self.event {
            Kind::Verdict | Kind::Stream | Kind::Question => text(&self.verdict),
            Kind::Closed => "ended".to_owned(),
            _ => "note".to_owned(),
        };
        write!(f, "{} {number:<6} {word:<5} ", self.time)?;
        let count = self.count.unwrap_or_default();
        match self.event {
            Kind::Verdict | Kind::Stream | Kind::Closed => {
                write!(f, "{} {}", text(&self.protocol), self.ends())?;
                if !names.is_empty() {
                    write!(f, " ({names})")?;
                }
            }
            Kind::Question => write!(f, "dns {names}{}", self.record.map(record_name).unwrap_or_default())?,
            Kind::Withheld => write!(f, "{count} addresses of {names} withheld: not to be reached")?,
            Kind::Limit => write!(f, "limit reached: {}", text(&self.limit))?,
            Kind::Suppressed => write!(f, "{count} more lines about {} that second", text(&self.limit))?,
            Kind::Lost => write!(f, "{count} lines lost: the log was slower than the guest")?,
            Kind::Start | Kind::Other => write!(f, "unknown to this version")?,
        }
        if let Some(rule) = &self.rule {
            write!(f, " by {}", rule.escape_debug())?;
        }
        match self.event {
            Kind::Stream if self.why.is_some() => write!(f, ": {}", text(&self.why)),
            Kind::Stream if self.host.is_some() => write!(f, ": it is for {}", text(&self.host)),
            Kind::Stream => write!(f, ": it names no host"),
            Kind::Closed => {
                let (sent, received) = (self.sent.unwrap_or_default(), self.received.unwrap_or_default());
                let seconds = std::time::Duration::from_millis(self.duration_ms.unwrap_or_default()).as_secs_f64();
                write!(f, ": {}, {} out, {} in, {seconds:.1} s", text(&self.outcome), size(sent), size(received))
            }
            _ => Ok(()),
        }
    }
}

impl Entry {
    /// Where the flow leads, or where it comes from and which way it came.
    fn ends(&self) -> String {
        let address = |field: Option<SocketAddr>| field.map_or_else(|| "?".to_owned(), |address| address.to_string());
        match self.guest_port {
            None => address(self.remote),
            Some(port) => format!("{} -> {} -> {port}", address(self.remote), address(self.published)),
        }
    }
}

/// Bytes in a unit that leaves at most four digits.
fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["kB", "MB", "GB", "TB"];
    if bytes < 10_000 {
        return format!("{bytes} B");
    }
    let mut value = bytes / 1000;
    let mut units = UNITS.iter();
    let mut unit = units.next();
    while value >= 10_000
        && let Some(next) = units.next()
    {
        value /= 1000;
        unit = Some(next);
    }
    format!("{value} {}", unit.unwrap_or(&"kB"))
}

/// The types that are asked for all the time (RFC 1035, 3.2.2; RFC 3596; RFC 9460).
fn record_name(number: u16) -> String {
    match number {
        1 => " A".into(),
        28 => " AAAA".into(),
        65 => " HTTPS".into(),
        other => format!(" TYPE{other}"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use netstack::{Publish, Transport};

    use super::*;

    fn subject(protocol: Protocol, remote: &str, names: &[&str], rule: &str) -> Subject {
        let names = names.iter().map(|name| name.parse().unwrap()).collect();
        Subject { number: 7, protocol, remote: remote.parse().unwrap(), port: None, names, rule: rule.into() }
    }

    #[test]
    fn verdicts_read_well_and_survive_being_written() {
        let flow = &subject(Protocol::Tcp, "93.184.216.34:443", &["api.example.com"], "preset none");
        let entry = Entry::of(&Event::Verdict { flow, allow: false });
        assert_eq!(entry.to_string(), " #7     deny  tcp 93.184.216.34:443 (api.example.com) by preset none");
        let text = serde_json::to_string(&entry).unwrap();
        assert!(text.contains(r#""verdict":"deny","rule":"preset none""#) && !text.contains("sent"), "{text}");
        assert!(text.contains(r#""flow":7,"#), "{text}");
        assert_eq!(serde_json::from_str::<Entry>(&text).unwrap(), entry);
    }

    #[test]
    fn ended_flows_tell_name_rule_bytes_and_time() {
        let flow = &subject(Protocol::Udp, "[2001:db8::1]:443", &["a.test"], "allow a.test");
        let (outcome, duration) = (Outcome::Revoked, Duration::from_millis(1500));
        let text = Entry::of(&Event::Closed { flow, outcome, sent: 10, received: 12_345_678, duration }).to_string();
        let end = "no longer allowed, 10 B out, 12 MB in, 1.5 s";
        assert_eq!(text, format!(" #7     ended udp [2001:db8::1]:443 (a.test) by allow a.test: {end}"));
    }

    #[test]
    fn sizes_keep_at_most_four_digits() {
        for (bytes, text) in
            [(0, "0 B"), (9999, "9999 B"), (10_000, "10 kB"), (12_345_678, "12 MB"), (u64::MAX, "18446744 TB")]
        {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn clients_of_published_ports_show_the_way_they_came() {
        let bind = "127.0.0.1:8080".parse().unwrap();
        let port = Some(Publish { bind, guest_port: 80, transport: Transport::Tcp });
        let flow = &Subject { port, ..subject(Protocol::Tcp, "127.0.0.1:50000", &[], "published port") };
        let entry = Entry::of(&Event::Verdict { flow, allow: true });
        assert_eq!(entry.to_string(), " #7     allow tcp 127.0.0.1:50000 -> 127.0.0.1:8080 -> 80 by published port");
    }

    #[test]
    fn what_a_flow_said_of_itself_is_told_with_what_was_wrong() {
        let flow = &subject(Protocol::Tcp, "93.184.216.34:443", &["a.test"], "allow a.test");
        let why = "TLS for b.test, which this address was not opened for";
        let text = Entry::of(&Event::Stream { flow, host: None, allow: false, why }).to_string();
        assert!(text.ends_with(&format!("deny  tcp 93.184.216.34:443 (a.test) by allow a.test: {why}")), "{text}");
        let host = "a.test".parse().unwrap();
        let text = Entry::of(&Event::Stream { flow, host: Some(&host), allow: true, why: "" }).to_string();
        assert!(text.ends_with(": it is for a.test"), "{text}");
    }

    #[test]
    fn the_guest_s_words_cannot_move_the_cursor() {
        let event = Event::Question { number: 1, name: "a\x1b[2J\n", kind: 28, allow: true, rule: "preset public" };
        let text = Entry::of(&event).to_string();
        assert!(text.contains("\\u{1b}[2J\\n AAAA") && !text.contains('\x1b'), "{text}");
    }

    #[test]
    fn lines_of_a_later_version_are_no_error() {
        let entry: Entry = serde_json::from_str(r#"{"time":"t","vm":"v","event":"quantum","x":1}"#).unwrap();
        assert_eq!(entry.event, Kind::Other);
    }
}

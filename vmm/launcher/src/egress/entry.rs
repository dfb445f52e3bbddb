//! One line of the log.

use std::fmt;
use std::net::SocketAddr;

use netstack::{Event, Outcome};
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
    /// `tcp`, `udp` or `icmp`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// Where the flow leads, or led.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote: Option<SocketAddr>,
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
    /// Which limit.
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
            protocol: None,
            remote: None,
            names: Vec::new(),
            record: None,
            verdict: None,
            rule: None,
            outcome: None,
            sent: None,
            received: None,
            duration_ms: None,
            count: None,
            limit: None,
        }
    }

    /// What the stack told; time and VM are added when it is written.
    pub(super) fn of(event: &Event<'_>) -> Self {
        match event {
            Event::Verdict { protocol, remote, names, allow, rule } => Self {
                protocol: Some(protocol_name(*protocol).to_owned()),
                remote: Some(*remote),
                names: names.iter().take(MAX_NAMES).map(|name| name.as_str().to_owned()).collect(),
                verdict: Some(verdict(*allow)),
                rule: Some((*rule).to_owned()),
                ..Self::new(Kind::Verdict)
            },
            Event::Question { name, kind, allow, rule } => Self {
                names: vec![(*name).to_owned()],
                record: Some(*kind),
                verdict: Some(verdict(*allow)),
                rule: Some((*rule).to_owned()),
                ..Self::new(Kind::Question)
            },
            Event::Withheld { name, count } => {
                Self { names: vec![(*name).to_owned()], count: u64::try_from(*count).ok(), ..Self::new(Kind::Withheld) }
            }
            Event::Closed { protocol, remote, outcome, sent, received, duration } => Self {
                protocol: Some(protocol_name(*protocol).to_owned()),
                remote: Some(*remote),
                outcome: Some(outcome_name(*outcome).to_owned()),
                sent: Some(*sent),
                received: Some(*received),
                duration_ms: u64::try_from(duration.as_millis()).ok(),
                ..Self::new(Kind::Closed)
            },
            Event::Limit { what } => Self { limit: Some((*what).to_owned()), ..Self::new(Kind::Limit) },
            Event::Suppressed { count } => Self { count: Some(*count), ..Self::new(Kind::Suppressed) },
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
    }
}

impl fmt::Display for Entry {
    /// The line for a person; the guest's words cannot carry terminal escapes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |field: &Option<String>| field.as_deref().unwrap_or("?").escape_debug().to_string();
        let names = self.names.iter().map(|name| name.escape_debug().to_string()).collect::<Vec<_>>().join(", ");
        write!(f, "{} ", self.time)?;
        match self.event {
            Kind::Start => return write!(f, "VM {} started", self.vm),
            Kind::Verdict | Kind::Question => write!(f, "{:<5} ", text(&self.verdict))?,
            Kind::Closed => write!(f, "ended ")?,
            Kind::Withheld | Kind::Limit | Kind::Suppressed | Kind::Lost | Kind::Other => write!(f, "note  ")?,
        }
        let count = self.count.unwrap_or_default();
        match self.event {
            Kind::Verdict | Kind::Closed => {
                write!(f, "{} ", text(&self.protocol))?;
                match self.remote {
                    Some(remote) => write!(f, "{remote}")?,
                    None => write!(f, "?")?,
                }
                if !names.is_empty() {
                    write!(f, " ({names})")?;
                }
            }
            Kind::Question => write!(f, "dns {names}{}", self.record.map(record_name).unwrap_or_default())?,
            Kind::Withheld => write!(f, "{count} addresses of {names} withheld: not to be reached")?,
            Kind::Limit => write!(f, "limit reached: {}", text(&self.limit))?,
            Kind::Suppressed => write!(f, "{count} more that second")?,
            Kind::Lost => write!(f, "{count} lines lost: the log was slower than the guest")?,
            Kind::Start | Kind::Other => write!(f, "unknown to this version")?,
        }
        if let Some(rule) = &self.rule {
            write!(f, " by {}", rule.escape_debug())?;
        }
        if self.event == Kind::Closed {
            let (sent, received) = (self.sent.unwrap_or_default(), self.received.unwrap_or_default());
            let seconds = std::time::Duration::from_millis(self.duration_ms.unwrap_or_default()).as_secs_f64();
            write!(f, ": {}, {sent} B out, {received} B in, {seconds:.1} s", text(&self.outcome))?;
        }
        Ok(())
    }
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

    use super::*;

    #[test]
    fn verdicts_read_well_and_survive_being_written() {
        let names = ["api.example.com".parse().unwrap()];
        let remote = "93.184.216.34:443".parse().unwrap();
        let event =
            Event::Verdict { protocol: Protocol::Tcp, remote, names: &names, allow: false, rule: "preset none" };
        let entry = Entry::of(&event);
        assert_eq!(entry.to_string(), " deny  tcp 93.184.216.34:443 (api.example.com) by preset none");
        let text = serde_json::to_string(&entry).unwrap();
        assert!(text.contains(r#""verdict":"deny","rule":"preset none""#) && !text.contains("sent"), "{text}");
        assert_eq!(serde_json::from_str::<Entry>(&text).unwrap(), entry);
    }

    #[test]
    fn ended_flows_tell_bytes_and_time() {
        let event = Event::Closed {
            protocol: Protocol::Udp,
            remote: "[2001:db8::1]:443".parse().unwrap(),
            outcome: Outcome::Revoked,
            sent: 10,
            received: 20,
            duration: Duration::from_millis(1500),
        };
        let text = Entry::of(&event).to_string();
        assert_eq!(text, " ended udp [2001:db8::1]:443: no longer allowed, 10 B out, 20 B in, 1.5 s");
    }

    #[test]
    fn the_guest_s_words_cannot_move_the_cursor() {
        let event = Event::Question { name: "a\x1b[2J\n", kind: 28, allow: true, rule: "preset public" };
        let text = Entry::of(&event).to_string();
        assert!(text.contains("\\u{1b}[2J\\n AAAA") && !text.contains('\x1b'), "{text}");
    }

    #[test]
    fn lines_of_a_later_version_are_no_error() {
        let entry: Entry = serde_json::from_str(r#"{"time":"t","vm":"v","event":"quantum","x":1}"#).unwrap();
        assert_eq!(entry.event, Kind::Other);
    }
}

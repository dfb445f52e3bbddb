//! What the gateway tells about its verdicts.

use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use policy::{Name, Protocol};

use crate::config::Publish;

/// Events of a kind per second that a guest can cause before they are only counted.
const RATE: u32 = 200;

/// How a flow ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Both sides were done.
    Finished,
    /// The guest broke it off.
    GuestReset,
    /// The other side broke it off.
    RemoteReset,
    /// The other side could not be reached.
    Unreachable,
    /// Nothing moved for too long.
    Idle,
    /// It was idle longest when there were too many.
    Evicted,
    /// A new policy does not allow it any more.
    Revoked,
    /// What it said about the host it is for was not allowed.
    Denied,
    /// The gateway failed on it.
    Failed,
    /// The gateway ended, with the VM.
    Stopped,
}

/// A flow as the audit knows it: every line about it repeats this.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// Its number: no other flow or question of the VM has the same.
    pub number: u64,
    /// Over what.
    pub protocol: Protocol,
    /// Where it leads; the client, if a published port let it in.
    pub remote: SocketAddr,
    /// The published port that let it in, if one did.
    pub port: Option<Publish>,
    /// The names the address was resolved from; once the flow has named one of them, that one.
    pub names: Vec<Name>,
    /// The rule that decided.
    pub rule: String,
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A flow was judged.
    Verdict {
        /// Which.
        flow: &'a Subject,
        /// Whether it may be.
        allow: bool,
    },
    /// A question was judged.
    Question {
        /// Its number.
        number: u64,
        /// The name asked for; as the guest wrote it when it is no host name.
        name: &'a str,
        /// Type of the record (RFC 1035, 3.2.2).
        kind: u16,
        /// Whether it may be asked.
        allow: bool,
        /// The rule that decided.
        rule: &'a str,
    },
    /// Addresses were withheld from an answer.
    Withheld {
        /// The question's number.
        number: u64,
        /// The name asked for.
        name: &'a str,
        /// How many addresses.
        count: usize,
    },
    /// A flow that was allowed for the sake of a name said which host it is for.
    Stream {
        /// Which.
        flow: &'a Subject,
        /// The host that it named, if it named one.
        host: Option<&'a Name>,
        /// Whether it may go on.
        allow: bool,
        /// What is wrong with it, if anything is.
        why: &'a str,
    },
    /// A flow that was allowed is over.
    Closed {
        /// Which.
        flow: &'a Subject,
        /// How it ended.
        outcome: Outcome,
        /// Payload bytes from the guest.
        sent: u64,
        /// Payload bytes to the guest.
        received: u64,
        /// How long it lasted.
        duration: Duration,
    },
    /// A limit was reached.
    Limit {
        /// The number of what was refused, or had to make room, for its sake.
        number: u64,
        /// Which.
        what: &'static str,
    },
    /// So many events were not told one by one.
    Suppressed {
        /// What they were about.
        what: &'static str,
        /// How many.
        count: u64,
    },
}

/// Takes events; the launcher writes them to the audit log.
pub trait AuditSink: Send + fmt::Debug {
    /// Called for each event, on the gateway's thread: must not block.
    fn record(&mut self, event: &Event<'_>);
}

/// Forgets everything.
#[derive(Debug, Clone, Copy, Default)]
pub struct Discard;

impl AuditSink for Discard {
    fn record(&mut self, _event: &Event<'_>) {}
}

/// A sink behind a rate limit, since a guest causes events as fast as it likes. What was allowed, what was denied,
/// what was asked and which limits were reached each have a share of their own: nobody hides a connection behind a
/// flood of refused ones.
#[derive(Debug)]
pub(crate) struct Audit {
    sink: Box<dyn AuditSink>,
    window: Instant,
    shares: [Share; 4],
    /// The guest causes nothing any more: everything is told.
    is_ending: bool,
    /// Flows and questions so far.
    numbers: u64,
}

#[derive(Debug)]
struct Share {
    what: &'static str,
    in_window: u32,
    suppressed: u64,
}

impl Share {
    fn new(what: &'static str) -> Self {
        Self { what, in_window: 0, suppressed: 0 }
    }
}

impl Audit {
    pub(crate) fn new(sink: Box<dyn AuditSink>, now: Instant) -> Self {
        let shares = ["allowed flows", "denials", "DNS", "limits"].map(Share::new);
        Self { sink, window: now, shares, is_ending: false, numbers: 0 }
    }

    /// A number that was never given before.
    pub(crate) fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    pub(crate) fn record(&mut self, now: Instant, event: &Event<'_>) {
        if now.duration_since(self.window) >= Duration::from_secs(1) {
            self.window = now;
            self.flush();
        }
        let [allowed, denied, dns, limits] = &mut self.shares;
        let share = match event {
            Event::Question { .. } | Event::Withheld { .. } => dns,
            Event::Verdict { allow: false, .. } | Event::Stream { allow: false, .. } => denied,
            Event::Limit { .. } => limits,
            _ => allowed,
        };
        if share.in_window >= RATE && !self.is_ending {
            share.suppressed += 1;
            return;
        }
        share.in_window += 1;
        self.sink.record(event);
    }

    /// What comes from now on are the ends of the flows there are, each of which is told.
    pub(crate) fn begin_end(&mut self) {
        self.flush();
        self.is_ending = true;
    }

    /// Tells what was only counted, and begins to count anew.
    pub(crate) fn flush(&mut self) {
        for share in &mut self.shares {
            share.in_window = 0;
            let count = std::mem::take(&mut share.suppressed);
            if count > 0 {
                self.sink.record(&Event::Suppressed { what: share.what, count });
            }
        }
    }
}

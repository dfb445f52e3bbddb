//! What the gateway tells about its verdicts.

use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use policy::{Name, Protocol};

/// Events per second that a guest can cause before they are only counted.
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
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A flow was judged.
    Verdict {
        /// TCP or UDP.
        protocol: Protocol,
        /// Where it leads.
        remote: SocketAddr,
        /// The names the address was resolved from.
        names: &'a [Name],
        /// Whether it may be.
        allow: bool,
        /// The rule that decided.
        rule: &'a str,
    },
    /// A question was judged.
    Question {
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
        /// The name asked for.
        name: &'a str,
        /// How many addresses.
        count: usize,
    },
    /// A flow that was allowed for the sake of a name said which host it is for.
    Stream {
        /// Where it leads.
        remote: SocketAddr,
        /// The host that it named, if it named one.
        host: Option<&'a Name>,
        /// Whether it may go on.
        allow: bool,
        /// What is wrong with it, if anything is.
        why: &'a str,
    },
    /// A flow that was allowed is over.
    Closed {
        /// TCP or UDP.
        protocol: Protocol,
        /// Where it led.
        remote: SocketAddr,
        /// How it ended.
        outcome: Outcome,
        /// Payload bytes from the guest.
        sent: u64,
        /// Payload bytes to the guest.
        received: u64,
        /// How long it lasted.
        duration: Duration,
    },
    /// A limit was reached and something was refused.
    Limit {
        /// Which.
        what: &'static str,
    },
    /// So many events were not told one by one.
    Suppressed {
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

/// A sink behind a rate limit, since a guest causes events as fast as it likes.
#[derive(Debug)]
pub(crate) struct Audit {
    sink: Box<dyn AuditSink>,
    window: Instant,
    in_window: u32,
    suppressed: u64,
}

impl Audit {
    pub(crate) fn new(sink: Box<dyn AuditSink>, now: Instant) -> Self {
        Self { sink, window: now, in_window: 0, suppressed: 0 }
    }

    pub(crate) fn record(&mut self, now: Instant, event: &Event<'_>) {
        if now.duration_since(self.window) >= Duration::from_secs(1) {
            self.window = now;
            self.in_window = 0;
            self.flush();
        }
        if self.in_window >= RATE {
            self.suppressed += 1;
            return;
        }
        self.in_window += 1;
        self.sink.record(event);
    }

    /// Tells what was only counted.
    pub(crate) fn flush(&mut self) {
        let count = std::mem::take(&mut self.suppressed);
        if count > 0 {
            self.sink.record(&Event::Suppressed { count });
        }
    }
}

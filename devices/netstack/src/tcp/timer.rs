//! What is due when the guest says nothing: sending again, asking again, acknowledging without an occasion.
//!
//! The link loses nothing, so that all of this is for guests that were out of memory, stood still, or are gone.

use std::time::{Duration, Instant};

use super::state::{Due, State, Tcb};

/// The first wait for an acknowledgment (RFC 6298 says a second for networks; this is a link within one machine).
const FIRST_WAIT: Duration = Duration::from_millis(300);
/// The longest (RFC 6298, 2.5).
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// Waits in vain before a guest counts as gone: more than five minutes (RFC 9293, 3.8.3, R2).
const MAX_UNANSWERED: u8 = 12;
/// Likewise for a SYN: nine seconds and what is left of the next wait.
const MAX_UNANSWERED_SYN: u8 = 5;
/// Silence after which a guest is asked whether it is still there. RFC 9293, 3.8.4, wants two hours, for the sake of
/// networks that fail for a while; this is the link of a machine to itself.
const KEEPALIVE: Duration = Duration::from_secs(300);
/// How long an acknowledgment waits for an answer that it can ride on.
const ACKNOWLEDGE: Duration = Duration::from_millis(1);
/// Answers in time, after one that was not, before acknowledgments wait again.
const TRUST: u8 = 8;

/// Deadlines of one connection.
#[derive(Debug)]
pub(super) struct Clock {
    /// When what is in flight is sent again, or a closed window asked about.
    waits: Option<Instant>,
    /// How often that was in vain since there was progress.
    backoff: u8,
    /// Waits and questions since the guest last said anything.
    unanswered: u8,
    /// When an acknowledgment is sent at the latest.
    owed: Option<Instant>,
    /// How many answers in time there were, up to what it takes.
    trust: u8,
    /// When the guest last sent something that it wants acknowledged.
    taken: Option<Instant>,
    heard: Instant,
}

/// The guest has not said anything for too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Gone;

impl Clock {
    pub(super) fn new(now: Instant) -> Self {
        Self { waits: None, backoff: 0, unanswered: 0, owed: None, trust: TRUST, taken: None, heard: now }
    }

    /// Something is in flight from now on.
    pub(super) fn start_waiting(&mut self, now: Instant) {
        self.waits.get_or_insert(now + wait(self.backoff));
    }

    /// The guest acknowledged something; `more` is still in flight.
    pub(super) fn progressed(&mut self, more: bool, now: Instant) {
        self.backoff = 0;
        self.waits = more.then(|| now + wait(0));
    }

    /// The guest said something that can be right.
    pub(super) fn heard(&mut self, now: Instant) {
        self.heard = now;
        self.unanswered = 0;
    }

    /// There is nothing to wait for any more.
    pub(super) fn stop_waiting(&mut self) {
        self.backoff = 0;
        self.waits = None;
    }

    /// The guest sent something that it wants acknowledged.
    pub(super) fn owe(&mut self, now: Instant) {
        self.taken = Some(now);
        self.owed.get_or_insert(now + ACKNOWLEDGE);
    }

    pub(super) fn nothing_owed(&mut self) {
        self.owed = None;
    }

    /// Something goes to the guest, on which an acknowledgment rides or could have ridden.
    pub(super) fn answered(&mut self, now: Instant) {
        if self.taken.take().is_some_and(|at| now.saturating_duration_since(at) < ACKNOWLEDGE) {
            self.trust = self.trust.saturating_add(1).min(TRUST);
        }
    }

    /// Whether an answer is likely to come soon enough.
    pub(super) fn is_worth_waiting(&self) -> bool {
        self.trust >= TRUST
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        [self.waits, self.owed].into_iter().flatten().min()
    }
}

impl Tcb {
    /// Does what is due by `now`.
    pub(super) fn tick(&mut self, now: Instant) -> Result<(), Gone> {
        if self.clock.owed.is_some_and(|at| at <= now) {
            self.clock.owed = None;
            self.clock.trust = 0;
            self.due = Due::Now;
        }
        if self.clock.waits.is_none_or(|at| at > now) {
            return Ok(());
        }
        self.clock.unanswered = self.clock.unanswered.saturating_add(1);
        self.clock.backoff = self.clock.backoff.saturating_add(1);
        self.clock.waits = Some(now + wait(self.clock.backoff));
        let patience = if self.is_synchronized() { MAX_UNANSWERED } else { MAX_UNANSWERED_SYN };
        if self.clock.unanswered > patience {
            return Err(Gone);
        }
        match self.state {
            State::SynSent | State::SynReceived => self.syn_due = true,
            _ if self.in_flight() > 0 && self.window > 0 => self.send_again(),
            // The window is closed, and the segment that opens it may have been lost (RFC 9293, 3.8.6.1).
            _ => self.probe_due = true,
        }
        Ok(())
    }

    /// Begins again with the oldest byte that the guest has not acknowledged. Only one frame goes out before the guest
    /// says what it has: that may well be the rest (RFC 6298, 5.4; RFC 5681, 3.2).
    pub(super) fn send_again(&mut self) {
        self.nxt = self.una;
        self.duplicates = 0;
        self.recovery = Some(self.sent);
    }

    /// Asks a guest that has said nothing for long (RFC 9293, 3.8.4). To be called about once a minute; true when there
    /// is something to send.
    pub(super) fn keep_alive(&mut self, now: Instant) -> Result<bool, Gone> {
        let is_silent = now.saturating_duration_since(self.clock.heard) >= KEEPALIVE;
        if !is_silent || !self.is_synchronized() || self.is_over() || self.clock.waits.is_some() {
            return Ok(false);
        }
        self.clock.unanswered = self.clock.unanswered.saturating_add(1);
        if self.clock.unanswered > MAX_UNANSWERED {
            return Err(Gone);
        }
        self.probe_due = true;
        Ok(true)
    }

    /// There is something to send and no window for it.
    pub(super) fn wait_for_window(&mut self, now: Instant) {
        if self.window == 0 && self.in_flight() == 0 {
            self.clock.start_waiting(now);
        }
    }
}

fn wait(backoff: u8) -> Duration {
    FIRST_WAIT.saturating_mul(1 << backoff.min(10)).min(LONGEST_WAIT)
}

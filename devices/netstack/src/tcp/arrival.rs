//! Segments of the guest, judged in the order of RFC 9293, 3.10.7, with the stricter rules of RFC 5961.

use std::ops::Range;
use std::time::Instant;

use super::segment::Segment;
use super::state::{Due, State, Tcb};

/// Acknowledgments in a row that tell nothing new and mean that something was lost (RFC 5681, 3.2).
const LOST: u8 = 3;

/// What a segment came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Arrival {
    /// Nothing but what the control block knows now.
    Nothing,
    /// It belongs to no connection that we know of: it is to be answered with a reset.
    Stray,
    /// The guest broke the connection off.
    Reset,
    /// It is part of the connection.
    Valid {
        /// Bytes of the host's that the guest has now.
        acknowledged: u32,
        /// The part of the payload that is new and may be taken.
        payload: Range<usize>,
        /// Whether the guest's stream ends behind that part.
        ends: bool,
        /// Whether something before the payload is missing.
        is_early: bool,
    },
}

impl Tcb {
    /// Judges a segment. Payload that is taken is for the caller to [`Tcb::accept`].
    pub(super) fn on_segment(&mut self, segment: &Segment, now: Instant) -> Arrival {
        match self.state {
            State::SynSent => self.on_answer(segment, now),
            State::TimeWait | State::Closed => {
                // Our last acknowledgment seems to be lost (RFC 9293, 3.10.7.4, TIME-WAIT).
                if segment.is_fin() {
                    self.due = Due::Now;
                }
                Arrival::Nothing
            }
            _ => self.on_other(segment, now),
        }
    }

    /// SYN-SENT (RFC 9293, 3.10.7.3).
    fn on_answer(&mut self, segment: &Segment, now: Instant) -> Arrival {
        let acknowledges = segment.acknowledgment.map(|ack| ack.is_after(self.una) && !ack.is_after(self.sent));
        match acknowledges {
            Some(false) if segment.is_reset() => return Arrival::Nothing,
            Some(false) => return Arrival::Stray,
            Some(true) if segment.is_reset() => return Arrival::Reset,
            _ => {}
        }
        if !segment.is_syn() {
            return Arrival::Nothing;
        }
        self.clock.heard(now);
        self.learn(segment);
        if let Some(ack) = segment.acknowledgment {
            self.una = ack;
            self.state = State::Established;
            self.clock.progressed(false, now);
            self.due = Due::Now;
        } else {
            // Both sides opened at the same time (RFC 9293, 3.5, figure 7).
            self.state = State::SynReceived;
            self.syn_due = true;
        }
        Arrival::Nothing
    }

    fn on_other(&mut self, segment: &Segment, now: Instant) -> Arrival {
        if self.state == State::SynReceived && segment.is_syn() && segment.sequence == self.irs {
            self.on_same_syn(segment, now);
            return Arrival::Nothing;
        }
        // First, the sequence number.
        let offset = segment.sequence.offset(self.expected);
        let window = i64::from(self.edge.since(self.expected));
        let len = i64::from(segment.len());
        let is_acceptable = match len {
            0 => offset == 0 || (0..window).contains(&offset),
            // A segment that stands right behind what we have is looked into with a closed window, too: it may
            // acknowledge, and its end may take no room.
            _ => offset == 0 || (offset < window && offset + len > 0),
        };
        if !is_acceptable {
            if !segment.is_reset() {
                self.due = Due::Now;
            }
            return Arrival::Nothing;
        }
        // Second, resets: exactly where we are, or to be confirmed (RFC 5961, 3.2).
        if segment.is_reset() {
            if offset == 0 {
                return Arrival::Reset;
            }
            self.due = Due::Now;
            return Arrival::Nothing;
        }
        // Fourth, a SYN within a connection: a guest that has started over answers ours with a reset (RFC 5961, 4.2).
        if segment.is_syn() {
            self.due = Due::Now;
            return Arrival::Nothing;
        }
        // Fifth, the acknowledgment.
        let Some(ack) = segment.acknowledgment else { return Arrival::Nothing };
        if self.state == State::SynReceived {
            if !ack.is_after(self.una) || ack.is_after(self.sent) {
                return Arrival::Stray;
            }
            self.establish(now);
        }
        // RFC 5961, 5.2.
        if ack.is_after(self.sent) || ack.offset(self.una) < -i64::from(self.widest) {
            self.due = Due::Now;
            return Arrival::Nothing;
        }
        self.clock.heard(now);
        let acknowledged = self.on_acknowledgment(segment, now);
        self.on_window(segment);
        // Seventh, the payload; eighth, the end of the stream.
        if !matches!(self.state, State::Established | State::FinWait1 | State::FinWait2) {
            return Arrival::Valid { acknowledged, payload: 0..0, ends: false, is_early: false };
        }
        if offset > 0 {
            // The guest learns at once, to send again what is missing (RFC 5681, 4.2).
            self.due = Due::Now;
            return Arrival::Valid { acknowledged, payload: 0..0, ends: false, is_early: segment.len() > 0 };
        }
        let payload = i64::from(segment.payload);
        let (start, end) = ((-offset).min(payload), (window - offset).min(payload));
        if start > 0 || end < payload {
            self.due = Due::Now;
        }
        let index = |at: i64| usize::try_from(at).unwrap_or(0);
        let ends = segment.is_fin() && end == payload;
        Arrival::Valid { acknowledged, payload: index(start)..index(end.max(start)), ends, is_early: false }
    }

    /// The SYN that the connection began with, in SYN-RECEIVED.
    fn on_same_syn(&mut self, segment: &Segment, now: Instant) {
        if segment.acknowledgment == Some(self.sent) {
            // Both sides opened at the same time, and this is the other's answer (RFC 9293, 3.5, figure 7).
            self.establish(now);
            self.window = segment.window.into();
            self.due = Due::Now;
        } else if segment.acknowledgment.is_none() {
            // The guest has not heard our answer.
            self.syn_due = true;
        }
    }

    /// Our SYN was acknowledged: SYN-RECEIVED to ESTABLISHED.
    fn establish(&mut self, now: Instant) {
        self.state = State::Established;
        self.syn_due = false;
        self.una = self.una.plus(1);
        self.clock.progressed(false, now);
    }

    /// Gives how many bytes of the host's stream the guest has now that it did not have before.
    fn on_acknowledgment(&mut self, segment: &Segment, now: Instant) -> u32 {
        let Some(ack) = segment.acknowledgment else { return 0 };
        if !ack.is_after(self.una) {
            let tells_nothing = ack == self.una && segment.len() == 0 && self.scaled(segment) == self.window;
            if tells_nothing && self.in_flight() > 0 && self.recovery.is_none() {
                self.duplicates = self.duplicates.saturating_add(1);
                if self.duplicates == LOST {
                    self.send_again();
                }
            }
            return 0;
        }
        let mut count = ack.since(self.una);
        self.una = ack;
        self.nxt = self.nxt.max(ack);
        self.duplicates = 0;
        if self.recovery.is_some_and(|end| !end.is_after(ack)) {
            self.recovery = None;
        }
        self.clock.progressed(self.in_flight() > 0, now);
        if self.fin.is_some_and(|fin| ack.is_after(fin)) {
            count = count.saturating_sub(1);
            self.state = match self.state {
                State::FinWait1 => State::FinWait2,
                State::Closing => State::TimeWait,
                State::LastAck => State::Closed,
                other => other,
            };
        }
        count
    }

    /// The guest's window, unless the segment is older than the one that it is from.
    fn on_window(&mut self, segment: &Segment) {
        let Some(ack) = segment.acknowledgment else { return };
        let (sequence, acknowledgment) = self.window_from;
        let is_newer =
            segment.sequence.is_after(sequence) || (segment.sequence == sequence && !acknowledgment.is_after(ack));
        if is_newer {
            self.window = self.scaled(segment);
            self.widest = self.widest.max(self.window);
            self.window_from = (segment.sequence, ack);
            if self.window > 0 && self.in_flight() == 0 {
                self.clock.stop_waiting();
            }
        }
    }

    fn scaled(&self, segment: &Segment) -> u32 {
        u32::from(segment.window) << self.scale
    }
}

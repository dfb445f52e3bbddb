//! What the gateway knows of a connection with the guest, and the states it goes through.
//!
//! This half of a connection holds no byte of payload: what goes to the guest stays in the host's socket until the
//! guest has acknowledged it, what comes from the guest is acknowledged when it was taken. Sequence numbers and windows
//! are all there is. `arrival` judges segments of the guest, `timer` says what is due when nothing comes.

use std::time::Instant;

use super::segment::{ACK, FIN, Header, MIN_MSS, PSH, RST, SYN, Segment, SynOptions, Tuple};
use super::sequence::Seq;
use super::timer::Clock;

/// Unit of the windows that the guest is told, as a power of two (RFC 7323, 2.2).
const SCALE: u8 = 7;
/// Bytes in flight to a guest that has lost some, or seems to.
const ONE_FRAME: u32 = 64 << 10;
/// MSS of a guest that names none (RFC 9293, 3.7.1).
const DEFAULT_MSS_V4: u16 = 536;
const DEFAULT_MSS_V6: u16 = 1220;

/// RFC 9293, 3.3.2. LISTEN is the table's, CLOSED is no connection any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    SynSent,
    SynReceived,
    Established,
    FinWait1,
    FinWait2,
    CloseWait,
    Closing,
    LastAck,
    TimeWait,
    Closed,
}

/// Whether the guest is owed an acknowledgment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    Nothing,
    /// With the next segment, or after a moment.
    Soon,
    Now,
}

/// The transmission control block (RFC 9293, 3.3.1).
#[derive(Debug)]
pub(super) struct Tcb {
    pub(super) state: State,
    /// SND.UNA: the oldest byte that the guest has not acknowledged.
    pub(super) una: Seq,
    /// SND.NXT: what is sent next; behind `sent` while something is sent again.
    pub(super) nxt: Seq,
    /// The end of all that was ever sent.
    pub(super) sent: Seq,
    /// Where the host's stream ends, once that is known.
    pub(super) fin: Option<Seq>,
    /// SND.WND.
    pub(super) window: u32,
    /// The largest it ever was.
    pub(super) widest: u32,
    /// SND.WL1 and SND.WL2: the segment that the window is from.
    pub(super) window_from: (Seq, Seq),
    /// By how much the guest's windows are scaled.
    pub(super) scale: u8,
    pub(super) mss: u16,
    /// Whether a SYN is to be sent, for the first time or again.
    pub(super) syn_due: bool,
    /// Whether the guest is to be asked something that it must answer.
    pub(super) probe_due: bool,
    /// Acknowledgments in a row that told nothing new.
    pub(super) duplicates: u8,
    /// Where what is being sent again ends.
    pub(super) recovery: Option<Seq>,
    /// IRS: where the guest began.
    pub(super) irs: Seq,
    /// RCV.NXT.
    pub(super) expected: Seq,
    /// The end of what the guest may send. It never moves back (RFC 9293, 3.8.6).
    pub(super) edge: Seq,
    /// The edge that the guest was told last.
    pub(super) told: Seq,
    /// By how much windows for the guest are scaled; none when it cannot.
    own_scale: Option<u8>,
    pub(super) due: Due,
    /// Bytes taken since the last acknowledgment.
    pub(super) unacknowledged: u32,
    pub(super) clock: Clock,
}

impl Tcb {
    /// Answers a SYN of the guest (RFC 9293, 3.10.7.2): LISTEN to SYN-RECEIVED.
    pub(super) fn accepting(syn: &Segment, iss: Seq, mtu: u16, now: Instant) -> Self {
        let mut tcb = Self::new(State::SynReceived, &syn.tuple, iss, mtu, now);
        tcb.learn(syn);
        tcb
    }

    /// Opens a connection to the guest (RFC 9293, 3.10.1): CLOSED to SYN-SENT.
    pub(super) fn connecting(tuple: &Tuple, iss: Seq, mtu: u16, now: Instant) -> Self {
        Self::new(State::SynSent, tuple, iss, mtu, now)
    }

    fn new(state: State, tuple: &Tuple, iss: Seq, mtu: u16, now: Instant) -> Self {
        Self {
            state,
            una: iss,
            nxt: iss,
            sent: iss,
            fin: None,
            window: 0,
            widest: 0,
            window_from: (Seq(0), Seq(0)),
            scale: 0,
            mss: tuple.payload_within(mtu.into()),
            syn_due: true,
            probe_due: false,
            duplicates: 0,
            recovery: None,
            irs: Seq(0),
            expected: Seq(0),
            edge: Seq(0),
            told: Seq(0),
            own_scale: Some(SCALE),
            due: Due::Nothing,
            unacknowledged: 0,
            clock: Clock::new(now),
        }
    }

    /// Takes over what the guest's SYN says.
    pub(super) fn learn(&mut self, syn: &Segment) {
        let default = if syn.tuple.guest.is_ipv4() { DEFAULT_MSS_V4 } else { DEFAULT_MSS_V6 };
        self.mss = syn.mss.unwrap_or(default).min(self.mss).max(MIN_MSS);
        // Both sides scale, or neither does; the window of a SYN itself is never scaled (RFC 7323, 2.2).
        self.own_scale = syn.scale.map(|_| SCALE);
        self.scale = syn.scale.unwrap_or(0).min(14);
        self.irs = syn.sequence;
        self.expected = syn.sequence.plus(1);
        (self.edge, self.told) = (self.expected, self.expected);
        self.window = syn.window.into();
        self.widest = self.window;
        self.window_from = (syn.sequence, syn.acknowledgment.unwrap_or_default());
    }

    /// Lets the guest send `window` bytes beyond what it has sent.
    pub(super) fn open_window(&mut self, window: u32) {
        // Without scaling no more can be told.
        let window = if self.own_scale.is_some() { window } else { window.min(u16::MAX.into()) };
        self.edge = self.edge.max(self.expected.plus(window));
        // Half a window of news is worth a segment (RFC 9293, 3.8.6.2.2), unless the guest has enough to go on.
        let news = self.edge.since(self.told);
        if self.is_synchronized() && news >= window / 2 && self.told.since(self.expected) < window / 2 {
            self.due = Due::Now;
        }
    }

    /// Whether both sides know each other's sequence numbers.
    pub(super) fn is_synchronized(&self) -> bool {
        !matches!(self.state, State::SynSent | State::SynReceived)
    }

    /// Whether the guest has said that it sends no more.
    pub(super) fn guest_is_done(&self) -> bool {
        matches!(self.state, State::CloseWait | State::Closing | State::LastAck | State::TimeWait | State::Closed)
    }

    /// Whether both sides have sent and acknowledged everything. TIME-WAIT (RFC 9293, 3.6) lasts twice as long as a
    /// segment may be on its way: no time at all, since the link keeps none and changes no order.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.state, State::TimeWait | State::Closed)
    }

    /// Bytes and control bits that the guest has not acknowledged.
    pub(super) fn in_flight(&self) -> u32 {
        self.sent.since(self.una)
    }

    /// How many bytes may be sent from `nxt` on.
    pub(super) fn sendable(&self) -> u32 {
        if matches!(self.state, State::SynSent | State::SynReceived | State::TimeWait | State::Closed) {
            return 0;
        }
        let flight = self.nxt.since(self.una);
        let window = if self.recovery.is_some() { self.window.min(ONE_FRAME) } else { self.window };
        let room = window.saturating_sub(flight);
        if let Some(fin) = self.fin {
            return room.min(fin.since(self.nxt));
        }
        // Silly windows wait for better ones (RFC 9293, 3.8.6.2.1), which acknowledgments bring.
        let least = u32::from(self.mss).min(self.widest / 2);
        if flight > 0 && room < least { 0 } else { room }
    }

    /// Whether the next thing to send is the end of the stream.
    pub(super) fn fin_is_due(&self) -> bool {
        self.fin == Some(self.nxt) && !self.is_over()
    }

    /// The header of a segment that begins at `nxt`.
    pub(super) fn header(&self, flags: u8) -> Header {
        let window = self.edge.since(self.expected) >> self.own_scale.unwrap_or(0);
        let window = u16::try_from(window).unwrap_or(u16::MAX);
        Header { flags: flags | ACK, sequence: self.nxt, acknowledgment: self.expected, window, options: None }
    }

    /// The header of a segment that only acknowledges: it stands behind all that was ever sent.
    pub(super) fn ack_header(&self) -> Header {
        Header { sequence: self.sent, ..self.header(0) }
    }

    /// The header of our SYN, whose window is not scaled.
    pub(super) fn syn_header(&self, mss: u16) -> Header {
        let window = match self.state {
            State::SynSent => u16::MAX,
            _ => u16::try_from(self.edge.since(self.expected)).unwrap_or(u16::MAX),
        };
        let flags = if self.state == State::SynSent { SYN } else { SYN | ACK };
        let options = Some(SynOptions { mss, scale: self.own_scale });
        Header { flags, sequence: self.una, acknowledgment: self.expected, window, options }
    }

    /// A segment that the guest must answer although it brings nothing (RFC 9293, 3.8.4 and 3.8.6.1).
    pub(super) fn probe(&self) -> Header {
        Header { sequence: self.una.minus(1), ..self.header(0) }
    }

    /// A segment that tells the guest that there is no connection any more (RFC 9293, 3.10.5).
    pub(super) fn reset(&self) -> Header {
        Header { sequence: self.sent, ..self.header(RST) }
    }

    /// The header of `count` bytes, all that there are for now if `drained`, with the end of the stream behind them if
    /// `ends`.
    pub(super) fn data_header(&self, count: u32, drained: bool, ends: bool) -> Header {
        let ends = ends || self.ends_behind(count);
        self.header(if drained { PSH } else { 0 } | if ends { FIN } else { 0 })
    }

    /// Whether the host's stream is known to end `count` bytes behind `nxt`.
    pub(super) fn ends_behind(&self, count: u32) -> bool {
        self.fin == Some(self.nxt.plus(count))
    }

    /// Our SYN was sent.
    pub(super) fn syn_sent(&mut self, now: Instant) {
        self.syn_due = false;
        self.nxt = self.una.plus(1);
        self.sent = self.nxt;
        self.acknowledged();
        self.clock.start_waiting(now);
    }

    /// `count` bytes were sent from `nxt` on, with the end of the stream behind them if `ends` (RFC 9293, 3.10.4).
    pub(super) fn data_sent(&mut self, count: u32, ends: bool, now: Instant) {
        self.nxt = self.nxt.plus(count);
        if ends {
            self.fin = Some(self.nxt);
            self.nxt = self.nxt.plus(1);
            self.state = match self.state {
                State::Established => State::FinWait1,
                State::CloseWait => State::LastAck,
                sent_before => sent_before,
            };
        }
        self.sent = self.sent.max(self.nxt);
        self.clock.answered(now);
        self.acknowledged();
        self.clock.start_waiting(now);
    }

    /// A segment was sent, and every segment acknowledges.
    pub(super) fn acknowledged(&mut self) {
        self.due = Due::Nothing;
        self.unacknowledged = 0;
        self.told = self.edge;
        self.clock.nothing_owed();
    }

    /// Takes `count` bytes of the segment at hand as received, and the guest's end of stream if `ends` (RFC 9293,
    /// 3.10.7.4, seventh and eighth).
    pub(super) fn accept(&mut self, count: u32, ends: bool, now: Instant) {
        self.expected = self.expected.plus(count);
        self.edge = self.edge.max(self.expected);
        self.unacknowledged = self.unacknowledged.saturating_add(count);
        if ends {
            self.expected = self.expected.plus(1);
            self.edge = self.edge.max(self.expected);
            self.state = match self.state {
                State::Established => State::CloseWait,
                // Our FIN is not acknowledged yet: both sides finish at the same time.
                State::FinWait1 => State::Closing,
                State::FinWait2 => State::TimeWait,
                other => other,
            };
        }
        if self.is_over() {
            // Nothing more will be sent that could acknowledge this.
            self.due = Due::Now;
        } else if count > 0 || ends {
            // Also of an end: who hears it mostly has nothing more to say, and ends as well.
            self.clock.owe(now);
            if self.due == Due::Nothing {
                self.due = Due::Soon;
            }
        }
    }

    /// Whether an acknowledgment is to be sent for its own sake.
    pub(super) fn must_acknowledge(&self) -> bool {
        match self.due {
            Due::Nothing => false,
            Due::Soon => self.unacknowledged > u32::from(self.mss.min(2048)) || !self.clock.is_worth_waiting(),
            Due::Now => true,
        }
    }
}

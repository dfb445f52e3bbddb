//! One flow, what it is made of and what becomes of it; `to_host` and `to_guest` move its bytes.
//!
//! Nothing is buffered on the way. What the host's socket has for the guest is looked at in place, behind the headers
//! of the frame that takes it there, and is passed over in the socket once the guest has acknowledged it. What the
//! guest sends goes into the host's socket straight out of its frame. Only what the socket does not take is held,
//! within the window that the guest was given, and that window stays shut until it is gone.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::arrival::Arrival;
use super::held::{Held, Orphan};
use super::segment::{Segment, Tuple};
use super::state::{State, Tcb};
use super::timer::Gone;
use super::upstream::{Broken, Upstream};
use crate::audit::{Outcome, Subject};
use crate::context::Context;
use crate::dialer::Greeting;
use crate::inspect::Gate;
use crate::intercept::FlowFacts;
use crate::poller::Ready;
use crate::timers::Armed;

/// Bytes taken before the guest hears of it in the middle of a batch of frames, so that it need not stop for that.
const ACKNOWLEDGE_EVERY: u32 = 256 << 10;
/// Room for a guest whose bytes are looked into.
const INSPECTED_WINDOW: u32 = 64 << 10;
/// How long the guest waits for the host's proxy.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

pub(super) enum Stage {
    /// The host's connection is being made; the guest's SYN waits.
    Connecting {
        syn: Box<[u8]>,
        segment: Segment,
        fallback: Option<SocketAddr>,
        /// What has to be said first.
        greeting: Option<Box<dyn Greeting>>,
    },
    /// Both sides have a connection, or the guest's is being made.
    Open(Tcb),
}

pub(super) struct Flow {
    pub(super) tuple: Tuple,
    pub(super) stage: Stage,
    pub(super) upstream: Upstream,
    pub(super) armed: Armed,
    /// Whether it is on the table's list of flows to pump.
    pub(super) dirty: bool,
    pub(super) started: Instant,
    pub(super) from_guest: u64,
    pub(super) to_guest: u64,
    /// Whether this flow comes from a published port.
    pub(super) ingress: bool,
    /// What holds the guest's bytes back until they have said whom they are for.
    pub(super) gate: Option<Box<Gate>>,
    /// What was known of a flow of the guest's when it was allowed.
    pub(super) facts: Option<Box<FlowFacts>>,
    /// What the audit knows it by; none of questions to the gateway's resolver, which are told one by one.
    pub(super) subject: Option<Box<Subject>>,
    /// What the other side has not taken.
    pub(super) held: Held,
    /// For when the guest is done with it and the other side is not.
    orphan: Orphan,
    /// The other side was told that the guest sends no more.
    pub(super) told_upstream: bool,
    /// The other side sends no more.
    pub(super) upstream_done: bool,
}

/// What a turn came to.
pub(super) enum Pumped {
    /// Nothing more to do until something happens.
    Idle,
    /// Another turn is due: it used up its share.
    Again,
    /// It is over.
    Over(Outcome),
}

impl From<Broken> for Outcome {
    fn from(_: Broken) -> Self {
        Self::RemoteReset
    }
}

impl Flow {
    pub(super) fn new(tuple: Tuple, stage: Stage, upstream: Upstream, now: Instant) -> Self {
        Self {
            tuple,
            stage,
            upstream,
            armed: Armed::default(),
            dirty: false,
            started: now,
            from_guest: 0,
            to_guest: 0,
            ingress: false,
            gate: None,
            facts: None,
            subject: None,
            held: Held::default(),
            orphan: Orphan::default(),
            told_upstream: false,
            upstream_done: false,
        }
    }

    /// A flow whose other side is there already.
    pub(super) fn opened(tuple: Tuple, tcb: Tcb, mut upstream: Upstream, now: Instant) -> Self {
        upstream.open();
        Self::new(tuple, Stage::Open(tcb), upstream, now)
    }

    /// Whether no byte has moved yet.
    pub(super) fn is_untouched(&self) -> bool {
        self.from_guest == 0 && self.to_guest == 0
    }

    /// Whether the guest has not acknowledged everything it was sent.
    pub(super) fn is_in_flight(&self) -> bool {
        matches!(&self.stage, Stage::Open(tcb) if tcb.in_flight() > 0)
    }

    /// Remembers what the host's socket is ready for. An error ends an open flow.
    pub(super) fn ready(&mut self, ready: Ready) -> Result<(), Outcome> {
        let Upstream::Socket(socket) = &mut self.upstream else { return Ok(()) };
        socket.ready(ready);
        if ready.error && matches!(self.stage, Stage::Open(_)) {
            socket.check()?;
        }
        Ok(())
    }

    /// The host's connection stands, and so can the guest's.
    pub(super) fn open(&mut self, tcb: Tcb) {
        self.upstream.open();
        self.stage = Stage::Open(tcb);
    }

    /// Takes a segment of the guest.
    pub(super) fn on_segment(
        &mut self,
        context: &mut Context,
        segment: &Segment,
        payload: &[u8],
    ) -> Result<(), Outcome> {
        let Stage::Open(tcb) = &mut self.stage else { return Ok(()) };
        let (acknowledged, new, ends, is_early) = match tcb.on_segment(segment, context.now) {
            Arrival::Nothing => return Ok(()),
            Arrival::Stray => {
                segment.refuse(&mut context.uplink);
                return Ok(());
            }
            Arrival::Reset => return Err(Outcome::GuestReset),
            Arrival::Valid { acknowledged, payload, ends, is_early } => (acknowledged, payload, ends, is_early),
        };
        self.upstream.discard(to_usize(acknowledged), &mut context.scratch)?;
        let new = payload.get(new).unwrap_or_default();
        let count = self.take(context, new)?;
        let Stage::Open(tcb) = &mut self.stage else { return Ok(()) };
        tcb.accept(to_u32(count), ends && count == new.len(), context.now);
        if is_early || tcb.unacknowledged >= ACKNOWLEDGE_EVERY {
            self.open_window(context);
            self.acknowledge(context);
        }
        Ok(())
    }

    /// Moves what can be moved. Whole messages for the resolver are added to `questions`.
    pub(super) fn pump(&mut self, context: &mut Context, questions: &mut Vec<Vec<u8>>) -> Pumped {
        self.advance(context, questions).unwrap_or_else(Pumped::Over)
    }

    fn advance(&mut self, context: &mut Context, questions: &mut Vec<Vec<u8>>) -> Result<Pumped, Outcome> {
        let now = context.now;
        if let Some(gate) = &mut self.gate {
            gate.expire(now).map_err(|_| Outcome::Denied)?;
        }
        let tcb = match &mut self.stage {
            Stage::Open(tcb) => tcb,
            Stage::Connecting { greeting: Some(_), .. }
                if now.saturating_duration_since(self.started) >= CONNECT_TIMEOUT =>
            {
                return Err(Outcome::Unreachable);
            }
            Stage::Connecting { .. } => return Ok(Pumped::Idle),
        };
        let is_opening = tcb.state == State::SynSent;
        tcb.tick(now).map_err(|Gone| if is_opening { Outcome::Unreachable } else { Outcome::Idle })?;
        self.pump_out(context, questions)?;
        self.open_window(context);
        let more = self.pump_in(context)?;
        let Stage::Open(tcb) = &mut self.stage else { return Ok(Pumped::Idle) };
        if std::mem::take(&mut tcb.probe_due) {
            self.tuple.send(&mut context.uplink, &tcb.probe());
        }
        if tcb.must_acknowledge() {
            self.acknowledge(context);
        }
        Ok(if more { Pumped::Again } else { self.settle() })
    }

    fn acknowledge(&mut self, context: &mut Context) {
        let Stage::Open(tcb) = &mut self.stage else { return };
        self.tuple.send(&mut context.uplink, &tcb.ack_header());
        tcb.acknowledged();
    }

    /// Lets the guest send more once nothing is held.
    fn open_window(&mut self, context: &Context) {
        let Stage::Open(tcb) = &mut self.stage else { return };
        if self.held.is_empty() && !tcb.guest_is_done() {
            let is_plain = self.gate.is_none() && matches!(self.upstream, Upstream::Socket(_));
            let window = context.stalled.window();
            tcb.open_window(if is_plain { window } else { window.min(INSPECTED_WINDOW) });
        }
    }

    /// Nothing moves: is it over?
    fn settle(&self) -> Pumped {
        match &self.stage {
            Stage::Open(tcb) if tcb.is_over() && self.told_upstream => Pumped::Over(Outcome::Finished),
            _ => Pumped::Idle,
        }
    }

    /// Called about once a minute; true when it wants to be pumped.
    pub(super) fn look_after(&mut self, context: &mut Context) -> Result<bool, Outcome> {
        let Stage::Open(tcb) = &mut self.stage else { return Ok(false) };
        if let Upstream::Socket(socket) = &mut self.upstream {
            socket.settle(&mut context.scratch)?;
            socket.keep_alive();
        }
        if tcb.is_over() {
            // The guest has forgotten it already, and only what the other side does not take keeps it here.
            return if self.orphan.is_given_up(self.from_guest) { Err(Outcome::Idle) } else { Ok(false) };
        }
        tcb.keep_alive(context.now).map_err(|Gone| Outcome::Idle)
    }

    /// Ends both sides at once, each with a reset unless it is done already.
    pub(super) fn end(mut self, context: &mut Context, outcome: Outcome) {
        self.held.clear(&mut context.stalled);
        if let Upstream::Socket(socket) = &mut self.upstream {
            match outcome {
                // Should that fail, the other side has broken the connection off.
                Outcome::Finished => {
                    let _ = socket.settle(&mut context.scratch);
                }
                _ => socket.break_off(),
            }
        }
        match self.stage {
            // Of an unreachable remote the guest has heard by other means.
            Stage::Connecting { segment, .. } if !matches!(outcome, Outcome::GuestReset | Outcome::Unreachable) => {
                segment.refuse(&mut context.uplink);
            }
            // Whoever has heard both ends needs no reset, and nobody answers one.
            Stage::Open(tcb) if !matches!(outcome, Outcome::GuestReset | Outcome::Finished) => {
                self.tuple.send(&mut context.uplink, &tcb.reset());
            }
            _ => {}
        }
    }
}

pub(super) fn to_usize(count: u32) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}

pub(super) fn to_u32(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

pub(super) fn to_u64(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

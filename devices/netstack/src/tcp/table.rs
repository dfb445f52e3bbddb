//! All TCP flows of the guest: found by their 4-tuples, pumped when something happened to them, ended.

use std::collections::HashMap;
use std::hash::RandomState;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use policy::Protocol;

use super::dns_stream::Kept;
use super::flow::{Flow, Pumped, Stage};
use super::segment::{Segment, Tuple};
use super::upstream::Upstream;
use crate::audit::Outcome;
use crate::context::Context;
use crate::poller::{Owner, Ready};
use crate::slab::{Key, Slab};
use crate::timers::Armed;
use crate::wire::Packet;

/// Where ephemeral ports of the gateway begin (RFC 6335, 6).
pub(super) const FIRST_EPHEMERAL: u16 = 49_152;

/// Resolution of the timers of a flow.
const TICK: Duration = Duration::from_millis(1);
/// How often all flows are looked after, however quiet they are.
const ROUND: Duration = Duration::from_secs(60);

pub(crate) struct TcpTable {
    pub(super) flows: Slab<Flow>,
    pub(super) by_tuple: HashMap<Tuple, Key>,
    /// How many of them wait for the host's connection.
    pub(super) opening: usize,
    dirty: Vec<Key>,
    /// The port of the gateway that the next client of a published port gets.
    pub(super) next_port: u16,
    questions: Vec<(Key, Vec<u8>)>,
    /// What all connections to the resolver keep.
    pub(super) kept: Kept,
    /// How many flows come from published ports.
    pub(super) clients: usize,
    round: Armed,
    /// What nobody who is to guess a sequence number knows (RFC 6528).
    pub(super) secret: RandomState,
}

impl TcpTable {
    pub(crate) fn new() -> Self {
        Self {
            flows: Slab::new(),
            by_tuple: HashMap::new(),
            opening: 0,
            dirty: Vec::new(),
            next_port: FIRST_EPHEMERAL,
            questions: Vec::new(),
            kept: Kept::default(),
            clients: 0,
            round: Armed::default(),
            secret: RandomState::new(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.flows.len()
    }

    pub(crate) fn contains(&self, key: Key) -> bool {
        self.flows.contains(key)
    }

    /// Whether flows wait for their turn.
    pub(crate) fn has_work(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Takes a packet from the guest.
    pub(crate) fn on_packet(&mut self, context: &mut Context, packet: &Packet<'_>) {
        let Some((segment, payload)) = Segment::parse(packet) else { return };
        match self.by_tuple.get(&segment.tuple) {
            Some(&key) => self.feed(context, key, &segment, payload, packet),
            None if segment.opens() => self.open(context, segment, packet),
            None => segment.refuse(&mut context.uplink),
        }
    }

    fn feed(&mut self, context: &mut Context, key: Key, segment: &Segment, payload: &[u8], packet: &Packet<'_>) {
        let Some(flow) = self.flows.get_mut(key) else { return };
        if let Stage::Connecting { syn, segment: first, .. } = &mut flow.stage {
            if segment.is_reset() {
                self.end(context, key, Outcome::GuestReset);
            } else if segment.opens() && segment.payload == 0 {
                // The guest gave up and starts over with the same port, or repeats itself.
                (*syn, *first) = (packet.bytes.into(), *segment);
            }
            return;
        }
        match catch_unwind(AssertUnwindSafe(|| flow.on_segment(context, segment, payload))) {
            Ok(Ok(())) => self.mark(key),
            Ok(Err(outcome)) => self.finish(context, key, outcome),
            Err(_) => self.end_broken(context, key),
        }
    }

    pub(super) fn insert(&mut self, context: &mut Context, flow: Flow) {
        let tuple = flow.tuple;
        let key = self.flows.insert(flow);
        self.by_tuple.insert(tuple, key);
        context.timers.arm(&mut self.round, Owner::TcpRound.into(), context.now + ROUND);
        if let Some(Flow { upstream: Upstream::Socket(socket), .. }) = self.flows.get_mut(key)
            && let Err(error) = context.poller.add(socket.fd(), Owner::Tcp(key))
        {
            tracing::warn!(%error, "Connection cannot be watched");
            return self.end(context, key, Outcome::Failed);
        }
        self.mark(key);
    }

    /// The host's socket of a flow is ready for something.
    pub(crate) fn on_ready(&mut self, context: &mut Context, key: Key, ready: Ready) {
        let Some(flow) = self.flows.get_mut(key) else { return };
        match (flow.ready(ready), &flow.stage) {
            (Err(outcome), _) => self.end(context, key, outcome),
            (Ok(()), Stage::Connecting { .. }) if ready.writable => {
                if catch_unwind(AssertUnwindSafe(|| self.on_connected(context, key, ready))).is_err() {
                    self.end_broken(context, key);
                }
            }
            (Ok(()), Stage::Connecting { .. }) => {}
            (Ok(()), Stage::Open(_)) => self.mark(key),
        }
    }

    /// The resolver answers a question that came over TCP.
    pub(crate) fn on_answer(&mut self, key: Key, message: Option<&[u8]>) {
        if let Some(Flow { upstream: Upstream::Resolver(stream), .. }) = self.flows.get_mut(key) {
            stream.answer(message);
            self.mark(key);
        }
    }

    /// The questions that came over TCP since the last call.
    pub(crate) fn take_questions(&mut self) -> Vec<(Key, Vec<u8>)> {
        std::mem::take(&mut self.questions)
    }

    pub(crate) fn on_timer(&mut self, key: Key, at: Instant) {
        if self.flows.get_mut(key).is_some_and(|flow| flow.armed.fired(at)) {
            self.mark(key);
        }
    }

    pub(super) fn mark(&mut self, key: Key) {
        if let Some(flow) = self.flows.get_mut(key)
            && !std::mem::replace(&mut flow.dirty, true)
        {
            self.dirty.push(key);
        }
    }

    /// Gives every flow that something happened to its turn, as long as the guest takes frames.
    pub(crate) fn pump(&mut self, context: &mut Context) {
        for key in std::mem::take(&mut self.dirty) {
            // Whatever a flow or who is asked about it does, the flows behind it get their turn.
            if catch_unwind(AssertUnwindSafe(|| self.serve(context, key))).is_err() {
                self.end_broken(context, key);
            }
        }
    }

    fn serve(&mut self, context: &mut Context, key: Key) {
        let Some(flow) = self.flows.get_mut(key) else { return };
        flow.dirty = false;
        if context.uplink.is_blocked() {
            return self.mark(key);
        }
        let mut asked = Vec::new();
        let pumped = flow.pump(context, &mut asked);
        self.questions.extend(asked.into_iter().map(|question| (key, question)));
        self.attend(context, key);
        match pumped {
            Pumped::Idle if !context.uplink.is_blocked() => self.arm(context, key),
            Pumped::Idle | Pumped::Again => self.mark(key),
            Pumped::Over(outcome) => self.finish(context, key, outcome),
        }
    }

    fn arm(&mut self, context: &mut Context, key: Key) {
        if let Some(Flow { stage: Stage::Open(tcb), armed, gate, .. }) = self.flows.get_mut(key)
            && let Some(at) = sooner(tcb.clock.deadline(), gate.as_ref().and_then(|gate| gate.deadline()))
        {
            // What is due again at once still waits for the next tick.
            let at = at.max(context.now + TICK);
            context.timers.arm(armed, Owner::Tcp(key).into(), at);
        }
    }

    /// Cuts the flows that the policy of now does not allow.
    pub(crate) fn revoke(&mut self, context: &mut Context) {
        for key in self.flows.keys() {
            let Some(flow) = self.flows.get_mut(key) else { continue };
            let judged = matches!(flow.upstream, Upstream::Socket(_)) && !flow.ingress;
            let remote = flow.tuple.remote;
            let allowed = match flow.facts.as_ref().filter(|facts| facts.rests_on_names) {
                Some(facts) => context.allowed_for(Protocol::Tcp, remote, &facts.names),
                None => context.still_allowed(Protocol::Tcp, remote),
            };
            if judged && !allowed {
                self.end(context, key, Outcome::Revoked);
            }
        }
    }

    /// Ends every flow, with resets, since there will be no gateway any more.
    pub(crate) fn clear(&mut self, context: &mut Context) {
        for key in self.flows.keys() {
            self.end(context, key, Outcome::Stopped);
        }
    }

    /// Looks at every flow, also at those that nothing happens to.
    pub(crate) fn look_after(&mut self, context: &mut Context, at: Instant) {
        if !self.round.fired(at) {
            return;
        }
        for key in self.flows.keys() {
            let Some(flow) = self.flows.get_mut(key) else { continue };
            match catch_unwind(AssertUnwindSafe(|| flow.look_after(context))) {
                Ok(Ok(true)) => self.mark(key),
                Ok(Ok(false)) => {}
                Ok(Err(outcome)) => self.end(context, key, outcome),
                Err(_) => self.end_broken(context, key),
            }
        }
        if self.len() > 0 {
            context.timers.arm(&mut self.round, Owner::TcpRound.into(), context.now + ROUND);
        }
    }

    /// Ends a flow whose end came by itself.
    fn finish(&mut self, context: &mut Context, key: Key, outcome: Outcome) {
        if outcome != Outcome::GuestReset || !self.relay(context, key) {
            self.end(context, key, outcome);
        }
    }

    pub(super) fn end(&mut self, context: &mut Context, key: Key, outcome: Outcome) {
        if let Some(flow) = self.remove(context, key, outcome)
            && catch_unwind(AssertUnwindSafe(|| flow.end(context, outcome))).is_err()
        {
            tracing::warn!("Connection of the guest could not be reset");
        }
    }

    /// The gateway panicked on this flow: its state is worth nothing now. The guest hears with its next segment.
    fn end_broken(&mut self, context: &mut Context, key: Key) {
        tracing::warn!("Connection of the guest was ended by a fault of the gateway");
        if let Some(mut flow) = self.remove(context, key, Outcome::Failed) {
            flow.held.clear(&mut context.stalled);
        }
    }

    fn remove(&mut self, context: &mut Context, key: Key, outcome: Outcome) -> Option<Flow> {
        let flow = self.flows.remove(key)?;
        self.by_tuple.remove(&flow.tuple);
        if matches!(flow.stage, Stage::Connecting { .. }) {
            self.opening = self.opening.saturating_sub(1);
        }
        if flow.ingress {
            self.clients = self.clients.saturating_sub(1);
        }
        if let Some(subject) = &flow.subject {
            context.closed(subject, outcome, flow.started, flow.from_guest, flow.to_guest);
        }
        Some(flow)
    }
}

fn sooner(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    [one, other].into_iter().flatten().min()
}

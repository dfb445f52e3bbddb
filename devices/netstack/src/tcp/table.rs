//! All TCP flows of the guest.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use policy::{Name, Protocol};
use rustix::io::Errno;
use rustix::net::sockopt;

use super::dns_stream::DnsStream;
use super::flow::{CONNECT_TIMEOUT, Flow, Pumped, Stage};
use super::segment::{Segment, Tuple};
use super::sequence::Seq;
use super::state::Tcb;
use super::upstream::Upstream;
use crate::audit::{Event, Outcome, Subject};
use crate::config::Publish;
use crate::context::{Context, Decision, Grant};
use crate::dialer::Dialed;
use crate::intercept::{Handover, OnHello, handover_pair};
use crate::poller::{Owner, Ready};
use crate::slab::{Key, Slab};
use crate::timers::Armed;
use crate::wire::{Packet, Unreachable, unreachable};

/// Where ephemeral ports of the gateway begin (RFC 6335, 6).
const FIRST_EPHEMERAL: u16 = 49_152;
/// A client of a published port.
pub(crate) struct Client {
    pub(crate) socket: OwnedFd,
    pub(crate) address: SocketAddr,
    /// Which port it came by.
    pub(crate) port: Publish,
}

/// Resolution of the timers of a flow.
const TICK: Duration = Duration::from_millis(1);
/// How often all flows are looked after, however quiet they are.
const ROUND: Duration = Duration::from_secs(60);

pub(crate) struct TcpTable {
    flows: Slab<Flow>,
    by_tuple: HashMap<Tuple, Key>,
    connecting: usize,
    dirty: Vec<Key>,
    next_port: u16,
    questions: Vec<(Key, Vec<u8>)>,
    round: Armed,
    /// What nobody who is to guess a sequence number knows (RFC 6528).
    secret: RandomState,
}

impl TcpTable {
    pub(crate) fn new() -> Self {
        Self {
            flows: Slab::new(),
            by_tuple: HashMap::new(),
            connecting: 0,
            dirty: Vec::new(),
            next_port: FIRST_EPHEMERAL,
            questions: Vec::new(),
            round: Armed::default(),
            secret: RandomState::new(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.flows.len()
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
            } else if segment.opens() {
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

    /// Judges a new connection and starts it.
    fn open(&mut self, context: &mut Context, segment: Segment, packet: &Packet<'_>) {
        // No cookie was ever given out for data in a SYN (RFC 7413).
        if segment.payload > 0 {
            return;
        }
        let tuple = segment.tuple;
        if self.flows.len() >= context.limits.tcp_flows || self.connecting >= context.limits.tcp_connecting {
            context.limit("TCP connections");
            return segment.refuse(&mut context.uplink);
        }
        match context.decide(Protocol::Tcp, tuple.remote) {
            Decision::Ignore => {}
            Decision::Deny => segment.refuse(&mut context.uplink),
            Decision::Resolver => self.open_resolver(context, &segment),
            Decision::Dial { to, second, subject } => {
                let grant = context.grant(tuple.guest, tuple.remote);
                if grant.taken {
                    return self.open_taken(context, &segment, grant, subject);
                }
                match dial(context, to, second, &grant.facts.names) {
                    Ok((Dialed { socket, greeting }, fallback)) => {
                        let waits = greeting.is_some();
                        let stage = Stage::Connecting { syn: packet.bytes.into(), segment, fallback, greeting };
                        let mut flow = Flow::new(tuple, stage, Upstream::socket(socket), context.now);
                        flow.gate = grant.gate;
                        flow.facts = Some(Box::new(grant.facts));
                        flow.subject = Some(subject);
                        self.connecting += 1;
                        self.insert(context, flow);
                        if waits && let Some(&key) = self.by_tuple.get(&tuple) {
                            self.arm_greeting(context, key);
                        }
                    }
                    Err(error) => {
                        if is_exhausted(&error) {
                            context.limit_of(subject.number, "file descriptors");
                        } else {
                            context.closed(&subject, Outcome::Unreachable, context.now, 0, 0);
                        }
                        refuse(context, &segment, packet.bytes, &error);
                    }
                }
            }
        }
    }

    /// Brings a flow to the launcher, which wants it.
    fn open_taken(&mut self, context: &mut Context, segment: &Segment, grant: Grant, subject: Box<Subject>) {
        let Grant { facts, gate, .. } = grant;
        let (ours, stream) = match handover_pair() {
            Ok(pair) => pair,
            Err(error) => return tracing::warn!(%error, "Connection of the guest cannot be handed over"),
        };
        let mut flow =
            Flow::opened(segment.tuple, self.accepting(context, segment), Upstream::socket(ours), context.now);
        flow.gate = gate;
        flow.facts = Some(Box::new(facts.clone()));
        flow.subject = Some(subject);
        self.insert(context, flow);
        if let Some(interceptor) = &mut context.interceptor {
            interceptor.take(Handover { facts, stream, hello: None, upstream: None });
        }
    }

    /// Tells what the gate of a flow found out, asks who wants to be asked, and takes the gate down once it is open.
    fn attend(&mut self, context: &mut Context, key: Key) {
        let Some(flow) = self.flows.get_mut(key) else { return };
        let is_in_flight = flow.is_in_flight();
        let (Some(gate), Some(facts)) = (&mut flow.gate, &mut flow.facts) else { return };
        if let (Some(finding), Some(flow)) = (gate.take_finding(), &mut flow.subject) {
            let why = finding.denial.as_ref().map(ToString::to_string).unwrap_or_default();
            let (host, allow) = (finding.host.as_ref(), finding.denial.is_none());
            context.audit.record(context.now, &Event::Stream { flow, host, allow, why: &why });
            if facts.rests_on_names {
                facts.names = gate.names().to_vec();
                flow.names.clone_from(&facts.names);
            }
        }
        if let (Some(hello), Some(interceptor)) = (gate.question().cloned(), &mut context.interceptor) {
            // Whoever takes the connection over must not be shown what the guest has seen of it.
            if is_in_flight {
                return;
            }
            if interceptor.on_tls_client_hello(facts, &hello) == OnHello::Take {
                let handed = handover_pair()
                    .and_then(|(ours, stream)| context.poller.add(&ours, Owner::Tcp(key)).map(|()| (ours, stream)));
                let (ours, stream) = match handed {
                    Ok(pair) => pair,
                    Err(error) => {
                        tracing::warn!(%error, "Connection of the guest cannot be handed over");
                        return self.end(context, key, Outcome::Failed);
                    }
                };
                let mut ours = Upstream::socket(ours);
                ours.open();
                let Upstream::Socket(mut upstream) = std::mem::replace(&mut flow.upstream, ours) else { return };
                // Should that fail, the connection is broken, as whoever has it now will find.
                let _ = upstream.settle(&mut context.scratch);
                let (facts, hello, upstream) = (facts.as_ref().clone(), Some(hello), Some(upstream.into_fd()));
                interceptor.take(Handover { facts, stream, hello, upstream });
            }
            if let Some(gate) = &mut flow.gate {
                gate.open();
            }
            return self.mark(key);
        }
        if gate.is_open() {
            flow.gate = None;
        }
    }

    fn open_resolver(&mut self, context: &mut Context, segment: &Segment) {
        let upstream = Upstream::Resolver(DnsStream::default());
        let flow = Flow::opened(segment.tuple, self.accepting(context, segment), upstream, context.now);
        self.insert(context, flow);
    }

    /// Brings a client of a published port to the guest.
    pub(crate) fn publish(&mut self, context: &mut Context, client: Client, guest: SocketAddr) {
        if self.flows.len() >= context.limits.tcp_flows {
            return context.limit("TCP connections");
        }
        let Some(tuple) = self.free_tuple(context, guest) else { return };
        let tcb = self.connecting(context, &tuple);
        let mut flow = Flow::opened(tuple, tcb, Upstream::socket(client.socket), context.now);
        flow.ingress = true;
        flow.subject = Some(context.admit(client.address, client.port));
        self.insert(context, flow);
    }

    /// A connection that answers the guest's SYN.
    fn accepting(&self, context: &Context, segment: &Segment) -> Tcb {
        Tcb::accepting(segment, self.first_sequence(context, &segment.tuple), context.mtu, context.now)
    }

    /// A connection that begins with a SYN to the guest.
    fn connecting(&self, context: &Context, tuple: &Tuple) -> Tcb {
        Tcb::connecting(tuple, self.first_sequence(context, tuple), context.mtu, context.now)
    }

    /// Where a connection begins: a clock of 4 microseconds for each tuple, which nobody can set theirs by (RFC 9293, 3.4.1).
    fn first_sequence(&self, context: &Context, tuple: &Tuple) -> Seq {
        if cfg!(feature = "fuzz") {
            // A script gets past a handshake only if it can know what it has to acknowledge.
            return Seq(0);
        }
        let ticks = context.now.saturating_duration_since(context.epoch).as_micros() / 4;
        let low = |value: u64| u32::try_from(value & u64::from(u32::MAX)).unwrap_or(0);
        Seq(low(self.secret.hash_one(tuple))).plus(low(u64::try_from(ticks).unwrap_or(0)))
    }

    /// Brings a client that the guest refused to where the guest relays it; false if there is no such place.
    fn relay(&mut self, context: &mut Context, key: Key) -> bool {
        let refused = self.flows.get_mut(key).filter(|flow| flow.ingress && flow.is_untouched()).map(|flow| flow.tuple);
        let Some(refused) = refused else { return false };
        let Some(at) = context.relays.get(&refused.guest.port()) else { return false };
        let guest = SocketAddr::new(context.addresses.guest_v4.into(), *at);
        // A relay that refuses is not relayed in turn.
        if guest == refused.guest || context.relays.values().any(|at| *at == refused.guest.port()) {
            return false;
        }
        let Some(tuple) = self.free_tuple(context, guest) else { return false };
        let tcb = self.connecting(context, &tuple);
        let Some(flow) = self.flows.get_mut(key) else { return false };
        flow.tuple = tuple;
        flow.stage = Stage::Open(tcb);
        self.by_tuple.remove(&refused);
        self.by_tuple.insert(tuple, key);
        self.mark(key);
        true
    }

    /// A port of the gateway that has no connection with that port of the guest.
    fn free_tuple(&mut self, context: &Context, guest: SocketAddr) -> Option<Tuple> {
        for _ in FIRST_EPHEMERAL..=u16::MAX {
            let port = self.next_port;
            self.next_port = port.checked_add(1).unwrap_or(FIRST_EPHEMERAL);
            let tuple = Tuple { guest, remote: SocketAddr::new(context.addresses.gateway_for(guest.ip()), port) };
            if !self.by_tuple.contains_key(&tuple) {
                return Some(tuple);
            }
        }
        None
    }

    fn insert(&mut self, context: &mut Context, flow: Flow) {
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
            (Ok(()), Stage::Connecting { .. }) if ready.writable => self.on_connected(context, key),
            (Ok(()), Stage::Connecting { .. }) => {}
            (Ok(()), Stage::Open(_)) => self.mark(key),
        }
    }

    /// The host's connection stands or has failed: now the guest gets its answer.
    fn on_connected(&mut self, context: &mut Context, key: Key) {
        let Some(flow) = self.flows.get_mut(key) else { return };
        let (Stage::Connecting { syn, segment, fallback, greeting }, Upstream::Socket(socket)) =
            (&mut flow.stage, &mut flow.upstream)
        else {
            return;
        };
        if let Ok(Err(error)) = sockopt::socket_error(socket.fd()) {
            if let Some(second) = fallback.take()
                && let Ok(other) = context.dialer.tcp(second)
                && context.poller.add(&other, Owner::Tcp(key)).is_ok()
            {
                flow.upstream = Upstream::socket(other);
                return;
            }
            let (syn, segment) = (std::mem::take(syn), *segment);
            refuse(context, &segment, &syn, &error.into());
            return self.end(context, key, Outcome::Unreachable);
        }
        match greeting.as_mut().map(|greeting| greeting.advance(socket.fd())) {
            None | Some(Ok(true)) => {}
            Some(Ok(false)) => return,
            Some(Err(error)) => {
                let (syn, segment) = (std::mem::take(syn), *segment);
                refuse(context, &segment, &syn, &error);
                return self.end(context, key, Outcome::Unreachable);
            }
        }
        let segment = *segment;
        let tcb = self.accepting(context, &segment);
        let Some(flow) = self.flows.get_mut(key) else { return };
        flow.open(tcb);
        self.connecting = self.connecting.saturating_sub(1);
        self.mark(key);
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

    fn mark(&mut self, key: Key) {
        if let Some(flow) = self.flows.get_mut(key)
            && !std::mem::replace(&mut flow.dirty, true)
        {
            self.dirty.push(key);
        }
    }

    /// Gives every flow that something happened to its turn, as long as the guest takes frames.
    pub(crate) fn pump(&mut self, context: &mut Context) {
        let mut asked = Vec::new();
        for key in std::mem::take(&mut self.dirty) {
            let Some(flow) = self.flows.get_mut(key) else { continue };
            flow.dirty = false;
            if context.uplink.is_blocked() {
                self.mark(key);
                continue;
            }
            let pumped = catch_unwind(AssertUnwindSafe(|| flow.pump(context, &mut asked)));
            self.questions.extend(asked.drain(..).map(|question| (key, question)));
            self.attend(context, key);
            match pumped {
                Ok(Pumped::Idle) if !context.uplink.is_blocked() => self.arm(context, key),
                Ok(Pumped::Idle | Pumped::Again) => self.mark(key),
                Ok(Pumped::Over(outcome)) => self.finish(context, key, outcome),
                Err(_) => self.end_broken(context, key),
            }
        }
    }

    /// Wakes a flow up when it has waited for the host's proxy for long enough.
    fn arm_greeting(&mut self, context: &mut Context, key: Key) {
        if let Some(flow) = self.flows.get_mut(key) {
            context.timers.arm(&mut flow.armed, Owner::Tcp(key).into(), context.now + CONNECT_TIMEOUT);
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

    /// Ends every flow, with resets.
    pub(crate) fn clear(&mut self, context: &mut Context) {
        for key in self.flows.keys() {
            self.end(context, key, Outcome::Failed);
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

    fn end(&mut self, context: &mut Context, key: Key, outcome: Outcome) {
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
            self.connecting = self.connecting.saturating_sub(1);
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

fn dial(
    context: &mut Context,
    first: SocketAddr,
    second: Option<SocketAddr>,
    names: &[Name],
) -> io::Result<(Dialed, Option<SocketAddr>)> {
    match (context.dialer.tcp_flow(first, names), second) {
        (Ok(dialed), second) => Ok((dialed, second)),
        (Err(_), Some(second)) => context.dialer.tcp_flow(second, names).map(|dialed| (dialed, None)),
        (Err(error), None) => Err(error),
    }
}

/// Whether the host has no more descriptors, for this process or for all.
fn is_exhausted(error: &io::Error) -> bool {
    error.raw_os_error().is_some_and(|code| [Errno::MFILE, Errno::NFILE].map(Errno::raw_os_error).contains(&code))
}

/// Tells the guest why there is no connection.
fn refuse(context: &mut Context, segment: &Segment, syn: &[u8], error: &io::Error) {
    let why = match error.kind() {
        // The guest's own SYN timer tells it the same, at the same pace.
        io::ErrorKind::TimedOut => return,
        io::ErrorKind::NetworkUnreachable => Unreachable::Network,
        io::ErrorKind::HostUnreachable => Unreachable::Host,
        _ => return segment.refuse(&mut context.uplink),
    };
    let packet = unreachable(syn, segment.tuple.guest.ip(), &context.addresses, why);
    context.uplink.send_ip(packet.len(), None, |space| space.copy_from_slice(&packet));
}

//! How connections of the guest begin: judged, dialed, and answered when the host's connection stands or has failed.

use std::hash::BuildHasher;
use std::io;
use std::net::SocketAddr;

use policy::{Name, Protocol};
use rustix::io::Errno;
use rustix::net::sockopt;

use super::dns_stream::DnsStream;
use super::flow::{CONNECT_TIMEOUT, Flow, Stage};
use super::segment::{Segment, Tuple};
use super::sequence::Seq;
use super::state::Tcb;
use super::table::TcpTable;
use super::upstream::{Kind, Upstream};
use crate::audit::Outcome;
use crate::context::{Context, Decision};
use crate::dialer::Dialed;
use crate::poller::{Owner, Ready};
use crate::slab::Key;
use crate::wire::{Packet, Unreachable, unreachable};

impl TcpTable {
    /// Judges a new connection and starts it.
    pub(super) fn open(&mut self, context: &mut Context, segment: Segment, packet: &Packet<'_>) {
        // No cookie was ever given out for data in a SYN (RFC 7413).
        if segment.payload > 0 {
            return;
        }
        let tuple = segment.tuple;
        if self.flows.len() >= context.limits.tcp_flows || self.opening >= context.limits.tcp_connecting {
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
                        let mut flow =
                            Flow::new(tuple, stage, Upstream::socket(socket, dialed_kind(context)), context.now);
                        flow.gate = grant.gate;
                        flow.facts = Some(Box::new(grant.facts));
                        flow.subject = Some(subject);
                        self.opening += 1;
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

    fn open_resolver(&mut self, context: &mut Context, segment: &Segment) {
        let upstream = Upstream::Resolver(DnsStream::new(self.kept.clone()));
        let flow = Flow::opened(segment.tuple, self.accepting(context, segment), upstream, context.now);
        self.insert(context, flow);
    }

    /// The host's connection stands or has failed: now the guest gets its answer.
    pub(super) fn on_connected(&mut self, context: &mut Context, key: Key, ready: Ready) {
        let Some(flow) = self.flows.get_mut(key) else { return };
        let (Stage::Connecting { syn, segment, fallback, greeting }, Upstream::Socket(socket)) =
            (&mut flow.stage, &mut flow.upstream)
        else {
            return;
        };
        // A connection that stands says so and nothing else.
        if (ready.error || ready.ended)
            && let Ok(Err(error)) = sockopt::socket_error(socket.fd())
        {
            if let Some(second) = fallback.take()
                && let Ok(other) = context.dialer.tcp(second)
                && context.poller.add(&other, Owner::Tcp(key)).is_ok()
            {
                flow.upstream = Upstream::socket(other, dialed_kind(context));
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
        self.opening = self.opening.saturating_sub(1);
        self.mark(key);
    }

    /// A connection that answers the guest's SYN.
    pub(super) fn accepting(&self, context: &Context, segment: &Segment) -> Tcb {
        Tcb::accepting(segment, self.first_sequence(context, &segment.tuple), context.mtu, context.now)
    }

    /// A connection that begins with a SYN to the guest.
    pub(super) fn connecting(&self, context: &Context, tuple: &Tuple) -> Tcb {
        Tcb::connecting(tuple, self.first_sequence(context, tuple), context.mtu, context.now)
    }

    /// Where a connection begins: a clock of 4 microseconds for each tuple, which nobody can set theirs by (RFC 9293,
    /// 3.4.1).
    fn first_sequence(&self, context: &Context, tuple: &Tuple) -> Seq {
        if cfg!(feature = "fuzz") {
            // A script gets past a handshake only if it can know what it has to acknowledge.
            return Seq(0);
        }
        let ticks = context.now.saturating_duration_since(context.epoch).as_micros() / 4;
        let low = |value: u64| u32::try_from(value & u64::from(u32::MAX)).unwrap_or(0);
        Seq(low(self.secret.hash_one(tuple))).plus(low(u64::try_from(ticks).unwrap_or(0)))
    }

    /// Wakes a flow up when it has waited for the host's proxy for long enough.
    fn arm_greeting(&mut self, context: &mut Context, key: Key) {
        if let Some(flow) = self.flows.get_mut(key) {
            context.timers.arm(&mut flow.armed, Owner::Tcp(key).into(), context.now + CONNECT_TIMEOUT);
        }
    }
}

/// What the sockets are that flows are opened with.
fn dialed_kind(context: &Context) -> Kind {
    if context.dialer.gives_tcp() { Kind::Tcp } else { Kind::Unknown }
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

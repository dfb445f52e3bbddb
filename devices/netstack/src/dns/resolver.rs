//! Questions on their way to the host's resolvers and back.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use policy::Reason;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send, sockopt};
use rustix::rand::{GetRandomFlags, getrandom};

use super::allowance::Allowance;
use super::cache::Cache;
use super::message::{Answer, Query, Rcode, parse_query};
use super::servers::Servers;
use super::special;
use crate::audit::Event;
use crate::config::Resolvers;
use crate::context::Context;
use crate::poller::{Owner, Ready};
use crate::slab::{Key, Slab};
use crate::timers::Armed;

/// How long one server gets, and how many tries there are in all: less than the five seconds of patience that the
/// guest's own resolver has.
const PATIENCE: Duration = Duration::from_millis(1500);
const MAX_TRIES: usize = 3;
const MAX_MESSAGE: usize = 65_535;

/// Who asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A datagram, to the server the guest thinks it asks.
    Udp { guest: SocketAddr, server: SocketAddr },
    /// A connection.
    Tcp(Key),
}

/// An answer that is ready for the guest; none when the question deserved none.
pub(crate) struct Reply {
    pub(crate) origin: Origin,
    pub(crate) message: Option<Vec<u8>>,
}

/// How a server is being asked.
enum Transport {
    Udp(OwnedFd),
    Tcp { fd: OwnedFd, unsent: Vec<u8>, received: Vec<u8> },
}

struct Exchange {
    /// The audit's.
    number: u64,
    origin: Origin,
    query: Query,
    id: u16,
    tries: usize,
    transport: Option<Transport>,
    deadline: Instant,
    armed: Armed,
}

/// The questions in flight.
pub(crate) struct Resolver {
    servers: Servers,
    exchanges: Slab<Exchange>,
    replies: Vec<Reply>,
    cache: Cache,
    /// The servers that the cached answers come from.
    cached_from: Vec<SocketAddr>,
    allowance: Option<Allowance>,
    buffer: Box<[u8]>,
}

/// What a server has come up with.
enum Heard {
    /// Nothing yet.
    Nothing,
    /// A message.
    Message(Vec<u8>),
    /// It will not answer.
    Failure,
}

impl Resolver {
    pub(crate) fn new(source: Resolvers) -> Self {
        Self {
            servers: Servers::new(source),
            exchanges: Slab::new(),
            replies: Vec::new(),
            cache: Cache::default(),
            cached_from: Vec::new(),
            allowance: None,
            buffer: vec![0; MAX_MESSAGE].into_boxed_slice(),
        }
    }

    /// The servers that are asked now.
    pub(crate) fn servers(&mut self) -> Vec<SocketAddr> {
        self.servers.current().to_vec()
    }

    /// Forgets what it has heard: it was judged by rules that hold no more.
    pub(crate) fn forget(&mut self) {
        self.cache.clear();
    }

    /// The answers that became ready since the last call.
    pub(crate) fn take_replies(&mut self) -> Vec<Reply> {
        std::mem::take(&mut self.replies)
    }

    /// Takes a question of the guest.
    pub(crate) fn ask(&mut self, context: &mut Context, origin: Origin, message: &[u8]) {
        let query = match parse_query(message) {
            None => return self.replies.push(Reply { origin, message: None }),
            Some(Err(refusal)) => {
                return self.replies.push(Reply { origin, message: Some(refusal.to_bytes()) });
            }
            Some(Ok(query)) => query,
        };
        let verdict = context.policy.evaluate_name(&query.name);
        let number = context.audit.number();
        let (name, kind) = (query.name.as_str(), query.kind);
        let event = Event::Question { number, name, kind, allow: verdict.allow, rule: verdict.rule };
        context.audit.record(context.now, &event);
        if !verdict.allow {
            return self.replies.push(Reply { origin, message: Some(query.fail(Rcode::Refused)) });
        }
        if let Some(answer) = self.answer_alone(context, &query) {
            return self.finish(context, number, &query, origin, &answer);
        }
        let free = context.policy.free_bytes(&query.name);
        if !self.allowance.get_or_insert_with(|| Allowance::new(context.now)).spend(&query.name, free, context.now) {
            context.limit_of(number, "DNS names below an allowed suffix");
            return self.replies.push(Reply { origin, message: Some(query.fail(Rcode::Refused)) });
        }
        if self.exchanges.len() >= context.limits.dns_in_flight {
            context.limit_of(number, "DNS questions in flight");
            return self.replies.push(Reply { origin, message: Some(query.fail(Rcode::ServFail)) });
        }
        let key = self.exchanges.insert(Exchange {
            number,
            origin,
            query,
            id: 0,
            tries: 0,
            transport: None,
            deadline: context.now,
            armed: Armed::default(),
        });
        self.try_next(context, key);
    }

    /// What the gateway knows without asking anybody.
    fn answer_alone(&mut self, context: &Context, query: &Query) -> Option<Answer> {
        let name = &query.name;
        let by_rule = matches!(context.policy.evaluate_name(name).reason, Reason::NameRule { .. });
        // What nobody spelled out in a rule is not looked for in the host's neighbourhood.
        if special::is_local(name) || (!by_rule && special::is_bare(name)) {
            return Some(Answer::nothing(Rcode::NxDomain));
        }
        if !by_rule && special::is_reverse(name) {
            let known = special::reversed(name).filter(|address| {
                !context.addresses.is_on_link(*address) && context.policy.evaluate_address_alone(*address, &context.own)
            });
            if known.is_none() {
                return Some(Answer::nothing(Rcode::NxDomain));
            }
        }
        if query.is_aaaa() && !context.ipv6 {
            return Some(Answer::nothing(Rcode::NoError));
        }
        let servers = self.servers.current();
        if servers != self.cached_from {
            self.cached_from = servers.to_vec();
            self.cache.clear();
        }
        self.cache.get(query, context.now)
    }

    /// Asks the next server, or gives up.
    fn try_next(&mut self, context: &mut Context, key: Key) {
        loop {
            let Some(exchange) = self.exchanges.get_mut(key) else { return };
            exchange.transport = None;
            let servers = self.servers.current();
            let server = servers.get(exchange.tries.checked_rem(servers.len()).unwrap_or(0)).copied();
            let (Some(server), true) = (server, exchange.tries < MAX_TRIES) else { break };
            exchange.tries += 1;
            if start(context, exchange, server, key).is_ok() {
                return;
            }
        }
        if let Some(exchange) = self.exchanges.remove(key) {
            let message = Some(exchange.query.fail(Rcode::ServFail));
            self.replies.push(Reply { origin: exchange.origin, message });
        }
    }

    pub(crate) fn on_ready(&mut self, context: &mut Context, key: Key, _ready: Ready) {
        loop {
            let Some(exchange) = self.exchanges.get_mut(key) else { return };
            let Some(transport) = &mut exchange.transport else { return };
            let (over_tcp, heard) = match transport {
                Transport::Udp(fd) => (false, hear_udp(fd, &mut self.buffer)),
                Transport::Tcp { fd, unsent, received } => (true, hear_tcp(fd, unsent, received, &mut self.buffer)),
            };
            match heard {
                Heard::Nothing => return,
                Heard::Failure => return self.try_next(context, key),
                Heard::Message(message) => {
                    let (query, own, policy) = (&exchange.query, &context.own, &context.policy);
                    let allows = |address| policy.evaluate_answer(&query.name, address, own).allow;
                    let by_rule = matches!(policy.evaluate_name(&query.name).reason, Reason::NameRule { .. });
                    let plain = by_rule || context.interceptor.is_some();
                    match query.accept(&message, exchange.id, plain, allows) {
                        Ok(answer) if matches!(answer.rcode, Rcode::ServFail | Rcode::Refused) => {
                            return self.try_next(context, key);
                        }
                        Ok(answer) => return self.on_answer(context, key, answer),
                        Err(_) if over_tcp => return self.try_next(context, key),
                        // Not for us; the right answer may still come.
                        Err(_) => {}
                    }
                }
            }
        }
    }

    fn on_answer(&mut self, context: &mut Context, key: Key, mut answer: Answer) {
        let Some(Exchange { number, query, origin, .. }) = self.exchanges.remove(key) else { return };
        // A name that was denied outright does not come back in under an alias.
        let denied = answer.aliases.iter().any(|alias| {
            let verdict = context.policy.evaluate_name(alias);
            !verdict.allow && matches!(verdict.reason, Reason::NameRule { .. } | Reason::MetadataName)
        });
        if denied {
            let withheld = answer.withheld + answer.addresses.len();
            answer = Answer::nothing(Rcode::NxDomain);
            answer.withheld = withheld.max(1);
        }
        self.cache.insert(&query, &answer, context.now);
        self.finish(context, number, &query, origin, &answer);
    }

    fn finish(&mut self, context: &mut Context, number: u64, query: &Query, origin: Origin, answer: &Answer) {
        for (address, lifetime) in &answer.addresses {
            context.pins.insert(&query.name, *address, *lifetime, context.now);
        }
        if answer.withheld > 0 {
            let event = Event::Withheld { number, name: query.name.as_str(), count: answer.withheld };
            context.audit.record(context.now, &event);
        }
        let over_udp = matches!(origin, Origin::Udp { .. });
        self.replies.push(Reply { origin, message: Some(query.answer(answer, over_udp)) });
    }

    pub(crate) fn on_timer(&mut self, context: &mut Context, key: Key, at: Instant) {
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        if !exchange.armed.fired(at) {
            return;
        }
        if exchange.deadline > context.now {
            context.timers.arm(&mut exchange.armed, Owner::Dns(key).into(), exchange.deadline);
        } else {
            self.try_next(context, key);
        }
    }
}

/// Sends the question to `server`, the way it came: over TCP when the guest wants an answer of any length.
fn start(context: &mut Context, exchange: &mut Exchange, server: SocketAddr, key: Key) -> Result<(), Errno> {
    let failed = |error: std::io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
    let mut id = [0; 2];
    getrandom(&mut id, GetRandomFlags::empty())?;
    exchange.id = u16::from_ne_bytes(id);
    let message = exchange.query.to_upstream(exchange.id);
    let transport = match exchange.origin {
        Origin::Udp { .. } => {
            let fd = context.dialer.udp(server).map_err(failed)?;
            send(&fd, &message, SendFlags::NOSIGNAL)?;
            context.poller.add(&fd, Owner::Dns(key)).map_err(failed)?;
            Transport::Udp(fd)
        }
        Origin::Tcp(_) => {
            let fd = context.dialer.tcp(server).map_err(failed)?;
            context.poller.add(&fd, Owner::Dns(key)).map_err(failed)?;
            let len = u16::try_from(message.len()).map_err(|_| Errno::MSGSIZE)?;
            let unsent = len.to_be_bytes().into_iter().chain(message).collect();
            Transport::Tcp { fd, unsent, received: Vec::new() }
        }
    };
    exchange.transport = Some(transport);
    exchange.deadline = context.now + PATIENCE;
    context.timers.arm(&mut exchange.armed, Owner::Dns(key).into(), exchange.deadline);
    Ok(())
}

fn hear_udp(fd: &OwnedFd, buffer: &mut [u8]) -> Heard {
    match recv(fd, &mut *buffer, RecvFlags::empty()) {
        Ok((_, count)) => Heard::Message(buffer.get(..count).unwrap_or_default().to_vec()),
        Err(Errno::AGAIN) => Heard::Nothing,
        Err(_) => Heard::Failure,
    }
}

fn hear_tcp(fd: &OwnedFd, unsent: &mut Vec<u8>, received: &mut Vec<u8>, buffer: &mut [u8]) -> Heard {
    if matches!(sockopt::socket_error(fd), Ok(Err(_)) | Err(_)) {
        return Heard::Failure;
    }
    while !unsent.is_empty() {
        match send(fd, unsent, SendFlags::NOSIGNAL) {
            Ok(count) => drop(unsent.drain(..count)),
            Err(Errno::AGAIN | Errno::NOTCONN) => return Heard::Nothing,
            Err(_) => return Heard::Failure,
        }
    }
    loop {
        if let Some(&len) = received.first_chunk::<2>()
            && let Some(message) = received.get(2..2 + usize::from(u16::from_be_bytes(len)))
        {
            return Heard::Message(message.to_vec());
        }
        match recv(fd, &mut *buffer, RecvFlags::empty()) {
            Ok((_, 0)) => return Heard::Failure,
            Ok((_, count)) => received.extend_from_slice(buffer.get(..count).unwrap_or_default()),
            Err(Errno::AGAIN) => return Heard::Nothing,
            Err(_) => return Heard::Failure,
        }
    }
}

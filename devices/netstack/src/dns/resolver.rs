//! Questions on their way to the host's resolvers and back.

use std::net::SocketAddr;
use std::time::Instant;

use policy::Reason;

use super::allowance::Allowance;
use super::cache::Cache;
use super::exchange::{Exchange, Heard, Origin};
use super::message::{Answer, Query, Rcode, parse_query};
use super::servers::Servers;
use super::special;
use crate::audit::Event;
use crate::config::Resolvers;
use crate::context::Context;
use crate::poller::{Owner, Ready};
use crate::slab::{Key, Slab};

/// How many tries there are in all: they take less than the five seconds of patience that the guest's own resolver has.
const MAX_TRIES: usize = 3;
const MAX_MESSAGE: usize = 65_535;

/// An answer that is ready for the guest; none when the question deserved none.
pub(crate) struct Reply {
    pub(crate) origin: Origin,
    pub(crate) message: Option<Vec<u8>>,
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

    /// Whether a question is still in flight.
    pub(crate) fn contains(&self, key: Key) -> bool {
        self.exchanges.contains(key)
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
        let key = self.exchanges.insert(Exchange::new(number, origin, query, context.now));
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
            exchange.hang_up();
            let servers = self.servers.current();
            let server = servers.get(exchange.tries.checked_rem(servers.len()).unwrap_or(0)).copied();
            let (Some(server), true) = (server, exchange.tries < MAX_TRIES) else { break };
            exchange.tries += 1;
            if exchange.start(context, server, key).is_ok() {
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
            match exchange.hear(&mut self.buffer) {
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
                        Err(_) if exchange.has_heard_enough() => return self.try_next(context, key),
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

//! What all parts of the gateway share.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::Instant;

use policy::{Class, Flow, HostAddresses, Name, Policy, Protocol, Reason};
use virtio::RateLimit;

use crate::audit::{Audit, Event, Outcome, Subject};
use crate::config::{Addresses, Limits, Publish, Transport};
use crate::dialer::Dialer;
use crate::dns::Pins;
use crate::drops::Drops;
use crate::inspect::{Budget, Gate, StreamChecks, Terms};
use crate::intercept::{FlowFacts, Interceptor, OnConnect};
use crate::poller::Poller;
use crate::tcp::Stalled;
use crate::timers::Timers;
use crate::uplink::Uplink;

#[derive(Debug)]
pub(crate) struct Context {
    /// When the current round of the loop began.
    pub(crate) now: Instant,
    /// When the gateway began.
    pub(crate) epoch: Instant,
    pub(crate) addresses: Addresses,
    pub(crate) mtu: u16,
    pub(crate) limits: Limits,
    pub(crate) poller: Poller,
    pub(crate) timers: Timers,
    pub(crate) uplink: Uplink,
    pub(crate) audit: Audit,
    pub(crate) dialer: Box<dyn Dialer>,
    pub(crate) policy: Policy,
    /// Where the host itself answers.
    pub(crate) own: HostAddresses,
    pub(crate) pins: Pins,
    /// By port of the guest: the port at which something in the guest passes connections on to its loopback.
    pub(crate) relays: HashMap<u16, u16>,
    pub(crate) complaint: RateLimit,
    /// What the guest's connections wait to be rid of.
    pub(crate) stalled: Stalled,
    /// Where bytes go that are only to be passed over.
    pub(crate) scratch: Box<[u8]>,
    pub(crate) crowd: RateLimit,
    /// Whether the guest is told of IPv6 addresses.
    pub(crate) ipv6: bool,
    pub(crate) checks: StreamChecks,
    /// Bytes that streams may hold back until they are judged.
    pub(crate) held: Budget,
    pub(crate) interceptor: Option<Box<dyn Interceptor>>,
    pub(crate) drops: Drops,
}

/// What a TCP flow that may exist has to keep to.
#[derive(Debug)]
pub(crate) struct Grant {
    pub(crate) facts: FlowFacts,
    /// What reads its first bytes, if somebody has to.
    pub(crate) gate: Option<Box<Gate>>,
    /// Whether the launcher has it, and not the world.
    pub(crate) taken: bool,
}

/// What becomes of a flow that the guest wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Decision {
    /// The gateway's resolver answers, whatever server the guest had in mind.
    Resolver,
    /// Open it to the first of these addresses that answers.
    Dial { to: SocketAddr, second: Option<SocketAddr>, subject: Box<Subject> },
    /// Tell the guest no.
    Deny,
    /// No packet with this destination belongs on the link: say nothing.
    Ignore,
}

/// Port of HTTP/3.
const QUIC: u16 = 443;
/// Port of DNS over UDP and TCP.
const DNS: u16 = 53;

impl Context {
    /// Judges a flow and tells the audit about it.
    pub(crate) fn decide(&mut self, protocol: Protocol, remote: SocketAddr) -> Decision {
        let address = remote.ip();
        let is_gateway = self.addresses.is_gateway(address);
        if !is_gateway && (is_martian(address) || self.addresses.is_on_link(address.to_canonical())) {
            self.drops.harmless("destination that no packet on the link may have");
            return Decision::Ignore;
        }
        if protocol != Protocol::Icmp && remote.port() == DNS {
            return Decision::Resolver;
        }
        let names = self.pins.names(address, self.now);
        let flow = match is_gateway {
            true => Flow::to_host(protocol, remote.port()),
            false => Flow::egress(protocol, address, &names, remote.port()),
        };
        let mut verdict = self.policy.evaluate(&flow, &self.own);
        if self.is_hidden(protocol, remote) {
            verdict.allow = false;
            verdict.rule = "QUIC is denied while connections are intercepted";
        }
        let (allow, rule, number) = (verdict.allow, verdict.rule.to_owned(), self.audit.number());
        let subject = Subject { number, protocol, remote, port: None, names, rule };
        self.audit.record(self.now, &Event::Verdict { flow: &subject, allow });
        if !allow {
            return Decision::Deny;
        }
        let (to, second) = match is_gateway {
            true => of_host(remote),
            false => (SocketAddr::new(address.to_canonical(), remote.port()), None),
        };
        Decision::Dial { to, second, subject: Box::new(subject) }
    }

    /// Tells the audit about a client of a published port; the port is its verdict.
    pub(crate) fn admit(&mut self, client: SocketAddr, port: Publish) -> Box<Subject> {
        let protocol = match port.transport {
            Transport::Tcp => Protocol::Tcp,
            Transport::Udp => Protocol::Udp,
        };
        let (number, rule) = (self.audit.number(), "published port".to_owned());
        let subject = Subject { number, protocol, remote: client, port: Some(port), names: Vec::new(), rule };
        self.audit.record(self.now, &Event::Verdict { flow: &subject, allow: true });
        Box::new(subject)
    }

    /// Tells the audit how a flow ended that began at `started`.
    pub(crate) fn closed(&mut self, flow: &Subject, outcome: Outcome, started: Instant, sent: u64, received: u64) {
        let duration = self.now.saturating_duration_since(started);
        self.audit.record(self.now, &Event::Closed { flow, outcome, sent, received, duration });
    }

    /// What a TCP flow that was just allowed has to keep to.
    pub(crate) fn grant(&mut self, guest: SocketAddr, remote: SocketAddr) -> Grant {
        let address = remote.ip();
        let mut facts = FlowFacts { guest, remote, names: Vec::new(), rests_on_names: false };
        if self.addresses.is_gateway(address) {
            return Grant { facts, gate: None, taken: false };
        }
        let pinned = self.pins.names(address, self.now);
        let flow = Flow::egress(Protocol::Tcp, address, &pinned, remote.port());
        facts.rests_on_names = self.policy.rests_on_names(&flow, &self.own);
        let mut port = None;
        facts.names = pinned;
        facts.names.retain(|name| {
            let flow = Flow::egress(Protocol::Tcp, address, std::slice::from_ref(name), remote.port());
            let verdict = self.policy.evaluate(&flow, &self.own);
            if let Reason::NameRule { port: Some(named) } = verdict.reason {
                port = Some(named);
            }
            verdict.allow
        });
        let wish = self.interceptor.as_mut().map_or(OnConnect::Pass, |interceptor| interceptor.on_connect(&facts));
        let watched = wish == OnConnect::Watch;
        let gate = (facts.rests_on_names || watched).then(|| {
            let terms = Terms { names: facts.names.clone(), bound: facts.rests_on_names, port, watched };
            Box::new(Gate::new(terms, self.checks, self.held.clone()))
        });
        Grant { facts, gate, taken: wish == OnConnect::Take }
    }

    /// A socket for datagrams to `remote`, which was allowed.
    pub(crate) fn dial_udp(&mut self, remote: SocketAddr) -> io::Result<OwnedFd> {
        let names = self.pins.names(remote.ip(), self.now);
        self.dialer.udp_flow(remote, &names)
    }

    /// Whether nobody can look into a flow although somebody is to. A client that hears no takes TLS over TCP instead.
    fn is_hidden(&self, protocol: Protocol, remote: SocketAddr) -> bool {
        let is_quic = protocol == Protocol::Udp && remote.port() == QUIC;
        is_quic && self.interceptor.is_some() && !self.addresses.is_gateway(remote.ip())
    }

    /// Whether a flow that exists would be allowed under the policy of now.
    pub(crate) fn still_allowed(&self, protocol: Protocol, remote: SocketAddr) -> bool {
        self.allowed_for(protocol, remote, &self.pins.names(remote.ip(), self.now))
    }

    /// Likewise, for the sake of `names`: a flow outlives the pins that it was opened under.
    pub(crate) fn allowed_for(&self, protocol: Protocol, remote: SocketAddr, names: &[Name]) -> bool {
        let flow = match self.addresses.is_gateway(remote.ip()) {
            true => Flow::to_host(protocol, remote.port()),
            false => Flow::egress(protocol, remote.ip(), names, remote.port()),
        };
        self.policy.evaluate(&flow, &self.own).allow && !self.is_hidden(protocol, remote)
    }

    /// Tells the log that a part of the gateway failed and was given up; the rest goes on.
    pub(crate) fn fault(&mut self, what: &'static str) {
        if self.complaint.allow() {
            tracing::error!("{what} of the guest hit a fault of the gateway and was dropped");
        }
    }

    /// Tells the audit that something new was refused for the sake of a limit.
    pub(crate) fn limit(&mut self, what: &'static str) {
        let number = self.audit.number();
        self.limit_of(number, what);
    }

    /// Tells the audit that a flow or a question met a limit.
    pub(crate) fn limit_of(&mut self, number: u64, what: &'static str) {
        if self.crowd.allow() {
            tracing::warn!(what, "The guest uses as many as it may; more are refused, or replace those idle longest");
        }
        self.audit.record(self.now, &Event::Limit { number, what });
    }
}

/// The gateway's address stands for the host's loopback, of which services may listen on only one family.
fn of_host(remote: SocketAddr) -> (SocketAddr, Option<SocketAddr>) {
    let v4 = SocketAddr::new(std::net::Ipv4Addr::LOCALHOST.into(), remote.port());
    let v6 = SocketAddr::new(std::net::Ipv6Addr::LOCALHOST.into(), remote.port());
    if remote.is_ipv4() { (v4, Some(v6)) } else { (v6, Some(v4)) }
}

fn is_martian(address: IpAddr) -> bool {
    matches!(Class::of(address), Class::Loopback | Class::Unspecified | Class::Multicast | Class::Broadcast)
}

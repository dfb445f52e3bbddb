//! A whole policy, and what it says.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::rule::Asked;
use crate::{Action, Class, Direction, Flow, HostAddresses, Name, Preset, Protocol, Reason, Rule, Target};

/// Names of metadata services; their addresses are denied too.
const METADATA_NAMES: [&str; 7] = [
    "metadata.google.internal",
    "metadata.goog",
    "instance-data",
    "instance-data.ec2.internal",
    "metadata.tencentyun.com",
    "metadata.platformequinix.com",
    "metadata.packet.net",
];

/// The answer to one question, with the rule that gave it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict<'p> {
    /// Whether it may be.
    pub allow: bool,
    /// The rule that decided, for logs and for people.
    pub rule: &'p str,
    /// Why that rule was the one.
    pub reason: Reason,
}

impl<'p> Verdict<'p> {
    fn allow(rule: &'p str, reason: Reason) -> Self {
        Self { allow: true, rule, reason }
    }

    fn deny(rule: &'p str, reason: Reason) -> Self {
        Self { allow: false, rule, reason }
    }

    fn by_rule(rule: &'p Rule) -> Self {
        Self { allow: rule.action() == Action::Allow, rule: rule.text(), reason: rule.reason() }
    }
}

/// Ordered rules over a preset.
///
/// Order of judgement: what nothing opens (the host's own addresses, loopback, multicast, ...), then the rules in
/// their order, then `lan`, then the preset.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Policy {
    preset: Preset,
    rules: Vec<Rule>,
    lan: bool,
    host: HostPorts,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
enum HostPorts {
    #[default]
    Closed,
    Some(BTreeSet<u16>),
    All,
}

impl Policy {
    /// A policy without rules.
    pub fn new(preset: Preset) -> Self {
        Self { preset, ..Self::default() }
    }

    /// Adds a rule behind those already there.
    pub fn push(&mut self, rule: Rule) {
        self.rules.push(rule);
    }

    /// Opens private networks (10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16, fc00::/7).
    pub fn allow_lan(&mut self) {
        self.lan = true;
    }

    /// Opens one port of the host's loopback, or all of them, at the gateway's address.
    pub fn allow_host(&mut self, port: Option<u16>) {
        match (port, &mut self.host) {
            (None, host) => *host = HostPorts::All,
            (Some(_), HostPorts::All) => {}
            (Some(port), HostPorts::Some(ports)) => {
                ports.insert(port);
            }
            (Some(port), host @ HostPorts::Closed) => *host = HostPorts::Some(BTreeSet::from([port])),
        }
    }

    /// Whether `flow` may exist, on a host that answers at `own`.
    pub fn evaluate(&self, flow: &Flow<'_>, own: &HostAddresses) -> Verdict<'_> {
        match (flow.direction, flow.target) {
            // A published port has a listener only because the user asked for it.
            (Direction::Ingress, _) => Verdict::allow("published port", Reason::Published),
            (Direction::Egress, Target::Host) => self.evaluate_host(flow.port),
            (Direction::Egress, Target::Address { address, names }) => {
                self.evaluate_address(&Asked::new(address, names, flow.protocol, Some(flow.port)), own)
            }
        }
    }

    /// Whether `flow` may exist only because of the names that vouch for its address: then whatever it says about the
    /// host it is for has to be one of them.
    pub fn rests_on_names(&self, flow: &Flow<'_>, own: &HostAddresses) -> bool {
        let Target::Address { address, names } = flow.target else { return false };
        if names.is_empty() {
            return false;
        }
        let nameless = Flow { target: Target::Address { address, names: &[] }, ..*flow };
        self.evaluate(flow, own).allow && !self.evaluate(&nameless, own).allow
    }

    /// Whether `name` may be asked of the host's resolvers: the question alone already tells somebody something.
    pub fn evaluate_name(&self, name: &Name) -> Verdict<'_> {
        if METADATA_NAMES.contains(&name.as_str()) {
            return Verdict::deny("metadata names are denied", Reason::MetadataName);
        }
        // A deny for one port says nothing about the name as such.
        let decides = |rule: &&Rule| rule.matches_name(name) && (rule.action() == Action::Allow || !rule.is_partial());
        if let Some(rule) = self.rules.iter().find(decides) {
            return Verdict::by_rule(rule);
        }
        match self.preset {
            Preset::Public => Verdict::allow("preset public", Reason::Preset),
            Preset::Open => Verdict::allow("preset open", Reason::Preset),
            Preset::None => Verdict::deny("preset none", Reason::Preset),
        }
    }

    /// How many bytes of `name` the rule that lets it be asked leaves to whoever asks: none where the whole name is
    /// spelled out, and none to speak of where a preset lets every name be asked.
    pub fn free_bytes(&self, name: &Name) -> usize {
        let rule = self.rules.iter().find(|rule| rule.action() == Action::Allow && rule.matches_name(name));
        rule.map_or(0, |rule| rule.free_bytes(name))
    }

    /// Whether some flow to `address` is allowed, whatever its name.
    pub fn evaluate_address_alone(&self, address: IpAddr, own: &HostAddresses) -> bool {
        self.evaluate_address(&Asked::new(address, &[], Protocol::Tcp, None), own).allow
    }

    /// Whether the guest may be told that `name` has `address`: only if it could go there, at some port.
    pub fn evaluate_answer(&self, name: &Name, address: IpAddr, own: &HostAddresses) -> Verdict<'_> {
        self.evaluate_address(&Asked::new(address, std::slice::from_ref(name), Protocol::Tcp, None), own)
    }

    /// What is open, one line each, for a banner.
    pub fn summary(&self) -> Vec<String> {
        let mut lines = vec![match self.preset {
            Preset::Public => "public internet".to_owned(),
            Preset::None if self.is_closed() => "nothing".to_owned(),
            Preset::None => "nothing but:".to_owned(),
            Preset::Open => "public internet and private networks".to_owned(),
        }];
        lines.extend(self.rules.iter().map(|rule| rule.text().to_owned()));
        if self.lan {
            lines.push("private networks (lan)".to_owned());
        }
        match &self.host {
            HostPorts::Closed => {}
            HostPorts::All => lines.push("every port of the host's loopback".to_owned()),
            HostPorts::Some(ports) => {
                lines.extend(ports.iter().map(|port| format!("port {port} of the host's loopback")));
            }
        }
        lines
    }

    /// Whether any flow at all could be allowed.
    pub fn is_closed(&self) -> bool {
        self.preset == Preset::None
            && !self.lan
            && self.host == HostPorts::Closed
            && self.rules.iter().all(|rule| rule.action() == Action::Deny)
    }

    fn evaluate_host(&self, port: u16) -> Verdict<'_> {
        let open = match &self.host {
            HostPorts::Closed => false,
            HostPorts::Some(ports) => ports.contains(&port),
            HostPorts::All => true,
        };
        match open {
            true => Verdict::allow("allow-host", Reason::HostPort),
            false => Verdict::deny("host ports are closed", Reason::HostPort),
        }
    }

    fn evaluate_address(&self, asked: &Asked<'_>, own: &HostAddresses) -> Verdict<'_> {
        if own.contains(asked.address) {
            return Verdict::deny("host's own addresses are denied", Reason::OwnAddress);
        }
        let decides = |rule: &&Rule| {
            // With no port asked, a deny for one port leaves the others.
            rule.matches(asked) && (asked.port.is_some() || rule.action() == Action::Allow || !rule.is_partial())
        };
        if let Some(rule) = self.rules.iter().find(decides) {
            return Verdict::by_rule(rule);
        }
        match (asked.class, self.preset) {
            (Class::Private, _) if self.lan => Verdict::allow("allow-lan", Reason::Lan),
            (Class::Public, Preset::Public) => Verdict::allow("preset public", Reason::Preset),
            (
                Class::Public | Class::Private | Class::CarrierNat | Class::Benchmark | Class::Documentation,
                Preset::Open,
            ) => Verdict::allow("preset open", Reason::Preset),
            (Class::Public, Preset::None) => Verdict::deny("preset none", Reason::Preset),
            (class, _) => Verdict::deny(denial(class), Reason::Class(class)),
        }
    }
}

fn denial(class: Class) -> &'static str {
    match class {
        Class::Public => "public addresses are denied",
        Class::Documentation => "documentation addresses are denied",
        Class::Benchmark => "benchmark addresses are denied",
        Class::CarrierNat => "carrier-nat addresses are denied",
        Class::Private => "private addresses are denied",
        Class::Reserved => "reserved addresses are denied",
        Class::Multicast => "multicast is denied",
        Class::Broadcast => "broadcast is denied",
        Class::LinkLocal => "link-local addresses are denied",
        Class::Metadata => "metadata addresses are denied",
        Class::Unspecified => "unspecified addresses are denied",
        Class::Loopback => "loopback addresses are denied",
    }
}

#[cfg(test)]
mod tests;

//! From what flags and files say about the network to one policy, with the place that each part of it comes from.

use std::fmt;
use std::path::PathBuf;

use policy::{Policy, Preset, Rule, Table};

use crate::plan::Network;

/// Who said something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nobody: it is the default.
    Default,
    /// The command line.
    Flag,
    /// A line of a settings file.
    File(PathBuf, usize),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Flag => f.write_str("command line"),
            Self::File(path, line) => write!(f, "{}:{line}", path.display()),
        }
    }
}

/// Something and who said it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sourced<T> {
    /// What was said.
    pub value: T,
    /// Who said it.
    pub origin: Origin,
}

impl<T> Sourced<T> {
    /// Said on the command line.
    pub fn by_flag(value: T) -> Self {
        Self { value, origin: Origin::Flag }
    }
}

/// What one place says about the network: the command line, a project's table, the file's top level.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetworkLayer {
    /// Whether there is a network at all.
    pub network: Option<Sourced<bool>>,
    /// What holds where no rule speaks.
    pub egress: Option<Sourced<Preset>>,
    /// Allow rules.
    pub allow: Vec<Sourced<Rule>>,
    /// Deny rules; within one place they come before the allow rules.
    pub deny: Vec<Sourced<Rule>>,
    /// Private networks.
    pub lan: Option<Sourced<bool>>,
    /// Ports of the host's loopback; `None` among them is every port.
    pub host: Option<Vec<Sourced<Option<u16>>>>,
}

/// The policy in force after all places were heard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effective {
    /// Whether there is a network at all.
    pub network: Sourced<bool>,
    /// What holds where no rule speaks.
    pub egress: Sourced<Preset>,
    /// The rules in the order in which they are asked.
    pub rules: Vec<Sourced<Rule>>,
    /// Private networks.
    pub lan: Sourced<bool>,
    /// Ports of the host's loopback; `None` among them is every port.
    pub host: Vec<Sourced<Option<u16>>>,
}

impl Effective {
    /// Hears `layers`, nearest first. Rules add up, the nearest ones are asked first; everything else is what the
    /// nearest place says, and `--allow-host` adds to what the settings open.
    pub fn of(layers: &[NetworkLayer]) -> Self {
        let default = |value| Sourced { value, origin: Origin::Default };
        let mut effective = Self {
            network: first(layers, |layer| layer.network.clone()).unwrap_or(default(true)),
            egress: first(layers, |layer| layer.egress.clone())
                .unwrap_or(Sourced { value: Preset::default(), origin: Origin::Default }),
            rules: Vec::new(),
            lan: first(layers, |layer| layer.lan.clone()).unwrap_or(default(false)),
            host: Vec::new(),
        };
        for layer in layers {
            layer.deny.iter().chain(&layer.allow).for_each(|rule| effective.push_rule(rule.clone()));
        }
        let of_flags = |layer: &&NetworkLayer| layer.host.iter().flatten().any(|port| port.origin == Origin::Flag);
        let flags = layers.iter().filter(of_flags).flat_map(|layer| layer.host.clone().unwrap_or_default());
        let file = layers.iter().filter(|layer| !of_flags(layer)).find_map(|layer| layer.host.clone());
        for port in flags.chain(file.unwrap_or_default()) {
            if !effective.host.iter().any(|known| known.value == port.value) {
                effective.host.push(port);
            }
        }
        effective
    }

    /// Adds a rule behind the others unless it is there already.
    pub(crate) fn push_rule(&mut self, rule: Sourced<Rule>) {
        if !self.has_rule(&rule.value) {
            self.rules.push(rule);
        }
    }

    /// Whether the very same rule is there already.
    pub(crate) fn has_rule(&self, rule: &Rule) -> bool {
        self.rules.iter().any(|known| known.value == *rule)
    }

    /// The policy for the network stack.
    pub fn policy(&self) -> Policy {
        let mut policy = Policy::new(self.egress.value);
        self.rules.iter().for_each(|rule| policy.push(rule.value.clone()));
        if self.lan.value {
            policy.allow_lan();
        }
        self.host.iter().for_each(|port| policy.allow_host(port.value));
        policy
    }

    /// The same in the words of a settings file, for a VM that runs: without a network, nothing.
    pub fn table(&self) -> Table {
        if !self.network.value {
            return Table { preset: Some(Preset::None.to_string()), ..Table::default() };
        }
        Table {
            preset: Some(self.egress.value.to_string()),
            rules: self.rules.iter().map(|rule| rule.value.text().to_owned()).collect(),
            deny: Vec::new(),
            allow: None,
            lan: self.lan.value,
            host: self.host.iter().filter_map(|port| port.value).collect(),
            host_all: self.host.iter().any(|port| port.value.is_none()),
        }
    }

    /// The guest's link to the outside.
    pub fn link(&self) -> Network {
        if self.network.value { Network::Policy(self.policy()) } else { Network::Absent }
    }

    /// Who is responsible for a rule that a verdict names.
    pub fn origin_of(&self, rule: &str) -> Option<&Origin> {
        let of_rule = self.rules.iter().find(|known| known.value.text() == rule).map(|known| &known.origin);
        of_rule.or_else(|| rule.starts_with("preset ").then_some(&self.egress.origin))
    }
}

fn first<T>(layers: &[NetworkLayer], get: impl Fn(&NetworkLayer) -> Option<T>) -> Option<T> {
    layers.iter().find_map(get)
}

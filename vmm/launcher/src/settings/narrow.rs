//! `vmm.toml`: what a project asks to be kept from. The guest can write it, so nothing in it may open anything.
//!
//! Its denials are asked before all rules of the user. Its allow list stands behind all of them, in the place of the
//! user's own `public` or `open`, and holds only what those would have let pass.

use std::path::Path;

use policy::{Class, Pattern, Preset, Rule};
use serde::Deserialize;
use toml::Spanned;

use super::error::SettingsError;
use super::file::PolicyTable;
use super::network::{Effective, NetworkLayer, Origin, Sourced};
use super::ports::Ports;
use super::read::Source;
use crate::{Error, PortSpec};

/// The file's name in the project folder.
const NAME: &str = "vmm.toml";

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    publish: Option<Spanned<Vec<Spanned<String>>>>,
    auto_publish: Option<Spanned<bool>>,
    network: Option<Spanned<bool>>,
    policy: Option<PolicyTable>,
}

/// A project's own file.
#[derive(Debug, Clone)]
pub(crate) struct Narrowing {
    source: Source,
    layer: NetworkLayer,
    /// The ports that are to stay published, each with its line.
    publish: Option<Vec<(PortSpec, usize)>>,
    auto_publish: Option<(bool, usize)>,
}

impl Narrowing {
    /// Reads it; nothing if the project has none.
    pub(crate) fn read(project: &Path) -> Result<Option<Self>, Error> {
        Ok(Source::read(&project.join(NAME), false)?.map(Self::parse).transpose()?)
    }

    pub(crate) fn parse(source: Source) -> Result<Self, SettingsError> {
        let document: Document = source.parse().map_err(|mut error| {
            if error.problem.starts_with("unknown field") && !error.key.starts_with("policy") {
                error.problem = "a project's own file can only narrow the network (`network`, `[policy]`, `publish`, \
                                 `auto_publish`); put this into the project's table of your own config.toml"
                    .into();
                error.example = "[project.\"/home/me/src/app\"]";
            }
            error
        })?;
        let mut layer = NetworkLayer::default();
        if let Some(policy) = document.policy {
            policy.into_layer(&source, &mut layer)?;
        }
        layer.network = document.network.map(|value| {
            let line = source.line(&value.span());
            Sourced { value: value.into_inner(), origin: Origin::File(source.path.clone(), line) }
        });
        let publish = document.publish.map(|list| ports(&source, list.into_inner())).transpose()?;
        let auto_publish = document.auto_publish.map(|value| (*value.get_ref(), source.line(&value.span())));
        Ok(Self { source, layer, publish, auto_publish })
    }

    /// What would open something, with what is there to do.
    fn widens(&self, line: Option<usize>, key: &str, what: &str) -> SettingsError {
        let problem = format!(
            "{what}: a project's own file can only narrow what your settings allow. If you want it, put it into the \
             project's table of your own config.toml"
        );
        SettingsError { path: self.source.path.clone(), line, key: key.into(), problem, example: "" }
    }

    /// Leaves of the user's ports those that the file lists; others than those are an error.
    pub(crate) fn narrow_ports(&self, mut user: Ports) -> Result<Ports, SettingsError> {
        if let Some(listed) = &self.publish {
            if let Some((port, line)) = listed.iter().find(|(port, _)| !user.publish.contains(port)) {
                return Err(self.widens(Some(*line), "publish", &format!("{port} is not published by your settings")));
            }
            user.publish.retain(|port| listed.iter().any(|(kept, _)| kept == port));
        }
        match self.auto_publish {
            Some((true, line)) if user.auto != Some(true) => {
                Err(self.widens(Some(line), "auto_publish", "your settings do not publish ports by themselves"))
            }
            Some((auto, _)) => Ok(Ports { auto: Some(auto), ..user }),
            None => Ok(user),
        }
    }

    /// Takes away what the file asks for; what would open something is an error.
    pub(crate) fn narrow(&self, mut user: Effective) -> Result<Effective, SettingsError> {
        let widens = |origin: &Origin, key: &str, what: &str| {
            let line = match origin {
                Origin::File(_, line) => Some(*line),
                Origin::Default | Origin::Flag => None,
            };
            self.widens(line, key, what)
        };
        let layer = &self.layer;
        if let Some(network) = &layer.network {
            if network.value && !user.network.value {
                return Err(widens(&network.origin, "network", "your settings turn the network off"));
            }
            user.network = network.clone();
        }
        let before = user.egress.clone();
        if let Some(egress) = &layer.egress {
            if breadth(egress.value) > breadth(before.value) {
                let what = format!("{} would open more than your {}", egress.value, before.value);
                return Err(widens(&egress.origin, "policy.egress", &what));
            }
            user.egress = egress.clone();
        }
        if let Some(lan) = &layer.lan {
            if lan.value && !user.lan.value {
                return Err(widens(&lan.origin, "policy.lan", "your settings keep private networks closed"));
            }
            user.lan = lan.clone();
        }
        if let Some(ports) = &layer.host {
            let is_open = |port: &Sourced<Option<u16>>| {
                user.host.iter().any(|open| open.value.is_none() || open.value == port.value)
            };
            if let Some(port) = ports.iter().find(|port| !is_open(port)) {
                let what = format!("your settings keep port {} of the host closed", port.value.unwrap_or_default());
                return Err(widens(&port.origin, "policy.host", &what));
            }
            user.host.clone_from(ports);
        }
        for rule in &layer.allow {
            if !user.has_rule(&rule.value) && (before.value == Preset::None || !is_public(&rule.value)) {
                return Err(widens(
                    &rule.origin,
                    "policy.allow",
                    &format!("{} is not open in your settings", rule.value),
                ));
            }
        }
        let rules = std::mem::take(&mut user.rules);
        layer
            .deny
            .iter()
            .cloned()
            .chain(rules)
            .chain(layer.allow.iter().cloned())
            .for_each(|rule| user.push_rule(rule));
        Ok(user)
    }
}

fn ports(source: &Source, list: Vec<Spanned<String>>) -> Result<Vec<(PortSpec, usize)>, SettingsError> {
    let lines: Vec<usize> = list.iter().map(|text| source.line(&text.span())).collect();
    Ok(Ports::read(source, Some(list), None)?.publish.into_iter().zip(lines).collect())
}

fn breadth(preset: Preset) -> u8 {
    match preset {
        Preset::None => 0,
        Preset::Public => 1,
        Preset::Open => 2,
    }
}

/// Whether an allow rule opens nothing but public addresses, all of which `public` opens too. Names never open others;
/// a range opens special addresses only if its own beginning is special.
fn is_public(rule: &Rule) -> bool {
    match rule.pattern() {
        Pattern::Names(_) => true,
        Pattern::Addresses(range) => Class::of(range.network()) == Class::Public,
    }
}

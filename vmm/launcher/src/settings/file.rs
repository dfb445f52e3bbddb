//! `config.toml`: its keys, and what they come to for one project.

use std::collections::BTreeMap;
use std::env;
use std::ffi::OsString;
use std::ops::Range;
use std::path::{Path, PathBuf};

use policy::{Action, MAX_RULES, Preset, Rule};
use serde::Deserialize;
use toml::Spanned;
use vmm::{Engine, Mib};

use super::error::SettingsError;
use super::narrow;
use super::network::{Effective, NetworkLayer, Origin, Sourced};
use super::ports::Ports;
use super::read::Source;
use super::size::parse_size;
use crate::{Dirs, Error, Mount};

/// The file's top level, and equally one project's table.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    engine: Option<EngineName>,
    cpus: Option<u8>,
    memory: Option<Spanned<String>>,
    disk: Option<Spanned<String>>,
    image: Option<Spanned<String>>,
    kernel: Option<Spanned<String>>,
    mounts: Option<Vec<Spanned<String>>>,
    protect: Option<Vec<PathBuf>>,
    hide: Option<Vec<PathBuf>>,
    env: Option<Vec<String>>,
    user: Option<String>,
    publish: Option<Vec<Spanned<String>>>,
    auto_publish: Option<bool>,
    network: Option<Spanned<bool>>,
    policy: Option<PolicyTable>,
    /// Only at the top level.
    #[serde(default)]
    project: BTreeMap<String, Spanned<Table>>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum EngineName {
    Auto,
    Kvm,
    Qemu,
}

/// What may be reached.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PolicyTable {
    egress: Option<Spanned<PresetName>>,
    allow: Option<Spanned<Vec<Spanned<String>>>>,
    deny: Option<Spanned<Vec<Spanned<String>>>>,
    lan: Option<Spanned<bool>>,
    host: Option<Vec<Spanned<u16>>>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum PresetName {
    Public,
    None,
    Open,
}

/// The user's settings for one project. What is absent here is the command's own default.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Who runs the CPUs.
    pub engine: Option<Engine>,
    /// Virtual CPUs.
    pub cpus: Option<u8>,
    /// Memory ceiling.
    pub memory: Option<Mib>,
    /// Size of the writable disk.
    pub disk: Option<Mib>,
    /// Root image.
    pub image: Option<PathBuf>,
    /// Kernel.
    pub kernel: Option<PathBuf>,
    /// Further mounts, as `--mount` takes them.
    pub mounts: Vec<OsString>,
    /// Paths in the project that stay read-only.
    pub protect: Vec<PathBuf>,
    /// Paths in the project that the guest does not see.
    pub hide: Vec<PathBuf>,
    /// Environment, as `--env` takes it.
    pub env: Vec<OsString>,
    /// User in the guest.
    pub user: Option<OsString>,
    /// Ports, before the project's own file and the command line are heard.
    ports: Ports,
    /// What the files say about the network, nearest first.
    layers: Vec<NetworkLayer>,
    /// The project's own file.
    narrowing: Option<narrow::Narrowing>,
}

impl Settings {
    /// What the user's file says, and the `vmm.toml` of `project`, which is a real path.
    pub fn load(dirs: &Dirs, project: &Path) -> Result<Self, Error> {
        let mut settings = match dirs.settings() {
            Some(path) => Self::read(path, project)?,
            None => Self::default(),
        };
        settings.narrowing = narrow::Narrowing::read(project)?;
        Ok(settings)
    }

    /// An error if the guest could write the settings file through one of `mounts`.
    pub fn keep_from_guest(dirs: &Dirs, mounts: &[Mount]) -> Result<(), Error> {
        let Some(path) = dirs.settings() else { return Ok(()) };
        mounts.iter().filter(|mount| !mount.is_read_only).try_for_each(|mount| out_of_reach(path, &mount.host))
    }

    pub(crate) fn read(path: &Path, project: &Path) -> Result<Self, Error> {
        let Some(source) = Source::read(path, true)? else { return Ok(Self::default()) };
        out_of_reach(path, project)?;
        Ok(Self::parse(&source, project)?)
    }

    pub(crate) fn parse(source: &Source, project: &Path) -> Result<Self, SettingsError> {
        let mut top: Table = source.parse()?;
        let mut near: Vec<(PathBuf, Self)> = Vec::new();
        for (key, table) in std::mem::take(&mut top.project) {
            let span = table.span();
            let folder = path(source, &span, "project", &key)?;
            let table = table.into_inner();
            if !table.project.is_empty() {
                return Err(source.wrong(&span, "project", "a project's table cannot hold tables of other projects"));
            }
            let layer = Self::from_table(source, table)?;
            let folder = folder.canonicalize().unwrap_or(folder);
            if !project.starts_with(&folder) {
                continue;
            }
            if near.iter().any(|(known, _)| *known == folder) {
                return Err(source.wrong(&span, "project", "two tables are about the same folder"));
            }
            near.push((folder, layer));
        }
        // All of them lead to the project, so the longer one is the nearer one.
        near.sort_by_key(|(folder, _)| folder.components().count());
        let top = Self::from_table(source, top)?;
        Ok(near.into_iter().fold(top, |far, (_, layer)| layer.over(far)))
    }

    fn from_table(source: &Source, table: Table) -> Result<Self, SettingsError> {
        let size = |key, value: Option<Spanned<String>>| {
            let parse = |text: Spanned<String>| {
                parse_size(text.get_ref()).map_err(|problem| source.wrong(&text.span(), key, problem))
            };
            value.map(parse).transpose()
        };
        let file = |key, value: Option<Spanned<String>>| {
            value.map(|text| path(source, &text.span(), key, text.get_ref())).transpose()
        };
        let mounts = table.mounts.unwrap_or_default().into_iter();
        let mut layer = NetworkLayer {
            network: table.network.map(|value| source.said(&value.span(), *value.get_ref())),
            ..NetworkLayer::default()
        };
        if let Some(policy) = table.policy {
            policy.into_layer(source, &mut layer)?;
        }
        Ok(Self {
            engine: table.engine.map(|name| match name {
                EngineName::Auto => Engine::Auto,
                EngineName::Kvm => Engine::Kvm,
                EngineName::Qemu => Engine::Qemu,
            }),
            cpus: table.cpus,
            memory: size("memory", table.memory)?,
            disk: size("disk", table.disk)?,
            image: file("image", table.image)?,
            kernel: file("kernel", table.kernel)?,
            mounts: mounts
                .map(|text| path(source, &text.span(), "mounts", text.get_ref()).map(OsString::from))
                .collect::<Result<_, _>>()?,
            protect: table.protect.unwrap_or_default(),
            hide: table.hide.unwrap_or_default(),
            env: table.env.unwrap_or_default().into_iter().map(OsString::from).collect(),
            user: table.user.map(OsString::from),
            ports: Ports::read(source, table.publish, table.auto_publish)?,
            layers: vec![layer],
            narrowing: None,
        })
    }

    /// Both, where `self` is nearer: lists add up, of everything else the nearer one counts.
    fn over(self, far: Self) -> Self {
        Self {
            engine: self.engine.or(far.engine),
            cpus: self.cpus.or(far.cpus),
            memory: self.memory.or(far.memory),
            disk: self.disk.or(far.disk),
            image: self.image.or(far.image),
            kernel: self.kernel.or(far.kernel),
            mounts: far.mounts.into_iter().chain(self.mounts).collect(),
            protect: far.protect.into_iter().chain(self.protect).collect(),
            hide: far.hide.into_iter().chain(self.hide).collect(),
            env: far.env.into_iter().chain(self.env).collect(),
            user: self.user.or(far.user),
            ports: self.ports.over(far.ports),
            layers: self.layers.into_iter().chain(far.layers).collect(),
            narrowing: self.narrowing,
        }
    }

    /// What is in force once `flags` are heard too, and the project's own file has taken its part away.
    pub fn network(&self, flags: NetworkLayer) -> Result<Effective, Error> {
        let mut layers = vec![flags];
        layers.extend(self.layers.iter().cloned());
        let effective = Effective::of(&layers);
        match &self.narrowing {
            Some(narrowing) => Ok(narrowing.narrow(effective)?),
            None => Ok(effective),
        }
    }

    /// What is published once the project's own file has taken its part away and `flags` were heard.
    pub fn ports(&self, flags: Ports) -> Result<Ports, Error> {
        let own = match &self.narrowing {
            Some(narrowing) => narrowing.narrow_ports(self.ports.clone())?,
            None => self.ports.clone(),
        };
        Ok(flags.over(own))
    }
}

/// What the guest can write says nothing about what the guest may do.
fn out_of_reach(path: &Path, share: &Path) -> Result<(), Error> {
    if !path.canonicalize().is_ok_and(|real| real.starts_with(share)) {
        return Ok(());
    }
    let reason = format!(
        "the settings file {} lies in it, where the guest could change it; share a folder below",
        path.display()
    );
    Err(Error::Share { path: share.into(), reason })
}

impl PolicyTable {
    /// Adds what the table says to `layer`.
    pub(crate) fn into_layer(self, source: &Source, layer: &mut NetworkLayer) -> Result<(), SettingsError> {
        layer.egress = self.egress.map(|name| {
            let preset = match name.get_ref() {
                PresetName::Public => Preset::Public,
                PresetName::None => Preset::None,
                PresetName::Open => Preset::Open,
            };
            source.said(&name.span(), preset)
        });
        // A list of what is allowed is all that is allowed, unless the same table says otherwise: so an empty one is
        // nothing.
        let listed = self.allow.as_ref().map(|allow| source.said(&allow.span(), Preset::None));
        layer.egress = layer.egress.take().or(listed);
        layer.allow = rules(source, "policy.allow", Action::Allow, self.allow)?;
        layer.deny = rules(source, "policy.deny", Action::Deny, self.deny)?;
        layer.lan = self.lan.map(|value| source.said(&value.span(), *value.get_ref()));
        layer.host = self.host.map(|ports| ports_of(source, &ports)).transpose()?;
        let text = |rule: &Sourced<Rule>| rule.value.text().split_once(' ').map(|(_, rest)| rest.to_owned());
        for deny in &layer.deny {
            if let Some(allow) = layer.allow.iter().find(|allow| text(allow) == text(deny)) {
                let problem = format!("{} is denied at {} too", allow.value, deny.origin);
                let line = match &allow.origin {
                    Origin::File(_, line) => Some(*line),
                    _ => None,
                };
                return Err(SettingsError { line, ..source.wrong(&(0..0), "policy.allow", problem) });
            }
        }
        Ok(())
    }
}

impl Source {
    fn said<T>(&self, span: &Range<usize>, value: T) -> Sourced<T> {
        Sourced { value, origin: Origin::File(self.path.clone(), self.line(span)) }
    }
}

fn rules(
    source: &Source,
    key: &str,
    action: Action,
    list: Option<Spanned<Vec<Spanned<String>>>>,
) -> Result<Vec<Sourced<Rule>>, SettingsError> {
    let Some(list) = list else { return Ok(Vec::new()) };
    if list.get_ref().len() > MAX_RULES {
        let problem = format!(
            "{} rules are too many, {MAX_RULES} is the limit; write ranges or *.suffixes instead",
            list.get_ref().len()
        );
        return Err(source.wrong(&list.span(), key, problem));
    }
    // Lines are counted as the list is gone through: once, whatever its length.
    let (mut line, mut counted) = (1, 0);
    let mut rules = Vec::with_capacity(list.get_ref().len());
    for entry in list.into_inner() {
        let span = entry.span();
        let between = source.text.as_bytes().get(counted..span.start).unwrap_or_default();
        line += between.iter().filter(|byte| **byte == b'\n').count();
        counted = span.start;
        let value = Rule::parse(action, entry.get_ref())
            .map_err(|error| source.wrong_in_words(&span, key, error.to_string()))?;
        rules.push(Sourced { value, origin: Origin::File(source.path.clone(), line) });
    }
    Ok(rules)
}

fn ports_of(source: &Source, ports: &[Spanned<u16>]) -> Result<Vec<Sourced<Option<u16>>>, SettingsError> {
    let one = |port: &Spanned<u16>| match *port.get_ref() {
        0 => Err(source.wrong(&port.span(), "policy.host", "a port is a number from 1 to 65535")),
        number => Ok(source.said(&port.span(), Some(number))),
    };
    ports.iter().map(one).collect()
}

/// An absolute path, or one below the home folder.
fn path(source: &Source, span: &Range<usize>, key: &str, text: &str) -> Result<PathBuf, SettingsError> {
    let home = |rest: &str| env::var_os("HOME").map(|home| PathBuf::from(home).join(rest.trim_start_matches('/')));
    let path = match text.strip_prefix('~') {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => home(rest),
        _ => Some(PathBuf::from(text)),
    };
    path.filter(|path| path.is_absolute() && !path.as_os_str().is_empty())
        .ok_or_else(|| source.wrong(span, key, format!("{text:?} must begin with / or ~/")))
}

//! From arguments to what the launcher is to start.

use std::env;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use launcher::{Dirs, Effective, Error, Guards, Mount, NetworkLayer, Plan, Proxy, Rule, Settings};
use vmm::{Engine, Mib};

use crate::args::{EngineArg, RunArgs, ShareArgs, VmArgs};

/// Host variables a program on the user's terminal relies on.
const PASSED_ON: [&str; 4] = ["TERM", "COLORTERM", "LANG", "LC_ALL"];
/// Defaults, where neither the command line nor the environment nor the settings say anything.
const ROOT: &str = "root";
const CPUS: u8 = 2;
const MEMORY: Mib = Mib(2 << 10);
const DISK: Mib = Mib(20 << 10);

/// The VM that `run` asks for, and the command's surroundings in it.
#[derive(Debug)]
pub struct Run {
    pub plan: Plan,
    /// As `--env` takes it.
    pub env: Vec<OsString>,
    /// Whether the host follows the guest's listeners.
    pub auto_publish: bool,
}

/// What `run` asks for: the command line, then the environment, then the settings, then the defaults.
pub fn for_run(args: &RunArgs, dirs: &Dirs) -> Result<Run, Error> {
    let project = Mount::project(&args.share.project)?;
    let settings = Settings::load(dirs, &project.host)?;
    let effective = args.network.effective(&settings)?;
    let mounts = settings.mounts.iter().chain(&args.share.mounts).map(|value| Mount::parse(value));
    let mounts = mounts.collect::<Result<Vec<_>, _>>()?;
    Settings::keep_from_guest(dirs, &mounts)?;
    let mut plan = plan(&args.vm, project, &settings, &effective);
    plan.mounts = mounts;
    plan.guards = guards(&args.share, &settings, &plan)?;
    plan.proxy = proxy()?;
    let ports = args.ports.effective(&settings)?;
    // Without a network the settings about ports mean nothing; the options for them are refused with --no-network.
    let has_network = effective.network.value;
    plan.publish = if has_network { ports.publish } else { Vec::new() };
    plan.shows_console = args.output.verbose;
    let env = settings.env.iter().chain(&args.process.env).cloned().collect();
    plan.user = args.process.user.clone().or(settings.user).unwrap_or_else(|| ROOT.into());
    Ok(Run { plan, env, auto_publish: has_network && ports.auto.unwrap_or(false) })
}

/// A VM around one folder, with the settings that hold for every project.
pub fn for_project(vm: &VmArgs, project: &Path, dirs: &Dirs) -> Result<Plan, Error> {
    let project = Mount::project(project)?;
    let settings = Settings::load(dirs, &project.host)?;
    let effective = settings.network(NetworkLayer::default())?;
    Ok(plan(vm, project, &settings, &effective))
}

fn plan(vm: &VmArgs, project: Mount, settings: &Settings, effective: &Effective) -> Plan {
    Plan {
        project,
        mounts: Vec::new(),
        user: ROOT.into(),
        guards: Guards::default(),
        engine: vm.engine.map(EngineArg::into).or(settings.engine).unwrap_or(Engine::Auto),
        cpus: vm.cpus.or(settings.cpus).unwrap_or(CPUS),
        memory: vm.memory.or(settings.memory).unwrap_or(MEMORY),
        disk: vm.disk.or(settings.disk).unwrap_or(DISK),
        image: vm.image.clone().or_else(|| settings.image.clone()),
        kernel: vm.kernel.clone().or_else(|| settings.kernel.clone()),
        network: effective.link(),
        proxy: None,
        publish: Vec::new(),
        shows_console: false,
    }
}

/// The proxy that `HTTPS_PROXY` and its like name. A value that is no text is one that cannot be understood, not none.
fn proxy() -> Result<Option<Proxy>, Error> {
    Ok(Proxy::from_environment(|name| env::var_os(name).map(|value| value.to_string_lossy().into_owned()))?)
}

/// What the guest may not change, or not see.
fn guards(args: &ShareArgs, settings: &Settings, plan: &Plan) -> Result<Guards, Error> {
    let mut guards = Guards::default();
    if !args.no_default_protect {
        guards.protect_what_runs(&plan.project);
        // What narrows the next run is not this run's guest to take away.
        guards.add(Rule::Protect, Path::new("vmm.toml"), &plan.project, plan.shares())?;
    }
    let [protect, hide] = [(&settings.protect, &args.protect), (&settings.hide, &args.hide)];
    for (rule, (listed, asked)) in [(Rule::Protect, protect), (Rule::Hide, hide)] {
        listed.iter().chain(asked).try_for_each(|path| guards.add(rule, path, &plan.project, plan.shares()))?;
    }
    Ok(guards)
}

/// Where the command starts: as told, else in the guest's view of the current folder, else in the project.
pub fn workdir(asked: Option<&Path>, project: &Mount) -> PathBuf {
    if let Some(asked) = asked {
        return asked.into();
    }
    let here = env::current_dir().and_then(|here| here.canonicalize()).unwrap_or_default();
    match here.strip_prefix(&project.host) {
        Ok(below) if below.as_os_str().is_empty() => project.guest.clone(),
        Ok(below) => project.guest.join(below),
        Err(_) => project.guest.clone(),
    }
}

/// The command's environment: the terminal's variables, then `--env`.
pub fn environment(asked: &[OsString]) -> Vec<(OsString, OsString)> {
    let passed_on = PASSED_ON.iter().filter_map(|name| Some((OsString::from(name), env::var_os(name)?)));
    passed_on.chain(asked.iter().filter_map(|entry| variable(entry))).collect()
}

/// `NAME=VALUE`, or `NAME` for the host's value; nothing if the host has none.
fn variable(entry: &OsStr) -> Option<(OsString, OsString)> {
    let bytes = entry.as_bytes();
    match bytes.iter().position(|byte| *byte == b'=') {
        Some(at) => Some((OsStr::from_bytes(&bytes[..at]).into(), OsStr::from_bytes(&bytes[at + 1..]).into())),
        None => Some((entry.into(), env::var_os(entry)?)),
    }
}

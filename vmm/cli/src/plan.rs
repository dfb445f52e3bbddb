//! From arguments to what the launcher is to start.

use std::env;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use launcher::{Error, Guards, Mount, Network, Plan, Rule};
use policy::{Policy, Preset};

use crate::args::{EgressArg, NetworkArgs, RunArgs, ShareArgs, VmArgs};

/// Host variables a program on the user's terminal relies on.
const PASSED_ON: [&str; 4] = ["TERM", "COLORTERM", "LANG", "LC_ALL"];

/// The VM that `run` asks for.
pub fn for_run(args: &RunArgs) -> Result<Plan, Error> {
    let mounts = args.share.mounts.iter().map(|value| Mount::parse(value)).collect::<Result<_, _>>()?;
    let mut plan = for_project(&args.vm, &args.share.project)?;
    plan.mounts = mounts;
    plan.guards = guards(&args.share, &plan)?;
    plan.network = network(&args.network);
    plan.shows_console = args.output.verbose;
    Ok(plan)
}

/// A VM around one folder, with the default network.
pub fn for_project(vm: &VmArgs, project: &Path) -> Result<Plan, Error> {
    Ok(Plan {
        project: Mount::project(project)?,
        mounts: Vec::new(),
        guards: Guards::default(),
        engine: vm.engine.into(),
        cpus: vm.cpus,
        memory: vm.memory,
        disk: vm.disk,
        image: vm.image.clone(),
        kernel: vm.kernel.clone(),
        network: Network::Policy(Policy::new(Preset::Public)),
        shows_console: false,
    })
}

/// What the guest may not change, or not see.
fn guards(args: &ShareArgs, plan: &Plan) -> Result<Guards, Error> {
    let mut guards = Guards::default();
    if !args.no_default_protect {
        guards.protect_what_runs(&plan.project);
    }
    for (rule, paths) in [(Rule::Protect, &args.protect), (Rule::Hide, &args.hide)] {
        paths.iter().try_for_each(|path| guards.add(rule, path, &plan.project, plan.shares()))?;
    }
    Ok(guards)
}

fn network(args: &NetworkArgs) -> Network {
    if args.no_network {
        return Network::Absent;
    }
    Network::Policy(Policy::new(match args.egress {
        EgressArg::Public => Preset::Public,
        EgressArg::None => Preset::None,
        EgressArg::Open => Preset::Open,
    }))
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

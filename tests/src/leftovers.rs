//! What outlives a case: processes below this one, and files in the folders the case was given.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, WaitOptions, getpid, kill_process, set_child_subreaper, wait};

use crate::patience::waited;

/// How long what was told to end may take to be gone.
const GRACE: Duration = Duration::from_secs(5);

/// From now on a process whose parent ends becomes a child of this one, so that none gets out of sight.
pub(crate) fn adopt_orphans() -> Result<()> {
    set_child_subreaper(Some(getpid())).context("becoming the parent of orphans")
}

/// An error that names what runs below this process; it is ended first, for the sake of the next case.
pub(crate) fn no_processes() -> Result<()> {
    if waited(GRACE, || descendants().is_empty()) {
        return Ok(());
    }
    let left = descendants();
    let names: Vec<_> = left.iter().map(|pid| command_line(&pid.as_raw_nonzero().to_string())).collect();
    for pid in left {
        // It may have ended by itself meanwhile.
        let _ = kill_process(pid, Signal::KILL);
    }
    ensure!(waited(GRACE, || descendants().is_empty()), "processes that do not even end by SIGKILL: {names:?}");
    Err(anyhow::anyhow!("processes: {names:?}"))
}

/// The files of a VM that are to outlive it.
const KEPT: [&str; 3] = ["vm.json", "egress.jsonl", "egress.jsonl.1"];

/// An error that names the files below `folder`, but for the logs of VMs.
pub(crate) fn no_files(folder: &Path) -> Result<()> {
    let is_log = |file: &PathBuf| {
        file.starts_with(folder.join("vms")) && KEPT.iter().any(|name| file.file_name() == Some(name.as_ref()))
    };
    let found: Vec<PathBuf> = files(folder)?.into_iter().filter(|file| !is_log(file)).collect();
    ensure!(found.is_empty(), "files: {found:?}");
    Ok(())
}

fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.extend(files(&entry.path())?);
        } else {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// All processes below this one that still run; those that ended are reaped.
pub(crate) fn descendants() -> Vec<Pid> {
    while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
    let parents: Vec<(Pid, Pid)> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let pid = entry.ok()?.file_name().to_str()?.parse().ok()?;
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            // The name in parentheses may hold anything, spaces and parentheses included.
            let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?;
            Some((Pid::from_raw(pid)?, Pid::from_raw(parent)?))
        })
        .collect();
    let mut found = Vec::new();
    let mut generation = vec![getpid()];
    while !generation.is_empty() {
        generation = parents.iter().filter(|(_, parent)| generation.contains(parent)).map(|(pid, _)| *pid).collect();
        found.extend(&generation);
    }
    found
}

/// The beginning of a process's command line.
pub(crate) fn command_line(pid: &str) -> String {
    let text = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&text).replace('\0', " ").chars().take(200).collect()
}

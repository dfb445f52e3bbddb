//! Getting this program to a machine with real KVM.

use std::env;
use std::path::Path;
use std::process::{Command, ExitCode, ExitStatus, Stdio};

use anyhow::{Context, Result};

use crate::progress;

/// Memory of the lab machine in MiB: its writable layer, and the guests with their page cache.
const MEMORY: &str = "6144";
/// How long all cases together may take on one machine.
const LIMIT_SECONDS: &str = "3600";
/// The same when cases do all they can (`VMM_TEST_FULL`).
const FULL_LIMIT_SECONDS: &str = "14400";
/// How many machines the cases may use up.
const MACHINES: usize = 3;
/// The name of the file about the cases, in the folder that outlives a machine.
const PROGRESS: &str = "progress";
/// The exit status of the lab if its machine failed, and of this program in there if the next case needs another one.
pub(crate) const MACHINE_FAILED: i32 = 125;

/// True where the kvm engine can run cases: in the lab, or where the user vouches for the machine's own KVM.
pub(crate) fn is_here() -> bool {
    is_emulated() || env::var_os("VMM_TEST_NATIVE_KVM").is_some()
}

/// Whether this program runs in the lab, whose processor is emulated.
pub(crate) fn is_emulated() -> bool {
    env::var_os("VMM_LAB").is_some()
}

/// Runs this program in the lab with the same arguments and settings. Where the machine ends before the cases have, another
/// one runs those that are left.
pub(crate) fn run_self(words: &[String]) -> Result<ExitCode> {
    let out = tempfile::tempdir().context("making a folder for the lab")?;
    let limit = if env::var_os("VMM_TEST_FULL").is_some() { FULL_LIMIT_SECONDS } else { LIMIT_SECONDS };
    let file = out.path().join(PROGRESS);
    let mut machines = 0;
    loop {
        let before = progress::lines(&file)?;
        let status = machine_for(words, out.path(), limit)?;
        machines += 1;
        if status.code() != Some(MACHINE_FAILED) || machines == MACHINES || progress::lines(&file)? == before {
            return Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        println!("\nTHE LAB'S MACHINE ENDED before the cases did, as is told above. Another one goes on from there.");
    }
}

/// Starts a machine whose /out is `out`, and runs this program there.
fn machine_for(words: &[String], out: &Path, limit: &str) -> Result<ExitStatus> {
    let lab = Path::new(env!("CARGO_MANIFEST_DIR")).join("lab/kvm");
    let settings =
        env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("VMM_")).map(|(name, value)| {
            let mut setting = name;
            setting.push("=");
            setting.push(value);
            setting
        });
    Command::new(&lab)
        .args(["-m", MEMORY, "-t", limit, "-o"])
        .arg(out)
        .args(["--", "env"])
        .args(settings)
        .arg(format!("{}=/out/{PROGRESS}", progress::VARIABLE))
        .arg(env::current_exe().context("finding this program")?)
        .args(words)
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("starting {}", lab.display()))
}

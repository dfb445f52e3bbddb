//! Getting this program to a machine with real KVM.

use std::env;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result};

/// Memory of the lab machine in MiB: its writable layer, and the guests with their page cache.
const MEMORY: &str = "6144";
/// How long all cases together may take in there.
const LIMIT_SECONDS: &str = "4800";
/// The same when cases do all they can (`VMM_TEST_FULL`).
const FULL_LIMIT_SECONDS: &str = "14400";

/// True where the kvm engine can run cases: in the lab, or where the user vouches for the machine's own KVM.
pub(crate) fn is_here() -> bool {
    is_emulated() || env::var_os("VMM_TEST_NATIVE_KVM").is_some()
}

/// Whether this program runs in the lab, whose processor is emulated.
pub(crate) fn is_emulated() -> bool {
    env::var_os("VMM_LAB").is_some()
}

/// Runs this program in the lab with the same arguments and settings.
pub(crate) fn run_self(words: &[String]) -> Result<ExitCode> {
    let lab = Path::new(env!("CARGO_MANIFEST_DIR")).join("lab/kvm");
    let settings =
        env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("VMM_")).map(|(name, value)| {
            let mut setting = name;
            setting.push("=");
            setting.push(value);
            setting
        });
    let limit = if env::var_os("VMM_TEST_FULL").is_some() { FULL_LIMIT_SECONDS } else { LIMIT_SECONDS };
    let status = Command::new(&lab)
        .args(["-m", MEMORY, "-t", limit, "--", "env"])
        .args(settings)
        .arg(env::current_exe().context("finding this program")?)
        .args(words)
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("starting {}", lab.display()))?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

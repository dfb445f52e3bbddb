//! Suites that others wrote for file systems, on a share: pjdfstest (what POSIX says) and fsx (random operations on one
//! file).
//!
//! `make test` runs short versions; `tests/fs-suites` sets `VMM_TEST_FULL`, which asks for all there is.

mod fsx;
mod pjdfstest;
mod turns;

pub use fsx::{fsx_finds_nothing, fsx_finds_nothing_while_the_host_looks_on};
pub use pjdfstest::pjdfstest_fails_only_where_it_says_why;
pub use turns::one_file_is_written_by_both_sides_in_turns;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

/// A million operations of emulated programs.
const PATIENCE: Duration = Duration::from_secs(10_000);

/// How many operations: as many as fit into a run of all tests, or as many as are worth waiting for.
pub fn operations(short: usize, full: usize) -> usize {
    if std::env::var_os("VMM_TEST_FULL").is_some() { full } else { short }
}

/// The folder with the suites; they are built if they are missing.
fn programs() -> Result<PathBuf> {
    let build = folder().join("build");
    let output = Command::new(&build).output().with_context(|| format!("starting {}", build.display()))?;
    ensure!(output.status.success(), "{}: {}", build.display(), String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?.trim().into())
}

/// `tests/suites`.
fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("suites")
}

//! What has become of the cases, written where it outlives the machine that runs them.

use std::env;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The environment variable that names the file.
pub(crate) const VARIABLE: &str = "VMM_TEST_PROGRESS";
/// How many machines may end while they run a case, until it is taken for the case's fault.
const MACHINES: usize = 2;

/// The file: a line `begun NAME`, `passed NAME` or `failed NAME` for each thing that happened. Without one, nothing is
/// remembered.
#[derive(Debug, Clone, Default)]
pub(crate) struct Progress {
    file: Option<PathBuf>,
    past: String,
}

/// How a case ended on an earlier machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Past {
    Passed,
    Failed,
    /// The machine ended while it ran, as often as is borne.
    Lost,
}

impl Progress {
    pub(crate) fn from_env() -> Result<Self> {
        let file = env::var_os(VARIABLE).map(PathBuf::from);
        let past = file.as_deref().map_or(Ok(String::new()), read)?;
        Ok(Self { file, past })
    }

    /// What machines before this one made of a case.
    pub(crate) fn past(&self, case: &str) -> Option<Past> {
        let count = |word: &str| self.past.lines().filter(|line| line.split_once(' ') == Some((word, case))).count();
        match (count("passed"), count("failed"), count("begun")) {
            (1.., _, _) => Some(Past::Passed),
            (_, 1.., _) => Some(Past::Failed),
            (_, _, MACHINES..) => Some(Past::Lost),
            _ => None,
        }
    }

    /// Adds a line.
    pub(crate) fn note(&self, word: &str, case: &str) -> Result<()> {
        let Some(path) = &self.file else { return Ok(()) };
        let write = || writeln!(OpenOptions::new().append(true).create(true).open(path)?, "{word} {case}");
        write().with_context(|| format!("writing {}", path.display()))
    }
}

/// How many lines a file has.
pub(crate) fn lines(file: &Path) -> Result<usize> {
    Ok(read(file)?.lines().count())
}

fn read(file: &Path) -> Result<String> {
    if !file.exists() {
        return Ok(String::new());
    }
    fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_that_ends_is_borne_once() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("progress");
        let progress = || -> Result<Progress> { Ok(Progress { file: Some(file.clone()), past: read(&file)? }) };
        let first = progress()?;
        assert_eq!(first.past("a::b"), None);
        for (word, case) in
            [("begun", "a::b"), ("passed", "a::b"), ("begun", "a::c"), ("failed", "a::c"), ("begun", "a::d")]
        {
            first.note(word, case)?;
        }
        let second = progress()?;
        assert_eq!(
            ["a::b", "a::c", "a::d", "a::"].map(|case| second.past(case)),
            [Some(Past::Passed), Some(Past::Failed), None, None]
        );
        second.note("begun", "a::d")?;
        let third = progress()?;
        assert_eq!(third.past("a::d"), Some(Past::Lost));
        assert_eq!(lines(&file)?, 6);
        Ok(())
    }
}

//! pjdfstest: what POSIX says about names, modes and owners.

use std::fs;

use anyhow::{Context, Result, ensure};
use system_tests::Stage;

use super::{PATIENCE, folder, programs};

pub fn pjdfstest_fails_only_where_it_says_why(stage: &Stage) -> Result<()> {
    fs::copy(folder().join("pjdfstest.toml"), stage.project().join("settings.toml"))?;
    let mut run = stage.run("");
    run.args(["--mount", &format!("{}:/suites:ro", programs()?.display())]);
    let mut guest = run.patience(PATIENCE).converse()?;
    guest.does("echo 'tests:x:1234:1234::/tmp:/bin/sh' >>/etc/passwd; echo 'tests:x:1234:' >>/etc/group")?;
    let (status, text) = guest.ask("mkdir work; /suites/pjdfstest -c settings.toml -p work -s /tmp 2>&1")?;
    let summary = text.lines().rev().find(|line| line.contains("Summary")).context(text.clone())?;
    println!("\n{summary}");
    let wrong: Vec<_> =
        text.split('\n').filter(|line| line.contains("FAILED") || line.contains("UNEXPECTEDLY")).collect();
    ensure!(status == 0, "{summary}\n{wrong:#?}\n{text}");
    guest.leave()
}

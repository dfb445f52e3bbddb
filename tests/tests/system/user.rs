//! Users other than root.

use std::fs;
use std::os::unix::fs::MetadataExt;

use anyhow::{Result, ensure};
use rustix::process::getuid;
use system_tests::{Stage, User};

pub fn ordinary_user_of_the_kvm_group_runs_commands(stage: &Stage) -> Result<()> {
    stage.make_repository(&stage.project())?;
    let run = stage.run("id -u; git status --short --branch | head -c 3; echo hi >new; cat");
    let mut run = if getuid().is_root() { stage.as_user(User::OfKvmGroup, &run)? } else { run };
    let finished = run.stdin("piped").finish()?;
    ensure!(finished.succeeded()? == "0\n## piped", "{finished}");
    let file = stage.project().join("new").metadata()?;
    let expected = if getuid().is_root() { User::OfKvmGroup.ids() } else { User::Ours.ids() };
    ensure!((file.uid(), file.gid()) == expected, "the file belongs to {}:{}", file.uid(), file.gid());
    ensure!(fs::read(stage.project().join("new"))? == b"hi\n");
    Ok(())
}

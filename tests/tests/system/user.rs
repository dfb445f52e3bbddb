//! Users other than root.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use rustix::process::getuid;
use system_tests::{Stage, User};

use crate::sharing::PATIENCE;

/// Users of the guest as `--user` names them, and their numbers there. The last one's are those that files of strangers
/// have.
const USERS: [(&str, &str); 4] =
    [("1000", "1000:1000"), ("1000:100", "1000:100"), ("www-data", "33:33"), ("nobody", "65534:65534")];
/// Status of a vmm that could not do what it was asked to.
const FAILED: i32 = 125;

/// Who vmm runs as here.
fn invoking_user() -> User {
    if getuid().is_root() { User::OfKvmGroup } else { User::Ours }
}

fn is_the_invoking_users(file: &Path) -> Result<()> {
    let found = file.symlink_metadata().with_context(|| format!("looking at {}", file.display()))?;
    let (file, owner) = (file.display(), (found.uid(), found.gid()));
    ensure!(owner == invoking_user().ids(), "{file} belongs to {owner:?}");
    Ok(())
}

pub fn ordinary_user_of_the_kvm_group_runs_commands(stage: &Stage) -> Result<()> {
    stage.make_repository(&stage.project())?;
    let run = stage.run("id -u; git status --short --branch | head -c 3; echo hi >new; cat");
    let mut run = if getuid().is_root() { stage.as_user(User::OfKvmGroup, &run)? } else { run };
    let finished = run.stdin("piped").finish()?;
    ensure!(finished.succeeded()? == "0\n## piped", "{finished}");
    is_the_invoking_users(&stage.project().join("new"))?;
    ensure!(fs::read(stage.project().join("new"))? == b"hi\n");
    Ok(())
}

pub fn shares_belong_to_the_user_who_works_with_them(stage: &Stage) -> Result<()> {
    for (user, owner) in USERS {
        let project = stage.folder().join(format!("project of {user}"));
        fs::create_dir(&project)?;
        works(stage, &project, user, owner).with_context(|| format!("--user {user}"))?;
    }
    Ok(())
}

fn works(stage: &Stage, project: &Path, user: &str, owner: &str) -> Result<()> {
    stage.make_repository(project)?;
    fs::write(project.join("here"), "the host's\n")?;
    let mut run = stage.run_in(project, [""]);
    run.args(["--user", user]);
    let run = if getuid().is_root() { stage.as_user(User::OfKvmGroup, &run)? } else { run };
    let mut guest = run.clone().patience(PATIENCE).converse()?;
    guest.does(&format!("test $(id -u):$(id -g) = {owner}"))?;
    guest.does(&format!("for file in . here .git; do test $(stat -c %u:%g $file) = {owner} || exit 1; done"))?;
    guest
        .does("echo more >>here && echo x >new && mkdir folder && ln -s new link && mv new folder && chmod 640 here")?;
    // Git works in no folder of somebody else.
    guest.does("git add . && git -c user.name=Guest -c user.email=g@example.org commit -qm second && git status")?;
    guest.fails("touch /etc/theirs", "Permission denied")?;
    guest.leave()?;
    for name in ["here", "folder", "folder/new", "link"] {
        is_the_invoking_users(&project.join(name))?;
    }
    ensure!(fs::read(project.join("here"))? == b"the host's\nmore\n");
    Ok(())
}

pub fn a_user_whom_the_guest_does_not_know_is_refused(stage: &Stage) -> Result<()> {
    let finished = stage.run("true").args(["--user", "stranger"]).finish()?;
    finished.ended_with(FAILED)?;
    ensure!(finished.stderr.contains("no user stranger"), "{finished}");
    Ok(())
}

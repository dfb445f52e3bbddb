//! A git repository that guest and host use in turns, while the guest stays up and remembers what it has seen.
//!
//! `make test` has few files, since CPUs are emulated there; `tests/fs-suites repository` has as many as large
//! projects, and says how long each step took.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use system_tests::{Conversation, Stage};

use crate::suites::operations;

/// Each step, at 50,000 files, in an emulated machine.
const PATIENCE: Duration = Duration::from_secs(1500);
/// How long the guest may take to hear of as many changed files as a checkout makes, on a busy machine.
const NOTICE: Duration = Duration::from_secs(60);
const FEW: usize = 1000;
/// Files in a folder; every so many files one differs between the branches.
const FOLDER: usize = 100;
const DIFFERS: usize = 10;

/// The repository, seen from both sides.
struct Repository<'a> {
    project: &'a Path,
    guest: Conversation,
    is_timed: bool,
}

impl Repository<'_> {
    /// A step of the guest's, timed.
    fn guest(&mut self, what: &str, script: &str) -> Result<()> {
        let begun = Instant::now();
        self.guest.does(&format!("{{ {script}\n}}")).with_context(|| format!("the guest: {what}"))?;
        self.tell(&format!("guest {what}"), begun.elapsed());
        Ok(())
    }

    fn host(&self, what: &str, script: &str) -> Result<()> {
        let begun = Instant::now();
        let output = Command::new("sh")
            .args(["-euc", script])
            .current_dir(self.project)
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .envs(author("Host"))
            .output()?;
        ensure!(output.status.success(), "the host: {what}: {}", String::from_utf8_lossy(&output.stderr));
        self.tell(&format!("host {what}"), begun.elapsed());
        Ok(())
    }

    /// Waits until the guest has heard of what the host has done.
    fn guest_notices(&mut self, commit: &str) -> Result<()> {
        let script =
            format!("test \"$(git log -1 --format=%s)\" = '{commit}' && test -z \"$(git status --porcelain)\"");
        let took = self.guest.sees(&script, NOTICE)?;
        self.tell(&format!("guest sees {commit:?}, and a clean tree"), took);
        Ok(())
    }

    fn tell(&self, what: &str, took: Duration) {
        if self.is_timed {
            println!("    {what}: {:.1} s", took.as_secs_f64());
        }
    }
}

fn author(name: &str) -> [(&'static str, &str); 4] {
    let address = "e@example.org";
    [
        ("GIT_AUTHOR_NAME", name),
        ("GIT_AUTHOR_EMAIL", address),
        ("GIT_COMMITTER_NAME", name),
        ("GIT_COMMITTER_EMAIL", address),
    ]
}

/// Nothing changed, nothing untracked.
const CLEAN: &str = "test -z \"$(git status --porcelain)\"";

pub fn guest_and_host_work_in_it_in_turns(stage: &Stage) -> Result<()> {
    let (project, files) = (stage.project(), operations(FEW, 50_000));
    stage.make_repository(&project)?;
    write(&project, (0..files).map(|index| (index, "as it was")))?;
    let mut guest = stage.run("").patience(PATIENCE).converse()?;
    for (name, value) in author("Guest") {
        guest.does(&format!("export {name}='{value}'"))?;
    }
    let mut both = Repository { project: &project, guest, is_timed: files > FEW };
    both.host("adds and commits all", "git add . && git commit -qm all && git checkout -q -b side")?;
    write(&project, (0..files).step_by(DIFFERS).map(|index| (index, "otherwise")))?;
    both.host("commits a branch", "git commit -qam side && git checkout -q - && git branch -m main")?;
    both.guest_notices("all")?;
    for round in 0..2 {
        both.guest("status", CLEAN)?;
        both.guest("checkout", &format!("git checkout -q side && {CLEAN}"))?;
        both.host("status", &format!("{CLEAN} && grep -rq otherwise 0"))?;
        let edit = format!("for n in 1 2 3; do echo guest {round} >>$n/file; git add $n/file; done");
        both.guest("commit", &format!("{edit}; git commit -qm 'guest {round}' && git checkout -q main && {CLEAN}"))?;
        both.host("checkout", &format!("{CLEAN} && git checkout -q side && {CLEAN}"))?;
        both.guest_notices(&format!("guest {round}"))?;
        let edit = format!("for n in 1 2 3; do echo host {round} >>$n/file; done");
        both.host("commit", &format!("{edit}; git commit -qam 'host {round}'"))?;
        both.guest_notices(&format!("host {round}"))?;
        both.host("checkout", &format!("git checkout -q main && {CLEAN}"))?;
        both.guest_notices("all")?;
    }
    both.guest("worktree", "git worktree add -q tree side && test -z \"$(git -C tree status --porcelain)\"")?;
    both.host(
        "status of the guest's worktree",
        "test -z \"$(git -C tree status --porcelain)\"; git worktree remove tree",
    )?;
    both.guest.sees("test ! -e tree && git worktree prune", NOTICE)?;
    both.guest("gc", "git gc -q && git fsck --strict")?;
    both.host("gc", &format!("{CLEAN} && git gc -q --prune=now && git fsck --strict"))?;
    both.guest_notices("all")?;
    both.guest("clone", "git clone -q . copy && test -z \"$(git -C copy status --porcelain)\"")?;
    both.host(
        "status of the guest's clone",
        "test -z \"$(git -C copy status --porcelain)\" && git -C copy fsck && rm -r copy",
    )?;
    both.guest.sees("test ! -e copy", NOTICE)?;
    both.host("worktree", "git worktree add -q tree side")?;
    both.guest.sees("test -z \"$(git -C tree status --porcelain)\"", NOTICE)?;
    both.guest("removes the host's worktree", &format!("git worktree remove tree && git fsck && {CLEAN}"))?;
    both.host("status at the end", &format!("{CLEAN} && test \"$(git rev-list --count side)\" = 7"))?;
    both.guest.leave()
}

fn write(project: &Path, files: impl Iterator<Item = (usize, &'static str)>) -> Result<()> {
    for (index, text) in files {
        let folder = project.join((index / FOLDER).to_string());
        fs::create_dir_all(&folder)?;
        let name = if index % FOLDER == 0 { "file".to_owned() } else { index.to_string() };
        fs::write(folder.join(name), format!("{text}\n").repeat(index % 50 + 1))?;
    }
    Ok(())
}

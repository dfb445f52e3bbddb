//! Shared folders while the host's user works in them, too. The table of cases is in `sharing`.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use system_tests::{NOTICE, Stage, quoted};

use crate::sharing::{PATIENCE, guest};

/// How soon a VM must be gone when it is asked to.
const STOP: Duration = Duration::from_secs(5);

pub fn folder_moved_out_of_the_share_is_closed(stage: &Stage) -> Result<()> {
    let (held, outside) = (stage.project().join("held"), stage.folder().join("outside"));
    fs::create_dir_all(held.join("below"))?;
    fs::write(held.join("file"), "inside")?;
    fs::create_dir(&outside)?;
    let mut guest = guest(stage, &[])?;
    guest.does("exec 3<>held/file; cd held/below; ls ..; test -e ../file")?;
    fs::rename(&held, outside.join("moved"))?;
    fs::write(outside.join("moved/below/private"), "the host's")?;
    // Whatever the guest's kernel still knows of the folder, the host's kernel opens nothing for it out there.
    guest.does(
        "! echo x >new && ! mkdir folder && ! ln -s a link && ! cat private && ! echo x >>../file && ! cat ../file",
    )?;
    guest.does("! rm -f private && ! rmdir ../below && test \"$(cat <&3)\" = inside")?;
    guest.does("cd /; cd \"$OLDPWD/../..\" && echo on >goes && rm goes || cd /")?;
    guest.leave()?;
    let mut left: Vec<_> =
        fs::read_dir(outside.join("moved/below"))?.map(|entry| Ok(entry?.file_name())).collect::<Result<_>>()?;
    left.sort();
    ensure!(left == ["private"], "outside the share there is {left:?}");
    ensure!(fs::read(outside.join("moved/file"))? == b"inside");
    Ok(())
}

pub fn contents_cross_at_once(stage: &Stage) -> Result<()> {
    let project = stage.project();
    let file = project.join("file");
    let mut guest = guest(stage, &[])?;
    let starts = |expected: &[u8]| -> Result<()> {
        let found = fs::read(&file)?;
        ensure!(found.starts_with(expected), "the host reads {:?}", String::from_utf8_lossy(&found));
        Ok(())
    };
    // The guest writes: after close, after fsync, without either; then through mapped memory.
    guest.does("echo closed >file")?;
    starts(b"closed\n")?;
    guest.does("exec 5<>file; echo again >&5")?;
    starts(b"again\n")?;
    guest.does("echo more >&5; sync file")?;
    starts(b"again\nmore\n")?;
    guest.does("exec 5>&-")?;
    let program = r#"
import mmap, os, sys
f = os.open("file", os.O_RDWR); os.ftruncate(f, 8192)
m = mmap.mmap(f, 8192)
m[:6] = b"mapped"; m.flush()
open("step1", "w").close()
while True:
    os.fstat(f)
    if m[4096:4100] == b"host": break
m[:5] = b"heard"; m.flush()
"#;
    guest.does(&format!("python3 -c {} >/tmp/log 2>&1 & echo $! >/tmp/pid", quoted(program)))?;
    let begun = Instant::now();
    while !project.join("step1").exists() {
        ensure!(begun.elapsed() < PATIENCE, "the guest's program does not start: {}", guest.does("cat /tmp/log")?);
        thread::sleep(Duration::from_millis(20));
    }
    starts(b"mapped")?;
    // The host writes in place, where the guest has the page in memory.
    fs::File::options().write(true).open(&file)?.write_all_at(b"host", 4096)?;
    guest.sees("! kill -0 $(cat /tmp/pid) 2>/dev/null && test \"$(head -c 5 file)\" = heard", NOTICE)?;
    starts(b"heard")?;
    // In place with another length, and by replacement as editors do.
    for (round, text) in ["short", "much longer than it was before", "x"].iter().enumerate() {
        if round == 2 {
            fs::write(project.join("file.new"), text)?;
            fs::rename(project.join("file.new"), &file)?;
        } else {
            fs::write(&file, text)?;
        }
        guest.sees(&format!("test \"$(cat file)\" = '{text}'"), NOTICE)?;
    }
    fs::File::options().write(true).open(&file)?.set_len(0)?;
    guest.sees("test ! -s file", NOTICE)?;
    guest.leave()
}

pub fn names_cross(stage: &Stage) -> Result<()> {
    let project = stage.project();
    let mut guest = guest(stage, &[])?;
    for round in 0..3 {
        // Asked for in vain, then made by the host.
        let name = format!("late{round}");
        guest.does(&format!("test ! -e {name}; test ! -e deep/{name}"))?;
        fs::create_dir_all(project.join("deep"))?;
        fs::write(project.join(&name), "here")?;
        fs::write(project.join("deep").join(&name), "there")?;
        guest.sees(&format!("cat {name} deep/{name}"), NOTICE)?;
        guest.sees(&format!("ls | grep -qx {name}"), NOTICE)?;
        // Removed by the host, made anew by the guest: what it writes must not go to the old file.
        fs::remove_file(project.join(&name))?;
        guest.does(&format!("echo guest >{name} && rm -f {name} && echo once more >{name}"))?;
        ensure!(fs::read(project.join(&name))? == b"once more\n", "what the guest wrote did not arrive");
        fs::rename(project.join("deep"), project.join(format!("moved{round}")))?;
        guest.sees(&format!("test ! -e deep && test -e moved{round}/{name}"), NOTICE)?;
    }
    guest.leave()
}

pub fn git_status_is_stable_on_either_side(stage: &Stage) -> Result<()> {
    let project = stage.project();
    stage.make_repository(&project)?;
    for index in 0..100 {
        fs::write(project.join(format!("file{index}")), vec![b'x'; index])?;
    }
    git(&project, &["add", "."])?;
    git(&project, &["commit", "-qm", "files"])?;
    let index = || -> Result<(i64, i64)> {
        let index = fs::metadata(project.join(".git/index"))?;
        Ok((index.mtime(), index.mtime_nsec()))
    };
    let mut guest = guest(stage, &[])?;
    for _ in 0..2 {
        guest.does("test -z \"$(git status --porcelain)\"; sleep 1.1; git status")?;
        let refreshed = index()?;
        guest.does("git status")?;
        ensure!(index()? == refreshed, "a second status in the guest writes the index again");
        ensure!(git(&project, &["status", "--porcelain"])?.is_empty());
        git(&project, &["status"])?;
        let refreshed = index()?;
        git(&project, &["status"])?;
        ensure!(index()? == refreshed, "a second status on the host writes the index again");
        fs::write(project.join("file7"), "changed by the host")?;
        guest.sees("test \"$(git status --porcelain)\" = ' M file7'", NOTICE)?;
        git(&project, &["checkout", "-q", "file7"])?;
        guest.sees("test -z \"$(git status --porcelain)\"", NOTICE)?;
    }
    guest.leave()
}

pub fn git_commits_from_both_sides_at_once(stage: &Stage) -> Result<()> {
    const COMMITS: usize = 8;
    let project = stage.project();
    stage.make_repository(&project)?;
    let mut guest = guest(stage, &[])?;
    let work = |who: &str| {
        format!(
            "export GIT_AUTHOR_NAME={who} GIT_AUTHOR_EMAIL=e@example.org GIT_COMMITTER_NAME={who} GIT_COMMITTER_EMAIL=e@example.org
             n=0; while [ $n -lt {COMMITS} ]; do
                 echo $n >{who}$n; git add {who}$n >/dev/null 2>&1 && git commit -qm \"{who} $n\" {who}$n >/dev/null 2>&1 && n=$((n + 1)) || sleep 0.05
             done; echo done"
        )
    };
    let script = work("host");
    let folder = project.clone();
    // A lock that the other side holds is waited for; everything else would go on until the time limit.
    let host = thread::spawn(move || {
        Command::new("timeout")
            .args(["200", "sh", "-c", &script])
            .current_dir(folder)
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .output()
    });
    guest.does(&work("guest"))?;
    let host = host.join().map_err(|_| anyhow!("the host's half panicked"))??;
    ensure!(host.status.success(), "the host's half: {}", String::from_utf8_lossy(&host.stderr));
    guest.does("git fsck --strict && git gc -q && test -z \"$(git status --porcelain)\"")?;
    guest.leave()?;
    git(&project, &["fsck", "--strict"])?;
    let log = git(&project, &["log", "--format=%s"])?;
    for who in ["host", "guest"] {
        let count = log.lines().filter(|line| line.starts_with(who)).count();
        ensure!(count == COMMITS, "{count} commits by the {who}:\n{log}");
    }
    ensure!(git(&project, &["status", "--porcelain"])?.is_empty());
    Ok(())
}

pub fn share_replaced_or_removed_while_in_use(stage: &Stage) -> Result<()> {
    let [first, second] = ["first", "second"].map(|name| stage.folder().join(name));
    for folder in [&first, &second] {
        fs::create_dir(folder)?;
        fs::write(folder.join("file"), "original")?;
    }
    let mut run = stage.run("");
    for folder in [&first, &second] {
        run.args(["--mount".as_ref(), folder.as_os_str()]);
    }
    let mut guest = run.patience(PATIENCE).converse()?;
    let (one, two) = (first.display(), second.display());
    guest.does(&format!("cat {one}/file {two}/file; exec 3<{one}/file; cd {one}"))?;
    // Another folder takes the name: the share is the one that was given to the VM, wherever it is now.
    let moved = stage.folder().join("moved");
    fs::rename(&first, &moved)?;
    fs::create_dir(&first)?;
    fs::write(first.join("file"), "another")?;
    guest.does(&format!("test \"$(cat file {one}/file <&3)\" = originaloriginal; echo guest >new"))?;
    ensure!(fs::read(moved.join("new"))? == b"guest\n" && !first.join("new").exists());
    // Gone altogether: errors, not hangs; the other shares go on.
    fs::remove_dir_all(&second)?;
    guest.sees(&format!("! ls {two}/file 2>/dev/null"), NOTICE)?;
    guest.does(&format!(
        "! echo x >{two}/new && ! mkdir {two}/folder && ! cat {two}/file; ls {two} || true; echo on >goes"
    ))?;
    fs::remove_dir_all(&moved)?;
    guest.sees("! cat file 2>/dev/null", NOTICE)?;
    guest.does("test \"$(cat <&3)\" = original && ! echo x >new && cd / && exec 3<&-")?;
    guest.does(&format!(
        "cd {} && echo on >goes && cat goes && rm goes",
        quoted(&stage.project().display().to_string())
    ))?;
    let begun = Instant::now();
    guest.leave()?;
    ensure!(begun.elapsed() < STOP, "the end took {:?}", begun.elapsed());
    ensure!(fs::read(first.join("file"))? == b"another");
    Ok(())
}

fn git(project: &Path, words: &[&str]) -> Result<String> {
    let mut command = Command::new("git");
    command.arg("-C").arg(project).args(["-c", "user.name=Host", "-c", "user.email=host@example.org"]).args(words);
    let output = command.env("GIT_CONFIG_GLOBAL", "/dev/null").output().context("running git")?;
    ensure!(output.status.success(), "git {words:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

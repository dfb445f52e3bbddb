//! Shared files: what a guest sees and may do, and who is in the way if the file server is taken over.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use system_tests::Stage;

/// Many small programs in an emulated machine, in the kvm engine's case inside another one.
const PATIENCE: Duration = Duration::from_secs(400);

/// `check NAME COMMAND...` in the guest: a line of output for each command that does not do as it should.
const CHECKS: &str = r#"
set -u
check() { what=$1; shift; if ! ( set -e; eval "$@" ) >/tmp/out 2>&1; then echo "FAILED: $what: $(cat /tmp/out)"; fi; }
refused() { what=$1; shift; if out=$( ( eval "$@" ) 2>&1 ); then echo "ALLOWED: $what"; else
    case $out in *'Read-only file system'*) ;; *) echo "REFUSED ODDLY: $what: $out" ;; esac; fi; }
"#;

fn run_checks(stage: &Stage, script: &str, options: &[&str]) -> Result<()> {
    let mut run = stage.run(&format!("{CHECKS}{script}\necho done"));
    run.args(options).patience(PATIENCE);
    let finished = run.finish()?;
    ensure!(finished.succeeded()? == "done", "{finished}");
    Ok(())
}

fn host_git(project: &Path, words: &[&str]) -> Result<String> {
    let mut command = Command::new("git");
    command.arg("-C").arg(project).args(["-c", "user.name=Host", "-c", "user.email=host@example.org"]).args(words);
    let output = command.env("GIT_CONFIG_GLOBAL", "/dev/null").output().context("running git")?;
    ensure!(output.status.success(), "git {words:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

pub fn files_behave_as_on_a_local_disk(stage: &Stage) -> Result<()> {
    let project = stage.project();
    symlink("/etc/hostname", project.join("host-link"))?;
    fs::write(project.join("README"), "upper")?;
    run_checks(
        stage,
        r##"
        check 'links are the guest s own' 'test "$(cat host-link)" = "$(cat /etc/hostname)"'
        check 'open file outlives its name' 'exec 3>gone; rm gone; echo data >&3; test "$(cat /proc/self/fd/3)" = data'
        check 'open file outlives its replacement' \
            'echo old >f; exec 3<f; echo new >g; mv g f; test "$(cat <&3)$(cat f)" = oldnew'
        check 'removed working folder' 'mkdir d; cd d; rmdir ../d; test -z "$(ls)"'
        check 'hard links are one file' \
            'echo x >one; ln one two; test one -ef two; test "$(stat -c %h two)" = 2; mv two three; echo y >>one; test "$(wc -l <three)" = 2'
        check 'case and odd names' \
            'echo lower >readme; test "$(cat README)" = upper; n=$(printf "a\nb\377\360\237\230\200"); echo odd >"$n"; test "$(cat "$n")" = odd'
        check 'longest name' 'n=$(printf %0255d 0); touch $n; test -e $n; rm $n'
        check 'modes' 'echo "#!/bin/sh" >run; chmod 755 run; ./run; chmod u+s run; test -x run'
        check 'time stamps to the nanosecond' \
            'touch -d "2020-02-02 02:02:02.123456789" t; stat -c %y t | grep -q 02:02:02.123456789'
        check 'holes' 'truncate -s 1M sparse; echo end >>sparse; test "$(stat -c %b sparse)" -lt 100; fallocate -l 64K full; fallocate -p -l 4K full'
        check 'locks' 'exec 4>lock; flock -n 4; if flock -n lock true; then exit 1; fi'
        check 'fifos and sockets' 'mkfifo fifo; (echo through >fifo &); test "$(cat fifo)" = through'
        check 'archives keep what they can' 'tar -cf a.tar one three run; mkdir x; tar -xpf a.tar -C x; test x/one -ef x/three'
        if mknod dev c 1 3 2>/dev/null; then echo 'ALLOWED: device node'; fi
        check 'mapped writes' 'python3 -c "
import mmap
with open(\"mapped\", \"wb+\") as f:
    f.truncate(8192)
    with mmap.mmap(f.fileno(), 8192) as m:
        m[4000:4004] = b\"page\"
        m.flush()"'
        check 'atomic replacement and databases' 'python3 -c "
import sqlite3
for mode in (\"wal\", \"delete\"):
    c = sqlite3.connect(\"db-\" + mode)
    c.execute(\"pragma journal_mode=\" + mode)
    c.execute(\"create table t (x)\")
    with c: c.executemany(\"insert into t values (?)\", ((n,) for n in range(1000)))
    assert c.execute(\"pragma integrity_check\").fetchone() == (\"ok\",)
    c.close()"'
        "##,
        &[],
    )?;
    let mode = fs::metadata(project.join("run"))?.permissions().mode();
    ensure!(mode & 0o7777 == 0o755, "the set-id bit got through: {mode:o}");
    ensure!(&fs::read(project.join("mapped"))?[4000..4004] == b"page");
    ensure!(fs::read(project.join("db-wal"))?.starts_with(b"SQLite"));
    let modified = fs::metadata(project.join("t"))?.mtime_nsec();
    ensure!(modified == 123_456_789, "{modified}");
    Ok(())
}

pub fn guarded_paths_hold_against_the_guest(stage: &Stage) -> Result<()> {
    let project = stage.project();
    stage.make_repository(&project)?;
    fs::write(project.join(".env"), "SECRET=1")?;
    fs::write(project.join("Makefile"), "all:")?;
    fs::hard_link(project.join(".git/config"), project.join("alias"))?;
    fs::write(project.join(".git/hooks/post-commit"), "#!/bin/sh\ntouch hook-ran\n")?;
    fs::set_permissions(project.join(".git/hooks/post-commit"), fs::Permissions::from_mode(0o755))?;
    let config = fs::read(project.join(".git/config"))?;
    run_checks(
        stage,
        r##"
        export GIT_AUTHOR_NAME=Guest GIT_AUTHOR_EMAIL=g@example.org GIT_COMMITTER_NAME=Guest GIT_COMMITTER_EMAIL=g@example.org
        refused 'hook' 'echo evil >.git/hooks/pre-commit'
        refused 'changed hook' 'echo evil >>.git/hooks/post-commit'
        refused 'configuration' 'git config core.fsmonitor evil'
        refused 'configuration renamed over' 'echo evil >c; mv c .git/config'
        refused 'alias' 'echo evil >>alias'
        refused 'removed folder' 'rm -r .git/hooks'
        refused 'moved parent' 'mv .git elsewhere'
        refused 'hard link' 'ln .git/hooks/post-commit mine'
        refused 'redirected git folder' 'echo /evil >.git/commondir'
        refused 'directory environment' 'echo evil >.envrc'
        refused 'editor' 'mkdir .vscode'
        refused 'own path' 'echo evil >>Makefile'
        refused 'hidden path' 'echo x >.env'
        check 'hidden is absent' 'test ! -e .env; ! ls -A | grep -qx .env'
        check 'protected is readable' 'git config --list; cat Makefile .git/hooks/post-commit'
        check 'git works' 'echo 1 >file; git add file; git commit -qm guest; git branch side; git checkout -q side; git status'
        check 'hooks run' 'test -e hook-ran'
        "##,
        &["--hide", ".env", "--protect", "Makefile"],
    )?;
    ensure!(fs::read(project.join(".git/config"))? == config);
    ensure!(fs::read(project.join(".env"))? == b"SECRET=1");
    ensure!(host_git(&project, &["log", "--format=%an", "-1"])? == "Guest");
    Ok(())
}

pub fn git_is_used_from_both_sides(stage: &Stage) -> Result<()> {
    const FILES: usize = 200;
    let project = stage.project();
    stage.make_repository(&project)?;
    for index in 0..FILES {
        let folder = project.join(format!("folder{}", index % 20));
        fs::create_dir_all(&folder)?;
        fs::write(folder.join(index.to_string()), vec![b'x'; index * 7])?;
    }
    host_git(&project, &["add", "."])?;
    host_git(&project, &["commit", "-qm", "host"])?;
    let script = r##"
        export GIT_AUTHOR_NAME=Guest GIT_AUTHOR_EMAIL=g@example.org GIT_COMMITTER_NAME=Guest GIT_COMMITTER_EMAIL=g@example.org
        check 'clean at first' 'test -z "$(git status --porcelain)"'
        check 'commit' 'for i in 1 2 3; do echo $i >>folder1/1; git commit -qam "guest $i"; done; test -z "$(git status --porcelain)"'
        check 'checkout' 'git checkout -q -b side HEAD~2; git checkout -q -; test -z "$(git status --porcelain)"'
        check 'clone' 'git clone -q . copy; test -z "$(git -C copy status --porcelain)"; rm -r copy'
        check 'worktree' 'git worktree add -q tree side; test -z "$(git -C tree status --porcelain)"; git worktree remove tree'
        check 'packing' 'git gc -q; git fsck --strict; git stash list'
        "##;
    run_checks(stage, script, &[])?;
    ensure!(host_git(&project, &["status", "--porcelain"])?.is_empty());
    ensure!(host_git(&project, &["rev-list", "--count", "HEAD"])? == "5");
    host_git(&project, &["fsck", "--strict"])?;
    fs::write(project.join("folder2/2"), "by the host")?;
    host_git(&project, &["commit", "-qam", "host again"])?;
    run_checks(
        stage,
        "check 'clean after the host' 'test -z \"$(git status --porcelain)\"; git log -1 --format=%s | grep -q again'",
        &[],
    )
}

pub fn full_disk_and_read_only_shares_say_so(stage: &Stage) -> Result<()> {
    let [small, fixed] = ["small", "fixed"].map(|name| stage.folder().join(name));
    fs::create_dir(&small)?;
    fs::create_dir(&fixed)?;
    fs::write(fixed.join("file"), "data")?;
    let script = format!(
        "{CHECKS}{}",
        r##"
        if out=$(head -c 8M /dev/zero 2>&1 >/small/big); then echo 'ALLOWED: more than there is'; fi
        case $out in *'No space left on device'*) ;; *) echo "FAILED ODDLY: $out" ;; esac
        check 'room again' 'rm /small/big; echo data >/small/file; test "$(cat /small/file)" = data'
        if mv /small/file /fixed/ 2>/dev/null; then echo 'ALLOWED: move into a read-only share'; fi
        # Whatever the guest makes of its own mount, the host decides.
        mount -o remount,rw /fixed 2>/dev/null || true
        mount -o remount,rw,bind /fixed 2>/dev/null || true
        refused 'write' 'echo x >/fixed/file'
        refused 'create' 'echo x >/fixed/new'
        refused 'remove' 'rm -f /fixed/file'
        check 'different shares are different disks' 'test "$(stat -c %d /small)" != "$(stat -c %d /fixed)"'
        echo done
        "##
    );
    let mut run = stage.run(&script);
    let mount = |path: &Path, tail: &str| format!("{}:{tail}", path.display());
    run.args(["--mount", &mount(&small, "/small"), "--mount", &mount(&fixed, "/fixed:ro")]);
    run.through_script(&format!("mount -t tmpfs -o size=2M small '{}'; exec \"$@\"", small.display()));
    let finished = run.patience(PATIENCE).finish()?;
    ensure!(finished.succeeded()? == "done", "{finished}");
    ensure!(fs::read(fixed.join("file"))? == b"data");
    Ok(())
}

pub fn file_server_is_confined_by_the_hosts_kernel(stage: &Stage) -> Result<()> {
    let run = stage
        .run("touch ready; while [ ! -e enough ]; do sleep 0.1; done; rm ready enough")
        .patience(PATIENCE)
        .start()?;
    let ready = stage.project().join("ready");
    system_tests::until("the guest", PATIENCE, || Ok(ready.exists().then_some(())))?;
    let confined = confined_threads(run.id())?;
    fs::write(stage.project().join("enough"), "")?;
    run.finish()?.succeeded()?;
    ensure!(!confined.is_empty(), "no thread of the file server was found");
    ensure!(
        confined.iter().all(|status| status.contains("Seccomp:\t2") && status.contains("NoNewPrivs:\t1")),
        "{confined:?}"
    );
    Ok(())
}

/// What the kernel says of the threads called `fs` in a process.
fn confined_threads(process: u32) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for thread in fs::read_dir(format!("/proc/{process}/task"))? {
        let thread = thread?.path();
        if fs::read_to_string(thread.join("comm"))?.trim() == "fs" {
            found.push(fs::read_to_string(thread.join("status"))?);
        }
    }
    Ok(found)
}

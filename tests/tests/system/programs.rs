//! Real programs in a shared folder: what people run all day, offline. The table of cases is in `sharing`.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::getuid;
use system_tests::{Conversation, NOTICE, Stage, User, quoted};

use crate::sharing::{PATIENCE, guest, python};

/// A compiler in an emulated machine in another one.
const LONG: Duration = Duration::from_secs(900);

pub fn packages_install(stage: &Stage) -> Result<()> {
    let mut guest = stage.run("").patience(LONG).converse()?;
    npm_ci(&mut guest).context("npm ci")?;
    pip_install(&mut guest).context("pip install")?;
    guest.leave()?;
    let links = fs::read_link(stage.project().join("app/node_modules/.bin/hello"))?;
    ensure!(links == Path::new("../dep/hello.js"), "{}", links.display());
    let mode = fs::metadata(stage.project().join("app/node_modules/dep/hello.js"))?.mode();
    ensure!(mode & 0o111 == 0o111, "the program of the package has mode {mode:o}");
    Ok(())
}

fn npm_ci(guest: &mut Conversation) -> Result<()> {
    python(
        guest,
        r##"
import base64, hashlib, io, json, os, tarfile
os.mkdir("app")
with tarfile.open("app/dep-1.0.0.tgz", "w:gz") as archive:
    def add(name, text):
        entry = tarfile.TarInfo("package/" + name); entry.size = len(text); entry.mode = 0o755 if name == "hello.js" else 0o644
        entry.uid = entry.gid = 12345; entry.mtime = 499162500
        archive.addfile(entry, io.BytesIO(text.encode()))
    add("package.json", json.dumps({"name": "dep", "version": "1.0.0", "bin": {"hello": "hello.js"}}))
    add("hello.js", "#!/usr/bin/env node\nconsole.log('hello');")
    for n in range(300): add("lib/%d/index.js" % n, "module.exports = %d;" % n)
integrity = "sha512-" + base64.b64encode(hashlib.sha512(open("app/dep-1.0.0.tgz", "rb").read()).digest()).decode()
package = {"name": "app", "version": "1.0.0", "dependencies": {"dep": "file:dep-1.0.0.tgz"}}
json.dump(package, open("app/package.json", "w"))
locked = {"version": "1.0.0", "resolved": "file:dep-1.0.0.tgz", "integrity": integrity, "bin": {"hello": "hello.js"}}
json.dump({"name": "app", "version": "1.0.0", "lockfileVersion": 3, "requires": True,
           "packages": {"": package, "node_modules/dep": locked}}, open("app/package-lock.json", "w"))
"##,
    )?;
    // The second time there is something to remove first.
    guest.does("cd app; npm ci --offline --no-audit --no-fund && npm ci --offline --no-audit --no-fund && npx --offline hello; cd ..")?;
    guest.does("node -e 'if (require(\"./app/node_modules/dep/lib/299\") !== 299) process.exit(1)'").map(drop)
}

fn pip_install(guest: &mut Conversation) -> Result<()> {
    python(
        guest,
        r#"
import zipfile
with zipfile.ZipFile("thing-1.0-py3-none-any.whl", "w") as wheel:
    files = {"thing/__init__.py": "def answer(): return 42\n"}
    files.update({"thing/m%d.py" % n: "value = %d\n" % n for n in range(50)})
    info = "thing-1.0.dist-info/"
    files[info + "METADATA"] = "Metadata-Version: 2.1\nName: thing\nVersion: 1.0\n"
    files[info + "WHEEL"] = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files[info + "entry_points.txt"] = "[console_scripts]\nthing = thing:answer\n"
    files[info + "RECORD"] = "".join(name + ",,\n" for name in [*files, info + "RECORD"])
    for name, text in files.items(): wheel.writestr(name, text)
"#,
    )?;
    // The pip that virtual environments are made with, without the half minute that making one takes here.
    guest.does(
        "python3 -m venv --without-pip env
         env/bin/python $(echo /usr/share/python-wheels/pip-*.whl)/pip install --no-index --disable-pip-version-check ./thing-*.whl
         env/bin/python -c 'import thing, thing.m49; assert thing.answer() == 42'
         status=0; env/bin/thing || status=$?; test $status = 42",
    )?;
    Ok(())
}

pub fn archives_and_copies_keep_what_they_can(stage: &Stage) -> Result<()> {
    ensure!(getuid().is_root(), "running vmm as another user needs root; run the tests as root");
    archives_and_copies(stage, &stage.run(""), User::Ours).context("as root")?;
    fs::remove_dir_all(stage.project())?;
    fs::create_dir(stage.project())?;
    archives_and_copies(stage, &stage.as_user(User::OfKvmGroup, &stage.run(""))?, User::OfKvmGroup).context("as a user")
}

fn archives_and_copies(stage: &Stage, run: &system_tests::Invocation, user: User) -> Result<()> {
    let mut run = run.clone();
    // The image has no rsync: this machine's runs there with this machine's libraries.
    run.args(["--mount", "/usr:/host:ro"]);
    let mut guest = run.patience(PATIENCE).converse()?;
    // Guest root who is an ordinary user on the host cannot write into a folder that this user may not write to.
    let mode = if user == User::Ours { "0o555" } else { "0o755" };
    let program = r##"
import io, tarfile
with tarfile.open("archive.tar", "w") as archive:
    def add(name, kind=tarfile.REGTYPE, mode=0o644, owner=0, text="", link=""):
        entry = tarfile.TarInfo("tree/" + name); entry.type = kind; entry.mode = mode; entry.uid = entry.gid = owner
        entry.size = len(text); entry.linkname = link; entry.mtime = 1234567890
        archive.addfile(entry, io.BytesIO(text.encode()))
    add("", tarfile.DIRTYPE, 0o755)
    for n in range(500): add("file%d" % n, owner=n, text="x" * n)
    add("run", mode=0o755, owner=1000, text="#!/bin/sh\n")
    add("private", mode=0o600, owner=33)
    add("fixed", tarfile.DIRTYPE, MODE, 33); add("fixed/below", mode=0o444, owner=33, text="below")
    add("hard", tarfile.LNKTYPE, link="tree/run"); add("soft", tarfile.SYMTYPE, link="run"); add("fifo", tarfile.FIFOTYPE)
"##;
    python(&mut guest, &program.replace("MODE", mode))?;
    guest.does("tar -xpf archive.tar && tar -df archive.tar | grep -vE 'Uid|Gid' | (! grep .)")?;
    guest.does(
        "cd tree; test run -ef hard; test -L soft; test -p fifo; test $(stat -c %a:%Y private) = 600:1234567890; cd ..",
    )?;
    guest.does("cp -a tree copied && diff -r --no-dereference -x fifo tree copied && test $(stat -c %a:%Y copied/run) = 755:1234567890")?;
    let rsync =
        "/host/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2 --library-path /host/lib/x86_64-linux-gnu /host/bin/rsync";
    guest.does(&format!("{rsync} --version | head -1; {rsync} -aH --rsync-path=/none tree/ synced/"))?;
    let changes = guest.does(&format!("echo more >>tree/file5; {rsync} -aHi tree/ synced/"))?;
    ensure!(
        changes.lines().count() == 1 && changes.contains("file5"),
        "the second rsync copies more than what changed: {changes}"
    );
    guest.does("test synced/run -ef synced/hard; chmod -R u+w tree copied synced; rm -r copied synced")?;
    guest.leave()?;
    let (uid, gid) = user.ids();
    let tree = stage.project().join("tree");
    for (name, mode) in [("file499", 0o644), ("run", 0o755), ("private", 0o600), ("fifo", 0o644)] {
        let found = fs::symlink_metadata(tree.join(name))?;
        ensure!((found.uid(), found.gid()) == (uid, gid), "{name} belongs to {}:{}", found.uid(), found.gid());
        ensure!(found.permissions().mode() & 0o7777 == mode, "{name} has mode {:o}", found.permissions().mode());
    }
    Ok(())
}

pub fn cargo_builds_and_then_has_nothing_to_do(stage: &Stage) -> Result<()> {
    let toolchain = Command::new("rustc").args(["--print", "sysroot"]).output().context("running rustc")?;
    let toolchain = PathBuf::from(String::from_utf8(toolchain.stdout)?.trim());
    let project = stage.project();
    for folder in ["src", "dep/src"] {
        fs::create_dir_all(project.join(folder))?;
    }
    fs::write(
        project.join("Cargo.toml"),
        "[package]\nname = \"app\"\nversion = \"0.1.0\"\nedition = \"2024\"\n[dependencies]\ndep = { path = \"dep\" }\n",
    )?;
    fs::write(project.join("src/main.rs"), "fn main() { println!(\"{}\", dep::answer()); }\n")?;
    fs::write(project.join("dep/Cargo.toml"), "[package]\nname = \"dep\"\nversion = \"0.1.0\"\nedition = \"2024\"\n")?;
    fs::write(project.join("dep/src/lib.rs"), "pub fn answer() -> u32 { 42 }\n")?;
    let mut run = stage.run("");
    run.args(["--mount", &format!("{}:/toolchain:ro", toolchain.display())]).env("VMM_MEMORY", "1536M");
    let mut guest = run.patience(LONG).converse()?;
    guest.does("export PATH=/toolchain/bin:$PATH CARGO_HOME=/tmp/cargo CARGO_TERM_COLOR=never; cargo build --offline 2>&1 | tee log; grep Compiling log")?;
    ensure!(guest.does("target/debug/app")? == "42");
    guest.does("cargo build --offline -v 2>&1 | tee log; test $(grep -c Fresh log) = 2; ! grep -q Dirty log")?;
    fs::write(project.join("dep/src/lib.rs"), "pub fn answer() -> u32 { 4242 }\n")?;
    guest.sees("grep -q 4242 dep/src/lib.rs", NOTICE)?;
    guest.does("cargo build --offline 2>&1 | grep Compiling; test $(target/debug/app) = 4242")?;
    guest.leave()?;
    ensure!(fs::metadata(project.join("target/debug/app"))?.permissions().mode() & 0o111 == 0o111);
    Ok(())
}

/// Several processes on one database, some of which die in the middle of a transaction.
pub fn databases_survive_their_users(stage: &Stage) -> Result<()> {
    let mut guest = guest(stage, &[])?;
    let program = r#"
import os, random, signal, sqlite3, sys, time
mode, ROUNDS, WORKERS = sys.argv[1], 40, 3
name = "bank-" + mode
def connect():
    c = sqlite3.connect(name, timeout=60, isolation_level=None); c.execute("pragma synchronous=full"); return c
c = connect(); c.execute("pragma journal_mode=" + mode)
c.execute("create table account (id integer primary key, amount integer)")
c.execute("begin"); c.executemany("insert into account values (?, 100)", ((n,) for n in range(50))); c.execute("commit"); c.close()
def work(seed, dies):
    chance = random.Random(seed); c = connect()
    for n in range(ROUNDS):
        c.execute("begin immediate")
        a, b = chance.sample(range(50), 2)
        c.execute("update account set amount = amount - 7 where id = ?", (a,))
        if dies and n == ROUNDS // 2: os.kill(os.getpid(), signal.SIGKILL)
        c.execute("update account set amount = amount + 7 where id = ?", (b,))
        c.execute("commit")
        assert c.execute("select sum(amount) from account").fetchone() == (5000,)
    os._exit(0)
children = []
for seed in range(WORKERS):
    child = os.fork()
    if child == 0:
        try: work(seed, seed == 0)
        finally: os._exit(1)
    children.append(child)
ends = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
assert ends == [-9, 0, 0], ends
c = connect()
assert c.execute("select sum(amount) from account").fetchone() == (5000,)
assert c.execute("pragma integrity_check").fetchone() == ("ok",)
"#;
    for mode in ["wal", "delete"] {
        guest.does(&format!("python3 -c {} {mode}", quoted(program))).context(mode)?;
    }
    guest.leave()?;
    ensure!(fs::read(stage.project().join("bank-wal"))?.starts_with(b"SQLite format 3"));
    Ok(())
}

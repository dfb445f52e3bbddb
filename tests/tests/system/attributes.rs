//! Extended attributes of shared files, and what the banner and the status say of shares: from a guest and of one.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::fs::{XattrFlags, getxattr, llistxattr, setxattr};
use rustix::io::Errno;
use system_tests::Stage;

/// Python in an emulated machine, in the kvm engine's case inside another one.
const PATIENCE: Duration = Duration::from_secs(400);

/// Prints a line for everything that is not as it should be.
const CHECKS: &str = r##"
import errno, os, sys

def refused(expected, what, *args):
    try:
        what(*args)
    except OSError as error:
        if error.errno != expected:
            print("REFUSED ODDLY:", args, error)
    else:
        print("ALLOWED:", what.__name__, args)

def same(found, expected):
    if found != expected:
        print("FAILED:", found, "is not", expected)

project, data = os.getcwd(), "/data"
open("file", "w").close()
os.mkdir("folder")
for path in ("file", "folder", "."):
    os.setxattr(path, "user.one", b"1\0\xff")
    os.setxattr(path, "user.two", b"2", os.XATTR_CREATE)
    same(os.getxattr(path, "user.one"), b"1\0\xff")
    same(sorted(os.listxattr(path)), ["user.one", "user.two"])
    refused(errno.EEXIST, os.setxattr, path, "user.two", b"3", os.XATTR_CREATE)
    os.removexattr(path, "user.two")
    same(os.listxattr(path), ["user.one"])
    refused(errno.ENODATA, os.getxattr, path, "user.two")
    refused(errno.ENODATA, os.removexattr, path, "user.two")
    for name in ("security.capability", "security.x", "trusted.overlay.opaque", "system.posix_acl_access", "other.x"):
        refused(errno.EOPNOTSUPP, os.setxattr, path, name, b"\1\0\0\2\1\4\0\0\0\0\0\0\1\0\0\0\0\0\0\0")
        refused(errno.EOPNOTSUPP, os.getxattr, path, name)
    refused(errno.EPERM, os.setxattr, path, "user.containers.override_stat", b"0:0:0104755")
    refused(errno.E2BIG, os.setxattr, path, "user.large", b"x" * 65537)

os.symlink("file", "link")
refused(errno.EPERM, lambda *args: os.setxattr(*args, follow_symlinks=False), "link", "user.x", b"1")
same(os.getxattr("link", "user.one"), b"1\0\xff")

for path in (".git/config", ".git/hooks", data + "/file", data):
    refused(errno.EROFS, os.setxattr, path, "user.x", b"1")
    refused(errno.EROFS, os.removexattr, path, "user.host")
same(os.getxattr(data + "/file", "user.host"), b"kept")
same(os.listxattr(data + "/file"), ["user.host"])

same(os.system("cp -a file twin && mv twin /tmp/twin && cp -a /tmp/twin back"), 0)
same(os.getxattr("back", "user.one"), b"1\0\xff")
with open("program", "w") as program:
    program.write("#!/bin/sh\nexit 7\n")
os.chmod("program", 0o755)
same(os.waitstatus_to_exitcode(os.system("./program")), 7)
same(os.system("ls -l >/dev/null 2>/tmp/ls; test ! -s /tmp/ls"), 0)
print("done")
"##;

/// Writes in small pieces, runs what it has written, and copies it: all that makes a kernel ask whether a file has
/// capabilities.
const WRITES: &str = r##"
import os
with open("log", "wb", buffering=0) as log:
    for n in range(WRITES): log.write(b"%d\n" % n)
for n in range(WRITES):
    with open("log", "ab") as log: log.write(b"more")
os.truncate("log", 10)
with open("program", "w") as program: program.write("#!/bin/sh\nexit 7\n")
os.chmod("program", 0o755)
assert os.waitstatus_to_exitcode(os.system("./program")) == 7
os.rename("program", "log")
"##;
/// How many times, twice.
const COUNT: u64 = 200;
/// Opcodes of FUSE.
const WRITE: u32 = 16;
const OF_ATTRIBUTES: [u32; 4] = [21, 22, 23, 24];

pub fn programs_attributes_are_kept_and_all_others_refused(stage: &Stage) -> Result<()> {
    let project = stage.project();
    let data = stage.folder().join("data");
    stage.make_repository(&project)?;
    fs::create_dir(&data)?;
    fs::write(data.join("file"), "")?;
    setxattr(data.join("file"), "user.host", b"kept", XattrFlags::empty())?;
    fs::write(project.join("checks.py"), CHECKS)?;
    let mut run = stage.run("python3 checks.py");
    run.args(["--mount", &format!("{}:/data:ro", data.display())]).patience(PATIENCE);
    let finished = run.finish()?;
    let text = finished.succeeded()?;
    ensure!(text == "done", "{finished}");
    let mut value = [0; 16];
    // Nothing that means rights, nothing of our own, and of the guest's what it has asked for.
    for name in ["security.capability", "trusted.overlay.opaque"] {
        ensure!(getxattr(project.join("file"), name, &mut value[..]) == Err(Errno::NODATA), "{name}");
    }
    let mut bearing = Vec::new();
    bear_attributes(&project, &mut bearing)?;
    bearing.sort();
    let expected = ["", "back", "file", "folder"].map(|name| (project.join(name), b"user.one\0".to_vec()));
    ensure!(bearing.iter().eq(&expected), "{bearing:?}");
    let length = getxattr(project.join("back"), "user.one", &mut value[..])?;
    ensure!(value.get(..length) == Some(b"1\0\xff".as_slice()));
    Ok(())
}

/// All files from `path` down that have attributes, with the list of these.
fn bear_attributes(path: &Path, found: &mut Vec<(PathBuf, Vec<u8>)>) -> Result<()> {
    let mut names = [0; 1024];
    let length = llistxattr(path, &mut names[..]).with_context(|| path.display().to_string())?;
    if length > 0 {
        found.push((path.to_owned(), names.iter().copied().take(length).collect()));
    }
    if fs::symlink_metadata(path)?.is_dir() {
        for entry in fs::read_dir(path)? {
            bear_attributes(&entry?.path(), found)?;
        }
    }
    Ok(())
}

pub fn writing_asks_for_no_attributes(stage: &Stage) -> Result<()> {
    let mut run = stage.run_in(&stage.project(), ["python3", "-c", &WRITES.replace("WRITES", &COUNT.to_string())]);
    let finished = run.env("VMM_LOG", "devices=debug").patience(PATIENCE).finish()?;
    finished.succeeded()?;
    let sent = requests(&finished.stderr).with_context(|| finished.to_string())?;
    let of = |opcode: u32| sent.get(&opcode).copied().unwrap_or_default();
    ensure!(of(WRITE) >= 2 * COUNT, "{sent:?}");
    ensure!(OF_ATTRIBUTES.map(of) == [0; 4], "{sent:?}");
    Ok(())
}

/// Requests by opcode, as the file server logs them at the end.
fn requests(log: &str) -> Result<BTreeMap<u32, u64>> {
    let (_, sent) = log.split_once("sent={").context("the file server does not say what was asked")?;
    let (sent, _) = sent.split_once('}').context("half a line")?;
    let number = |pair: &str| {
        let (opcode, count) = pair.split_once(": ").context("no pair")?;
        Ok((opcode.trim().parse()?, count.parse()?))
    };
    sent.split(',').map(number).collect()
}

pub fn what_holds_in_shares_is_told_by_the_file_server(stage: &Stage) -> Result<()> {
    let project = stage.project();
    let data = stage.folder().join("data");
    stage.make_repository(&project)?;
    fs::create_dir(&data)?;
    fs::write(project.join(".env"), "SECRET=1")?;
    let script = "touch ready; while [ ! -e enough ]; do sleep 0.1; done; rm ready enough";
    let mut run = stage.run(script);
    run.args(["--hide", ".env", "--protect", "absent", "--mount", &format!("{}:/data:ro", data.display())]);
    let started = run.patience(PATIENCE).start()?;
    let ready = project.join("ready");
    system_tests::until("the guest", PATIENCE, || Ok(ready.exists().then_some(())))?;
    let status = stage.vmm(["status", "--json"]).finish()?.succeeded();
    fs::write(project.join("enough"), "")?;
    let finished = started.finish()?;
    finished.succeeded()?;
    for line in [
        format!("{} is /data in the guest, read-only", data.display()),
        "read-only in the guest: .git/config, .git/hooks".to_owned(),
        "hidden from the guest: .env".to_owned(),
    ] {
        ensure!(
            finished.stderr.lines().any(|found| found.ends_with(&line)),
            "{line:?} is not in the banner; {finished}"
        );
    }
    let status: String = status?.split_whitespace().collect();
    for part in [r#""read_only":true,"protected":[],"#, r#""hidden":[".env"]"#, r#"".git/hooks""#] {
        ensure!(status.contains(part), "{part} is not in the status: {status}");
    }
    Ok(())
}

//! What the guest's kernel believes of shared folders, and that it hears at once when that is no longer so.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use system_tests::{Conversation, NOTICE, Stage, quoted, until};

use crate::sharing::{PATIENCE, guest};

/// Edits whose way to the guest is timed.
const EDITS: usize = 40;

/// Reads a file again and again, and answers each new content by its own.
const ECHO: &str = r#"
import sys
last = b""
while last != b"end":
    try:
        with open(sys.argv[1], "rb") as f: text = f.read()
    except FileNotFoundError:
        text = b""
    if text and text != last:
        last = text
        with open("echo." + sys.argv[1], "wb") as f: f.write(text)
"#;

/// How often a file is saved while the guest reads it, and the pauses in between.
const SAVES: usize = 400;
const PAUSES: [Duration; 3] = [Duration::from_millis(6), Duration::from_millis(2), Duration::from_millis(11)];

/// Reads a file again and again; nothing but a saved text, or the beginning of one, may ever be in it. Zeros may follow:
/// a read that meets a file cut short by the host is filled up with them if its kernel hears of a change at that moment,
/// and so keeps the size it knew until it has asked again.
const READ: &str = r#"
import os, sys
def text(save): return b"save %d " % save * (1 + save % 50) + b"."
saved = [text(save) for save in range(int(sys.argv[2]))]
opens, seen = 0, set()
while saved[-1] not in seen:
    with open(sys.argv[1], "rb", buffering=0) as f:
        found = f.read(65536)
        # Not part of it: the file may have been written in place since.
        f.read()
    opens += 1
    if found not in seen:
        assert any(text.startswith(found.rstrip(b"\0")) for text in saved), found
        seen.add(found)
with open("result.new", "w") as f: f.write("%d opens, %d contents seen" % (opens, len(seen)))
os.rename("result.new", "result")
"#;

/// Writes down what inotify tells of a folder.
const WATCH: &str = r#"
import ctypes, os, struct
libc = ctypes.CDLL(None)
names = {2: "MODIFY", 4: "ATTRIB", 8: "CLOSE_WRITE", 0x40: "MOVED_FROM", 0x80: "MOVED_TO", 0x100: "CREATE", 0x200: "DELETE"}
fd = libc.inotify_init()
assert libc.inotify_add_watch(fd, b"watched", 0x3ce) >= 0
log = open("/tmp/events", "w", buffering=1)
log.write("ready\n")
while True:
    data = os.read(fd, 65536)
    while data:
        _, mask, _, length = struct.unpack_from("iIII", data)
        name = data[16:16 + length].rstrip(b"\0").decode()
        log.write(names.get(mask & 0xfff, hex(mask)) + (" folder " if mask & 0x40000000 else " ") + name + "\n")
        data = data[16 + length:]
"#;

/// Where a program leaves what it said if it fails.
const FAILED: &str = "failed";

fn start(guest: &mut Conversation, program: &str, arguments: &str) -> Result<()> {
    let leave = format!("{{ cp /tmp/log {FAILED}.new; mv {FAILED}.new {FAILED}; }}");
    guest.does(&format!("{{ python3 -c {} {arguments} >/tmp/log 2>&1 || {leave}; }} &", quoted(program))).map(drop)
}

/// An error if the program in the guest has failed.
fn goes_on(project: &Path) -> Result<()> {
    fs::read_to_string(project.join(FAILED)).map_or(Ok(()), |log| bail!("the guest's program failed: {log}"))
}

/// Waits until the guest has echoed a text.
fn echoed(project: &Path, file: &str, text: &str) -> Result<Duration> {
    let begun = Instant::now();
    let echo = project.join(format!("echo.{file}"));
    while fs::read(&echo).ok().as_deref() != Some(text.as_bytes()) {
        goes_on(project)?;
        ensure!(begun.elapsed() < PATIENCE, "the guest does not see {text:?}");
        thread::sleep(Duration::from_micros(500));
    }
    Ok(begun.elapsed())
}

/// In place, and every other time as most editors do it.
fn save(file: &Path, turn: usize, text: &str) -> Result<()> {
    if turn.is_multiple_of(2) {
        fs::write(file, text)?;
    } else {
        let new = file.with_extension("new");
        fs::write(&new, text)?;
        fs::rename(new, file)?;
    }
    Ok(())
}

pub fn edits_are_seen_at_once(stage: &Stage) -> Result<()> {
    let project = stage.project();
    fs::write(project.join("file"), "begin")?;
    let mut guest = guest(stage, &[])?;
    start(&mut guest, ECHO, "file")?;
    echoed(&project, "file", "begin")?;
    let mut times = Vec::new();
    for edit in 0..EDITS {
        let text = format!("edit {edit}");
        save(&project.join("file"), edit, &text)?;
        times.push(echoed(&project, "file", &text).with_context(|| format!("after {times:?}"))?);
    }
    fs::write(project.join("file"), "end")?;
    times.sort();
    let (median, last) = (times.get(EDITS / 2), times.last());
    eprintln!("    from an edit on the host to the guest's answer: median {median:?}, longest {last:?}");
    ensure!(last.is_some_and(|last| *last < NOTICE), "edits are seen late: {times:?}");
    guest.leave()
}

pub fn file_can_be_read_while_the_host_saves_it(stage: &Stage) -> Result<()> {
    let project = stage.project();
    let file = project.join("file");
    let text = |save: usize| format!("save {save} ").repeat(1 + save % 50) + ".";
    save(&file, 0, &text(0))?;
    let mut guest = guest(stage, &[])?;
    start(&mut guest, READ, &format!("file {SAVES}"))?;
    for (turn, pause) in (0..SAVES).zip(PAUSES.into_iter().cycle()) {
        save(&file, turn, &text(turn))?;
        goes_on(&project)?;
        thread::sleep(pause);
    }
    let result = until("the guest to see the last save", PATIENCE, || {
        goes_on(&project)?;
        Ok(fs::read_to_string(project.join("result")).ok())
    })?;
    eprintln!("    while the host saved a file {SAVES} times: {result}");
    guest.leave()
}

pub fn names_are_believed_until_they_change(stage: &Stage) -> Result<()> {
    let project = stage.project();
    fs::create_dir(project.join("folder"))?;
    fs::write(project.join("folder/there"), "")?;
    let mut guest = guest(stage, &[])?;
    guest.does("ls -l folder; test ! -e folder/absent; test -e folder/there")?;
    fs::write(project.join("folder/absent"), "made by the host")?;
    guest.sees("test \"$(cat folder/absent)\" = 'made by the host' && ls folder | grep -qx absent", NOTICE)?;
    fs::remove_file(project.join("folder/there"))?;
    guest.sees("test ! -e folder/there && ! ls folder | grep -qx there", NOTICE)?;
    fs::rename(project.join("folder"), project.join("moved"))?;
    guest.sees("test ! -e folder && test -e moved/absent", NOTICE)?;
    // Many changes at once, more than are told one by one.
    for index in 0..3000 {
        fs::write(project.join("moved").join(index.to_string()), "")?;
    }
    guest.sees("test \"$(ls moved | wc -l)\" = 3001 && test -e moved/2999", NOTICE)?;
    guest.leave()
}

pub fn programs_that_watch_files_hear_of_the_hosts_edits(stage: &Stage) -> Result<()> {
    let folder = stage.project().join("watched");
    fs::create_dir(&folder)?;
    fs::write(folder.join("file"), "old")?;
    let mut guest = guest(stage, &[])?;
    guest.does("ls watched; cat watched/file")?;
    start(&mut guest, WATCH, "")?;
    guest.sees("grep -qx ready /tmp/events", PATIENCE)?;
    let hears = |guest: &mut Conversation, event: &str| {
        guest.sees(&format!("grep -qx '{event}' /tmp/events"), NOTICE).map(drop)
    };
    fs::write(folder.join("file"), "new")?;
    hears(&mut guest, "MODIFY file")?;
    hears(&mut guest, "CLOSE_WRITE file")?;
    fs::create_dir(folder.join("sub"))?;
    hears(&mut guest, "CREATE folder sub")?;
    fs::write(folder.join("temporary"), "newer")?;
    fs::rename(folder.join("temporary"), folder.join("file"))?;
    hears(&mut guest, "MOVED_FROM temporary")?;
    hears(&mut guest, "MOVED_TO file")?;
    guest.does("test \"$(cat watched/file)\" = newer")?;
    fs::remove_file(folder.join("file"))?;
    hears(&mut guest, "DELETE file")?;
    // The guest's own are told by its kernel alone, once.
    guest.does("touch watched/own")?;
    hears(&mut guest, "CREATE own")?;
    guest.does("test \"$(grep -c 'CREATE own' /tmp/events)\" = 1")?;
    guest.leave()
}

pub fn programs_hear_nothing_of_hidden_files(stage: &Stage) -> Result<()> {
    let folder = stage.project().join("watched");
    let (secret, hidden) = (folder.join("secret.env"), folder.join("hidden"));
    fs::create_dir_all(&hidden)?;
    fs::write(&secret, "TOKEN=1")?;
    let mut guest = guest(stage, &["--hide", "watched/secret.env", "--hide", "watched/hidden"])?;
    guest.does("test -z \"$(ls -A watched)\" && ! cat watched/secret.env")?;
    start(&mut guest, WATCH, "")?;
    guest.sees("grep -qx ready /tmp/events", PATIENCE)?;
    type Edit<'a> = &'a dyn Fn() -> std::io::Result<()>;
    let draft = stage.folder().join("draft");
    let edits: [(&str, Edit<'_>); 7] = [
        ("written in place", &|| fs::write(&secret, "TOKEN=2")),
        ("given other permissions", &|| fs::set_permissions(&secret, fs::Permissions::from_mode(0o600))),
        ("replaced", &|| fs::write(&draft, "TOKEN=3").and_then(|()| fs::rename(&draft, &secret))),
        ("removed", &|| fs::remove_file(&secret)),
        ("made anew", &|| fs::write(&secret, "TOKEN=4")),
        ("written in a hidden folder", &|| fs::write(hidden.join("inner"), "TOKEN=5")),
        ("moved away", &|| fs::rename(&secret, &draft).and_then(|()| fs::remove_dir_all(&hidden))),
    ];
    for (number, (what, edit)) in edits.iter().enumerate() {
        edit()?;
        // What is told at all is told in its order: once this is heard of, the edit would have been.
        fs::write(folder.join(format!("mark{number}")), "")?;
        guest.sees(&format!("grep -q 'mark{number}$' /tmp/events"), NOTICE)?;
        let heard = guest.ask("grep -v -e '^ready$' -e ' mark[0-9]$' /tmp/events")?.1;
        ensure!(heard.is_empty(), "a hidden file was {what} and the guest heard of it:\n{heard}");
    }
    guest.does("test \"$(ls -A watched | grep -vc mark)\" = 0")?;
    guest.leave()
}

//! Shared folders as programs in the guest use them. The numbers are those of our list of file-sharing cases:
//!
//! | case | what | test |
//! |---|---|---|
//! | 4 | links out of the share lead to the guest's own files | `sharing::links_lead_nowhere_on_the_host` |
//! | 6 | a folder moved out of the share under the guest's feet | `two_sides::folder_moved_out_of_the_share_is_closed` |
//! | 17 | a large tree with few descriptors | `sharing::large_tree_needs_few_descriptors` |
//! | 19 | files that lose their names while in use | `nature::files_keep_their_nature` |
//! | 20 | hard links | the same |
//! | 21 | names of any bytes | the same |
//! | 22 | holes, ranges, copies | the same |
//! | 24 | mapped memory | `two_sides::contents_cross_at_once` |
//! | 26 | names that come and go on the host | `two_sides::names_cross` |
//! | 27 | what the guest wrote, on the host | `two_sides::contents_cross_at_once` |
//! | 30 | locks; both sides commit | `nature::files_keep_their_nature`, `two_sides::git_commits_from_both_sides_at_once` |
//! | 32 | errors | `answers::errors_are_the_exact_ones` |
//! | 35 | time stamps | `answers::time_stamps_serve_make` |
//! | 36 | git | `files::git_is_used_from_both_sides`, `two_sides::git_status_is_stable_on_either_side`, `repository` (`tests/fs-suites`: 50,000 files) |
//! | 37 | package managers, archives, databases | `programs::*` |
//! | 38 | owners, modes, umask | `answers::owners_and_modes_for_an_ordinary_user` |
//! | 41 | protected paths | `files::guarded_paths_hold_against_the_guest` |
//! | 42 | inotify, of the guest's own changes | `nature::files_keep_their_nature` |
//! | 25, 26, 42 | what the guest believes, and hears of the host's changes | `belief::*` |
//!
//! Cases without a guest (raw messages) are unit tests of the device; pjdfstest and fsx are in `suites`.

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use system_tests::{Conversation, NOTICE, Stage};

/// Many small programs in an emulated machine, in the kvm engine's case inside another one.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// A guest at work in the project.
pub fn guest(stage: &Stage, options: &[&str]) -> Result<Conversation> {
    stage.run("").args(options).patience(PATIENCE).converse()
}

/// Runs a Python program in the guest.
pub fn python(guest: &mut Conversation, program: &str) -> Result<String> {
    guest.does(&format!("python3 - <<'PROGRAM'\n{program}\nPROGRAM"))
}

pub fn links_lead_nowhere_on_the_host(stage: &Stage) -> Result<()> {
    let (project, outside) = (stage.project(), stage.folder().join("outside"));
    fs::create_dir(&outside)?;
    fs::write(outside.join("secret"), "the host's")?;
    let secret = outside.join("secret");
    symlink(&secret, project.join("absolute"))?;
    symlink("../outside/secret", project.join("relative"))?;
    symlink(&outside, project.join("folder"))?;
    symlink("/proc/self/fd/0", project.join("descriptor"))?;
    symlink("/etc/hostname", project.join("hostname"))?;
    symlink(project.join("real"), project.join("inward"))?;
    symlink("loop", project.join("loop"))?;
    fs::write(project.join("real"), "inside")?;
    let mut guest = guest(stage, &[])?;
    for link in ["absolute", "relative", "folder/secret"] {
        guest.fails(&format!("cat {link}"), "No such file or directory").context(link)?;
    }
    guest.does(
        "test \"$(cat hostname)\" = \"$(cat /etc/hostname)\"; ln -s '../../../../../etc/shadow' up; readlink up",
    )?;
    guest.does("test \"$(cat inward)\" = inside; echo from the pipe | cat descriptor | grep -q pipe")?;
    guest.fails("cat loop", "Too many levels of symbolic links")?;
    // What is written through a link arises where the guest's own path leads to.
    guest.does(&format!(
        "mkdir -p '{0}' && echo forged >absolute && echo new >folder/new && ls '{0}'",
        outside.display()
    ))?;
    guest.leave()?;
    ensure!(fs::read(&secret)? == b"the host's" && !outside.join("new").exists(), "a link led to the host");
    ensure!(fs::read_link(project.join("up"))? == Path::new("../../../../../etc/shadow"));
    Ok(())
}

pub fn large_tree_needs_few_descriptors(stage: &Stage) -> Result<()> {
    const FOLDERS: usize = 400;
    const FILES: usize = 25;
    let project = stage.project();
    for folder in 0..FOLDERS {
        let folder = project.join(format!("{}/{folder}", folder % 20));
        fs::create_dir_all(&folder)?;
        for file in 0..FILES {
            fs::write(folder.join(format!("file{file}")), "x")?;
        }
    }
    let mut run = stage.run("");
    run.through(["prlimit", "--nofile=1024:1024"]).patience(PATIENCE);
    let mut guest = run.converse()?;
    let count = format!("test \"$(find . -type f -size 1c | wc -l)\" = {}", FOLDERS * FILES);
    guest.does(&count)?;
    guest.does("cat */*/file1 | wc -c | grep -qx 400")?;
    // Who holds more files open than there are descriptors is refused, and told so: no listing is cut short.
    python(
        &mut guest,
        r#"
import errno, glob, os, resource
resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
held, refused = [], None
for name in glob.glob("*/*/file*")[:3000]:
    try:
        held.append(os.open(name, os.O_RDONLY))
    except OSError as error:
        refused = error.errno
        break
assert len(held) > 200, len(held)
assert refused in (None, errno.ENFILE, errno.EMFILE), refused
assert os.stat("7/7/file3").st_size == 1
for folder, entries in (("0", 20), ("19/399", 25)):
    try: assert len(os.listdir(folder)) == entries
    except OSError as error: assert error.errno == errno.ENFILE, error
for descriptor in held:
    assert os.read(descriptor, 9) == b"x"
    os.close(descriptor)
"#,
    )?;
    guest.does(&format!("echo 3 >/proc/sys/vm/drop_caches; {count}; cat */*/file2 | wc -c | grep -qx 400"))?;
    guest.leave()
}

pub fn two_hundred_shares_and_single_files(stage: &Stage) -> Result<()> {
    const SHARES: usize = 200;
    let mut run = stage.run("");
    for index in 0..SHARES {
        let folder = stage.folder().join(format!("share{index}"));
        fs::create_dir(&folder)?;
        fs::write(folder.join("number"), index.to_string())?;
        let mode = if index % 2 == 0 { "" } else { ":ro" };
        run.args(["--mount", &format!("{}:/many/{index}{mode}", folder.display())]);
    }
    let [single, fixed] = ["single", "fixed"].map(|name| stage.folder().join(name));
    fs::write(&single, "one file\n")?;
    fs::write(&fixed, "fixed")?;
    run.args(["--mount", &format!("{}:/files/single", single.display())]);
    run.args(["--mount", &format!("{}:/files/fixed:ro", fixed.display())]);
    let mut guest = run.patience(PATIENCE).converse()?;
    guest.does("for n in $(seq 0 199); do test $(cat /many/$n/number) = $n || exit 1; done")?;
    guest.does("for n in $(seq 0 2 199); do echo guest >/many/$n/new; done")?;
    guest.fails("echo x >/many/1/new", "Read-only file system")?;
    guest.does("cat /files/single; echo more >>/files/single; test $(wc -l </files/single) = 2")?;
    guest.fails("echo x >/files/fixed", "Read-only file system")?;
    guest.fails("rm /files/single", "busy")?;
    // An append by the host, as a log file gets it.
    fs::File::options().append(true).open(&single)?.write_all(b"the host's\n")?;
    guest.sees("test $(wc -l </files/single) = 3", NOTICE)?;
    guest.leave()?;
    ensure!((0..SHARES).all(|n| stage.folder().join(format!("share{n}/new")).exists() == (n % 2 == 0)));
    ensure!(fs::read(&single)? == b"one file\nmore\nthe host's\n" && fs::read(&fixed)? == b"fixed");
    Ok(())
}

//! fsx: random operations on one file, whose contents it knows.

use std::fs::{self, File, FileTimes};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, SystemTime};

use anyhow::{Result, anyhow, ensure};
use system_tests::{Conversation, Stage};

use super::{PATIENCE, operations, programs};

/// Everything a share can do.
const SETTINGS: &str = "
[weights]
close_open = 2
invalidate = 1
truncate = 5
fsync = 0.1
fdatasync = 0.1
posix_fallocate = 2
punch_hole = 3
sendfile = 5
posix_fadvise = 3
copy_file_range = 5
";

fn guest(stage: &Stage) -> Result<Conversation> {
    fs::write(stage.project().join("fsx.toml"), SETTINGS)?;
    let mut run = stage.run("");
    run.args(["--mount", &format!("{}:/suites:ro", programs()?.display())]);
    run.patience(PATIENCE).converse()
}

/// Operations of one run: what fsx reads by a mapping it leaves mapped, and with it the file open (0.3.2), so that it
/// becomes slower and slower, and a million at once would need 100,000 mappings and 30,000 open files.
const RUN: usize = 10_000;

/// So many operations, in runs that begin with other random numbers each.
fn exercise(guest: &mut Conversation, count: usize) -> Result<()> {
    for (run, begun) in (0..count).step_by(RUN).enumerate() {
        let (seed, count) = (run + 1, RUN.min(count - begun));
        guest.does(&format!("/suites/fsx -q -f fsx.toml -S {seed} -N {count} -P /tmp file"))?;
    }
    Ok(())
}

pub fn fsx_finds_nothing(stage: &Stage) -> Result<()> {
    let mut guest = guest(stage)?;
    exercise(&mut guest, operations(2000, 1_000_000))?;
    guest.leave()
}

/// The host reads the file, links it, and gives it other time stamps, all the time: whatever the guest's kernel drops
/// or reads anew on that account must not cost what the guest has written.
pub fn fsx_finds_nothing_while_the_host_looks_on(stage: &Stage) -> Result<()> {
    let mut guest = guest(stage)?;
    let (file, is_over) = (stage.project().join("file"), AtomicBool::new(false));
    let looked = thread::scope(|scope| {
        let host = scope.spawn(|| disturb(&file, &is_over));
        let outcome = exercise(&mut guest, operations(2000, 1_000_000));
        is_over.store(true, Ordering::Relaxed);
        let looked = host.join().map_err(|_| anyhow!("the host's half panicked"))?;
        outcome.and(looked)
    })?;
    ensure!(looked > 10, "the host looked {looked} times only");
    guest.leave()
}

fn disturb(file: &Path, is_over: &AtomicBool) -> Result<usize> {
    let (link, mut looked) = (file.with_extension("link"), 0);
    while !is_over.load(Ordering::Relaxed) {
        thread::sleep(Duration::from_millis(7));
        let Ok(open) = File::options().read(true).write(true).open(file) else { continue };
        looked += 1;
        match looked % 3 {
            0 => drop(fs::read(file)?),
            1 => open.set_times(FileTimes::new().set_modified(SystemTime::now()))?,
            _ => {
                fs::hard_link(file, &link)?;
                fs::remove_file(&link)?;
            }
        }
    }
    Ok(looked)
}

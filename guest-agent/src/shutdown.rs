//! The orderly end: every process told, then killed, disks synced and read-only, power off.

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::{Duration, Instant};

use rustix::mount::{MountFlags, mount_remount};
use rustix::process::{Pid, Signal, kill_process_group};
use rustix::system::{RebootCommand, reboot};

use crate::exec::reaper::Reaper;
use crate::log;

/// How long SIGKILL may take; a process that waits for a dead disk does not end at all.
const KILL_PATIENCE: Duration = Duration::from_secs(2);

/// How often it is looked whether the processes left can end at all, and how often in a row they must seem not to.
const LOOK: Duration = Duration::from_millis(250);
const STUCK: u32 = 3;
/// How long everything may take to be written back. The disk is, by becoming read-only; a share has what its guest
/// wrote, and one whose host does not answer would never be done.
const SYNC_PATIENCE: Duration = Duration::from_millis(500);

/// Ends every process, syncs, and makes the disk's filesystem clean. After this the power may go at any time.
pub fn stop(grace: Duration, reaper: Option<&Reaper>, upper: Option<&OwnedFd>) {
    signal_all(Signal::TERM);
    // A stopped process takes its SIGTERM only when it goes on.
    signal_all(Signal::CONT);
    if reaper.is_some_and(|reaper| !have_ended(reaper, grace)) {
        signal_all(Signal::KILL);
        if reaper.is_some_and(|reaper| !have_ended(reaper, KILL_PATIENCE)) {
            log::warn("some processes do not end");
        }
    }
    let is_synced = sync();
    for path in ["/".to_owned()].into_iter().chain(upper.map(|fd| format!("/proc/self/fd/{}", fd.as_raw_fd()))) {
        if let Err(error) = mount_remount(path.as_str(), MountFlags::RDONLY, "") {
            log::warn(&format!("{path} does not become read-only: {error}"));
        }
    }
    if is_synced {
        sync();
    }
}

/// Whether all processes end within `patience`; waits no longer than it takes to see that those left cannot.
fn have_ended(reaper: &Reaper, patience: Duration) -> bool {
    let deadline = Instant::now() + patience;
    let mut stuck = 0;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if reaper.wait_until_idle(left.min(LOOK)) {
            return true;
        }
        stuck = if is_everything_stuck(Path::new("/proc")) { stuck + 1 } else { 0 };
        if left.is_zero() || stuck >= STUCK {
            return false;
        }
    }
}

/// Whether every process but this one waits for a device or a share, which no signal ends.
fn is_everything_stuck(proc: &Path) -> bool {
    let Ok(entries) = fs::read_dir(proc) else { return false };
    let names = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    names.filter(|pid| *pid != 1).all(|pid| {
        // One that is gone by now has ended.
        let Ok(stat) = fs::read_to_string(proc.join(pid.to_string()).join("stat")) else { return true };
        is_stuck(&stat).unwrap_or(false)
    })
}

/// The same of one process, by its line of proc(5): it sleeps uninterruptibly, has ended, or is a thread of the
/// kernel's.
fn is_stuck(stat: &str) -> Option<bool> {
    /// `PF_KTHREAD` of Linux.
    const KERNEL_THREAD: u32 = 0x0020_0000;
    // The name in parentheses may hold anything, spaces and parentheses included.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    let flags: u32 = fields.nth(5)?.parse().ok()?;
    Some(matches!(state, "D" | "X" | "Z") || flags & KERNEL_THREAD != 0)
}

/// Writes everything back; false if that takes too long.
fn sync() -> bool {
    let (done, wait) = sync_channel(1);
    let writing = thread::Builder::new().name("sync".into()).spawn(move || {
        rustix::fs::sync();
        // Nobody may wait any longer.
        let _ = done.send(());
    });
    writing.is_ok() && wait.recv_timeout(SYNC_PATIENCE).is_ok()
}

/// Turns the machine off; does not return unless the kernel refuses.
pub fn power_off() {
    if let Err(error) = reboot(RebootCommand::PowerOff) {
        log::emergency(&format!("the power does not go off: {error}"));
    }
}

/// Every process but this one.
fn signal_all(signal: Signal) {
    // kill(2): the process group of process 1 stands for all there are. Fails when there is none.
    let _ = kill_process_group(Pid::INIT, signal);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_that_no_signal_ends_are_known_by_their_state() {
        let line = |state: &str, flags: u32| format!("77 (a) D (b) {state} 1 77 77 0 -1 {flags} 0 0 0");
        for (state, flags, stuck) in
            [("D", 4_194_304, true), ("Z", 4_194_304, true), ("S", 0, false), ("R", 0, false), ("I", 69_238_880, true)]
        {
            assert_eq!(is_stuck(&line(state, flags)), Some(stuck), "{state}");
        }
        assert_eq!(is_stuck("77 (a"), None);
    }

    #[test]
    fn everything_is_stuck_only_if_every_process_is() {
        let proc = tempfile::tempdir().unwrap();
        let put = |pid: u32, state: &str| {
            let folder = proc.path().join(pid.to_string());
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("stat"), format!("{pid} (x) {state} 1 1 1 0 -1 0 0 0")).unwrap();
        };
        put(1, "S");
        put(20, "D");
        fs::create_dir(proc.path().join("sys")).unwrap();
        assert!(is_everything_stuck(proc.path()));
        put(30, "S");
        assert!(!is_everything_stuck(proc.path()));
    }
}

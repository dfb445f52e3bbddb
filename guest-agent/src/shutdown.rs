//! The orderly end: every process told, then killed, disks synced and read-only, power off.

use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use rustix::mount::{MountFlags, mount_remount};
use rustix::process::{Pid, Signal, kill_process_group};
use rustix::system::{RebootCommand, reboot};

use crate::exec::reaper::Reaper;
use crate::log;

/// How long SIGKILL may take; a process that waits for a dead disk does not end at all.
const KILL_PATIENCE: Duration = Duration::from_secs(2);

/// Ends every process, syncs, and makes the disk's filesystem clean. After this the power may go at any time.
pub fn stop(grace: Duration, reaper: Option<&Reaper>, upper: Option<&OwnedFd>) {
    signal_all(Signal::TERM);
    // A stopped process takes its SIGTERM only when it goes on.
    signal_all(Signal::CONT);
    if reaper.is_some_and(|reaper| !reaper.wait_until_idle(grace)) {
        signal_all(Signal::KILL);
        if reaper.is_some_and(|reaper| !reaper.wait_until_idle(KILL_PATIENCE)) {
            log::warn("some processes do not end");
        }
    }
    rustix::fs::sync();
    for path in ["/".to_owned()].into_iter().chain(upper.map(|fd| format!("/proc/self/fd/{}", fd.as_raw_fd()))) {
        if let Err(error) = mount_remount(path.as_str(), MountFlags::RDONLY, "") {
            log::warn(&format!("{path} does not become read-only: {error}"));
        }
    }
    rustix::fs::sync();
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

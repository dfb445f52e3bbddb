//! What VMs under QEMU leave behind: nothing. Alone in its process, because it counts what the process holds.

// In its helpers, too, failing is what a test does.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use support::guest::Program;
use support::{UP, boot_qemu, config, holdings};
use vmm::Exit;

const STARTS: usize = 20;
/// Set for the process that is killed in the midst of it.
const VICTIM: &str = "VMM_TEST_VICTIM";

/// Children of this process.
fn children() -> Vec<i32> {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    let lists = tasks.filter_map(|task| fs::read_to_string(task.unwrap().path().join("children")).ok());
    lists.flat_map(|list| list.split_whitespace().map(|pid| pid.parse().unwrap()).collect::<Vec<_>>()).collect()
}

fn start_and_stop(dropped: bool) {
    let (config, mut console) = config(&Program::default().print(UP).idle());
    let running = boot_qemu(config);
    console.wait_for(UP.trim());
    if dropped {
        return drop(running);
    }
    running.handle().kill();
    assert_eq!(running.wait().unwrap(), Exit::Killed);
}

#[test]
fn nothing_outlives_a_vm() {
    if std::env::var_os(VICTIM).is_some() {
        return be_killed();
    }
    twenty_starts_and_stops_leave_nothing();
    kill_minus_nine_leaves_no_qemu();
}

fn twenty_starts_and_stops_leave_nothing() {
    let before = (holdings(), children());
    (0..STARTS).for_each(|start| start_and_stop(start % 2 == 0));
    assert_eq!((holdings(), children()), before);
}

fn kill_minus_nine_leaves_no_qemu() {
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args(["--nocapture", "nothing_outlives_a_vm"])
        .env(VICTIM, "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(victim.stdout.take().unwrap()).lines();
    let pid = lines.map(Result::unwrap).find_map(|line| line.strip_prefix("qemu ").map(str::to_owned)).unwrap();
    let qemu = pidfd_open(Pid::from_raw(pid.parse().unwrap()).unwrap(), PidfdFlags::empty()).unwrap();
    victim.kill().unwrap();
    victim.wait().unwrap();
    // Returns only when that process is gone.
    poll(&mut [PollFd::new(&qemu, PollFlags::IN)], None).unwrap();
}

/// Starts a VM, says which process it is, and waits to be killed.
fn be_killed() {
    let (config, mut console) = config(&Program::default().print(UP).idle());
    let running = boot_qemu(config);
    console.wait_for(UP.trim());
    println!("\nqemu {}", children()[0]);
    running.wait().unwrap();
}

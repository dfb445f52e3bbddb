//! The QEMU process: started with nothing but what it needs, and never left behind.

use std::io::{self, PipeReader};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};

use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{Pid, PidfdFlags, Signal, getpid, getppid, pidfd_open, set_parent_process_death_signal};

use super::launch::Launch;

/// What QEMU may know of our environment: where its libraries and modules are. The rest may hold secrets.
const ENVIRONMENT: [&str; 3] = ["PATH", "LD_LIBRARY_PATH", "QEMU_MODULE_DIR"];

/// A running QEMU. Dropping it kills and reaps it.
#[derive(Debug)]
pub(super) struct Child {
    process: std::process::Child,
    /// Readable once the process has ended.
    pidfd: OwnedFd,
}

impl Child {
    /// Starts `program`; also gives what it prints. The kernel kills it when the *thread* that calls this ends, so that
    /// must be one that stays until the child is gone.
    pub(super) fn spawn(program: &Path, launch: Launch) -> io::Result<(Self, PipeReader)> {
        let (output, input) = io::pipe()?;
        let Launch { arguments, descriptors } = launch;
        // The command owns our copies of what the child inherits; with it they are closed, here, so that the child's
        // end is seen on every socket.
        let mut command = Command::new(std::path::absolute(program)?);
        command.args(arguments).current_dir("/").env_clear();
        command.envs(ENVIRONMENT.iter().filter_map(|name| std::env::var_os(name).map(|value| (name, value))));
        // A group of its own: Ctrl-C at our terminal is ours to answer, not QEMU's.
        command.process_group(0);
        command.stdin(Stdio::null()).stdout(input.try_clone()?).stderr(input);
        let parent = getpid();
        // SAFETY: between fork and exec this makes system calls and nothing else: it neither allocates nor locks. The
        // closure owns `descriptors`, so they are open.
        unsafe { command.pre_exec(move || prepare(parent, &descriptors)) };
        let mut process = command.spawn()?;
        match pidfd_open(Pid::from_child(&process), PidfdFlags::empty()) {
            Ok(pidfd) => Ok((Self { process, pidfd }, output)),
            Err(error) => {
                process.kill()?;
                process.wait()?;
                Err(error.into())
            }
        }
    }

    /// Ends the process at once; harmless if it has ended.
    pub(super) fn kill(&mut self) -> io::Result<()> {
        self.process.kill()
    }

    /// Waits for the end and reaps it.
    pub(super) fn wait(&mut self) -> io::Result<ExitStatus> {
        self.process.wait()
    }
}

impl AsFd for Child {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // Both fail only for a process that was reaped already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Runs in the child, before QEMU.
fn prepare(parent: Pid, descriptors: &[OwnedFd]) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // The parent may have died before it took effect.
    if getppid() != Some(parent) {
        return Err(io::ErrorKind::BrokenPipe.into());
    }
    for descriptor in descriptors {
        fcntl_setfd(descriptor, FdFlags::empty())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read;

    use super::*;

    fn shell(script: &str, descriptors: Vec<OwnedFd>) -> (Child, PipeReader) {
        let arguments = ["-c", script].map(Into::into).into();
        Child::spawn(Path::new("/bin/sh"), Launch { arguments, descriptors }).unwrap()
    }

    fn output(script: &str, descriptors: Vec<OwnedFd>) -> String {
        let (mut child, mut output) = shell(script, descriptors);
        let mut text = String::new();
        output.read_to_string(&mut text).unwrap();
        assert!(child.wait().unwrap().success(), "{text}");
        text
    }

    #[test]
    fn only_what_is_passed_is_inherited() {
        let (kept, passed) = (File::open("/dev/null").unwrap(), File::open("/dev/null").unwrap());
        use std::os::fd::AsRawFd;
        let (kept_fd, passed_fd) = (kept.as_raw_fd(), passed.as_raw_fd());
        let script = format!("test ! -e /proc/self/fd/{kept_fd} && test -e /proc/self/fd/{passed_fd}");
        output(&script, vec![passed.into()]);
    }

    #[test]
    fn environment_is_not_handed_on() {
        // Cargo sets this for every test.
        assert!(std::env::var_os("CARGO_MANIFEST_DIR").is_some());
        assert_eq!(output("echo \"$CARGO_MANIFEST_DIR\"", vec![]), "\n");
    }

    #[test]
    fn dropping_kills() {
        let (child, mut output) = shell("echo ready; exec sleep 1000", vec![]);
        let mut ready = [0; 6];
        output.read_exact(&mut ready).unwrap();
        drop(child);
        assert_eq!(output.read(&mut ready).unwrap(), 0, "the pipe's other end is still open");
    }

    #[test]
    fn end_of_the_starting_thread_kills() {
        let (child, mut output) = std::thread::spawn(|| shell("exec sleep 1000", vec![])).join().unwrap();
        // Ends only when the child is dead, and nobody has killed it here.
        assert_eq!(output.read(&mut [0]).unwrap(), 0);
        drop(child);
    }
}

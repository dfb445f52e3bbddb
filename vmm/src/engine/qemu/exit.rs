//! How the VM ended, from the signs that QEMU leaves.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use super::stop::Cause;
use crate::Exit;

/// Everything that is known once QEMU is gone.
#[derive(Debug)]
pub(super) struct Signs<'a> {
    /// Why we wanted its end, if we did.
    pub(super) cause: Option<Cause>,
    /// Why QEMU said that it stops.
    pub(super) shutdown: Option<&'a str>,
    pub(super) status: ExitStatus,
    /// The end of what it printed.
    pub(super) output: &'a [u8],
}

/// Draws the conclusion.
pub(super) fn conclude(signs: &Signs<'_>) -> Exit {
    let crashed = |reason| Exit::Crashed { reason };
    // A request may come after QEMU ended by itself.
    if signs.status.signal() == Some(libc::SIGKILL) {
        match &signs.cause {
            Some(Cause::Kill) => return Exit::Killed,
            Some(Cause::Failure(reason)) => return crashed(reason.clone()),
            None => {}
        }
    }
    match (signs.shutdown, signs.status.success()) {
        (Some("guest-shutdown"), true) => Exit::Shutdown,
        (Some("guest-reset"), true) => Exit::Reset,
        (Some("host-signal"), true) => crashed("somebody ended QEMU with a signal".to_owned()),
        (Some(other), true) => crashed(format!("QEMU stopped the machine ({})", printable(other.as_bytes()))),
        (None, true) => crashed(said("QEMU ended without saying why", signs.output)),
        (_, false) => crashed(said(&format!("QEMU {}", describe(signs.status)), signs.output)),
    }
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with status {code}"),
        (None, Some(libc::SIGSYS)) => "was killed by its own seccomp filter (signal 31)".to_owned(),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}

fn said(what: &str, output: &[u8]) -> String {
    match printable(output).trim() {
        "" => what.to_owned(),
        text => format!("{what}; it said: {text}"),
    }
}

/// QEMU may pass on what a guest chose: nothing of it may reach a terminal as a control sequence.
fn printable(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).chars().map(|c| if c.is_control() && c != '\n' { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conclusion(shutdown: Option<&str>, status: i32, output: &[u8]) -> Exit {
        conclude(&Signs { cause: None, shutdown, status: ExitStatus::from_raw(status), output })
    }

    fn reason(exit: Exit) -> String {
        match exit {
            Exit::Crashed { reason } => reason,
            exit => panic!("{exit:?}"),
        }
    }

    #[test]
    fn guests_wishes_are_told_apart() {
        assert_eq!(conclusion(Some("guest-shutdown"), 0, b""), Exit::Shutdown);
        assert_eq!(conclusion(Some("guest-reset"), 0, b""), Exit::Reset);
    }

    #[test]
    fn crash_comes_with_qemus_words() {
        let text = reason(conclusion(None, 1 << 8, b"qemu: Could not open 'x'\n"));
        assert_eq!(text, "QEMU ended with status 1; it said: qemu: Could not open 'x'");
        assert_eq!(reason(conclusion(None, libc::SIGSEGV, b"")), "QEMU was killed by signal 11");
        assert!(reason(conclusion(None, libc::SIGSYS, b"")).contains("seccomp"));
    }

    #[test]
    fn crash_after_a_shutdown_is_a_crash() {
        assert!(reason(conclusion(Some("guest-shutdown"), libc::SIGABRT, b"")).contains("signal 6"));
    }

    fn requested(cause: Cause, shutdown: Option<&str>, status: i32) -> Exit {
        conclude(&Signs { cause: Some(cause), shutdown, status: ExitStatus::from_raw(status), output: b"" })
    }

    #[test]
    fn our_own_kill_is_told_from_somebody_elses() {
        assert_eq!(requested(Cause::Kill, None, libc::SIGKILL), Exit::Killed);
        assert_eq!(reason(requested(Cause::Failure("disk".into()), None, libc::SIGKILL)), "disk");
        assert_eq!(reason(conclusion(None, libc::SIGKILL, b"")), "QEMU was killed by signal 9");
    }

    #[test]
    fn kill_that_came_too_late_changes_nothing() {
        assert_eq!(requested(Cause::Kill, Some("guest-shutdown"), 0), Exit::Shutdown);
    }

    #[test]
    fn control_sequences_do_not_reach_the_terminal() {
        assert!(!reason(conclusion(None, 1 << 8, b"\x1b]0;owned\x07")).contains('\x1b'));
    }
}

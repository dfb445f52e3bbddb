//! What we print of our own: `==>` lines and errors, always on standard error.

use std::error::Error as _;
use std::fmt::Write as _;
use std::io::{self, Write};

/// Exit status of vmm's own failures.
pub const FAILED: u8 = 125;

/// One line about what is going on.
pub fn note(text: &str) {
    // Nobody reading our notes is no reason to stop.
    let _ = writeln!(io::stderr().lock(), "==> {text}");
}

/// The same while a program of the guest may have the terminal, which then does not return to the start of a line by
/// itself.
pub fn aside(text: &str) {
    let mut out = io::stderr().lock();
    let _ =
        if crate::terminal::is_interactive() { write!(out, "\r==> {text}\r\n") } else { writeln!(out, "==> {text}") };
}

/// A failure of vmm itself with its causes and the guest's last words.
pub fn failure(error: &launcher::Error) {
    print(error, "");
}

/// The same where the user wanted a command to run: also what became of it.
pub fn command_failure(error: &launcher::Error) {
    print(
        error,
        match error {
            launcher::Error::Lost { .. } => "\n     The command was running; what it wrote to shared folders is there.",
            _ => "\n     The command did not run; nothing was changed.",
        },
    );
}

fn print(error: &launcher::Error, aftermath: &str) {
    let mut text = format!("vmm: {error}");
    let mut cause = error.source();
    while let Some(inner) = cause {
        let _ = write!(text, ": {inner}");
        cause = inner.source();
    }
    text.push_str(aftermath);
    if let Some(console) = error.console() {
        text.push_str("\n     The guest's console said:");
        for line in console.lines() {
            let _ = write!(text, "\n     | {line}");
        }
    }
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// How many CPUs, in words.
pub fn cpus(count: u8) -> String {
    match count {
        1 => "1 CPU".to_owned(),
        count => format!("{count} CPUs"),
    }
}

//! The agent's few words to the kernel log, which the host sees on the console.

use std::fs::OpenOptions;
use std::io::Write;

/// Writes a line at warning level; lost when there is no /dev/kmsg yet.
pub fn warn(line: &str) {
    write(4, line);
}

/// Writes a line at emergency level: the guest is about to end.
pub fn emergency(line: &str) {
    write(0, line);
}

fn write(level: u8, line: &str) {
    if let Ok(mut kmsg) = OpenOptions::new().write(true).open("/dev/kmsg") {
        // One record is one line; a log that takes no more is no reason to fail.
        let _ = kmsg.write_all(format!("<{level}>agent: {}\n", line.replace('\n', " ")).as_bytes());
    }
}

/// Makes a panic of any thread say so on the console. In PID 1 it then aborts, and the kernel panics.
pub fn report_panics() {
    std::panic::set_hook(Box::new(|panic| emergency(&panic.to_string())));
}

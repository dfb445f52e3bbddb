//! Signals of this process, passed to whatever is going on.

use std::io;
use std::thread;

use launcher::{Attention, WindowSize};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH};
use signal_hook::iterator::Signals;

use crate::terminal;

/// Stack of a thread that only waits and passes on.
const STACK: usize = 64 << 10;
/// Those that `nohup` and a shell that starts something in the background make it ignore.
const OFTEN_IGNORED: [i32; 3] = [SIGHUP, SIGINT, SIGQUIT];

/// From now on signals no longer end this process: `attention` decides. A signal that whoever started this process had
/// it ignore stays ignored.
pub fn pass_to(attention: &Attention) -> io::Result<()> {
    let ignored = ignored_signals();
    let often_ignored = OFTEN_IGNORED.into_iter().filter(|signal| ignored & (1 << (signal - 1)) == 0);
    let mut signals = Signals::new(often_ignored.chain([SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH]))?;
    let attention = attention.clone();
    thread::Builder::new().name("signals".into()).stack_size(STACK).spawn(move || {
        for signal in signals.forever() {
            if signal == SIGWINCH {
                attention.resize(window_size());
            } else {
                attention.signal(signal);
            }
        }
    })?;
    Ok(())
}

/// The signals this process ignores, bit 0 for signal 1 (proc_pid_status(5), SigIgn); none where that cannot be read.
fn ignored_signals() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

/// The terminal's size in the launcher's words.
pub fn window_size() -> WindowSize {
    let (rows, columns) = terminal::size();
    WindowSize { rows, columns }
}

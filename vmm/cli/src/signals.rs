//! Signals of this process, passed to whatever is going on.

use std::io;
use std::thread;

use launcher::{Attention, WindowSize};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH};
use signal_hook::iterator::Signals;

use crate::terminal;

/// Stack of a thread that only waits and passes on.
const STACK: usize = 64 << 10;

/// From now on signals no longer end this process: `attention` decides.
pub fn pass_to(attention: &Attention) -> io::Result<()> {
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH])?;
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

/// The terminal's size in the launcher's words.
pub fn window_size() -> WindowSize {
    let (rows, columns) = terminal::size();
    WindowSize { rows, columns }
}

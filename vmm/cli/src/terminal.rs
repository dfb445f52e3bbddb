//! The user's terminal: raw while a guest program owns it, restored however the run ends.

use std::io::{self, IsTerminal};
use std::os::fd::AsFd;

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

/// True if a guest program can have the terminal: input and output are both one.
pub fn is_interactive() -> bool {
    io::stdin().is_terminal() && io::stdout().is_terminal()
}

/// Rows and columns of the terminal on standard output, 24x80 if it does not know them.
pub fn size() -> (u16, u16) {
    match tcgetwinsize(io::stdout().as_fd()) {
        Ok(size) if size.ws_row > 0 && size.ws_col > 0 => (size.ws_row, size.ws_col),
        _ => (24, 80),
    }
}

/// Raw mode for as long as this lives.
#[derive(Debug)]
pub struct RawMode {
    before: Termios,
}

impl RawMode {
    /// From here on every key goes to the guest, Ctrl-C and Ctrl-Z included.
    pub fn enter() -> io::Result<Self> {
        let before = tcgetattr(io::stdin().as_fd())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin().as_fd(), OptionalActions::Flush, &raw)?;
        Ok(Self { before })
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        if let Err(error) = tcsetattr(io::stdin().as_fd(), OptionalActions::Drain, &self.before) {
            tracing::warn!(%error, "The terminal's settings could not be restored; type `reset`");
        }
    }
}

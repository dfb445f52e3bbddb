//! A terminal with somebody at the keyboard: a tmux session of its own.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::conversation::quoted;
use crate::invocation::Invocation;
use crate::patience::until;

/// How long a screen may take to show what it should.
const PATIENCE: Duration = Duration::from_secs(120);

/// A tmux server with one window; ended when dropped.
#[derive(Debug)]
pub struct Terminal {
    socket: PathBuf,
}

impl Terminal {
    /// Opens a terminal of `columns` by `rows` with a plain shell in it.
    pub fn open(folder: &Path, columns: u16, rows: u16) -> Result<Self> {
        let terminal = Self { socket: folder.join("tmux") };
        let (x, y) = (columns.to_string(), rows.to_string());
        terminal.tmux(&["-f", "/dev/null", "new-session", "-d", "-x", &x, "-y", &y, "env PS1='host$ ' sh"])?;
        terminal.tmux(&["set-option", "-g", "status", "off"])?;
        terminal.tmux(&["set-option", "-g", "window-size", "manual"])?;
        terminal.resize(columns, rows)?;
        terminal.wait_for("host$")?;
        Ok(terminal)
    }

    /// Types the command line of `invocation` into the shell, followed by `after`.
    pub fn start(&self, invocation: &Invocation, after: &str) -> Result<()> {
        let mut line = String::from("env");
        for (name, value) in invocation.environment() {
            line += &format!(" {}={}", name.to_string_lossy(), quoted(&value.to_string_lossy()));
        }
        for word in invocation.words() {
            line += &format!(" {}", quoted(&word.to_string_lossy()));
        }
        self.type_line(&format!("{line}{after}"))
    }

    /// Types text as it is.
    pub fn type_text(&self, text: &str) -> Result<()> {
        self.tmux(&["send-keys", "-l", text]).map(drop)
    }

    /// Types text and presses Enter.
    pub fn type_line(&self, text: &str) -> Result<()> {
        self.type_text(text)?;
        self.press("Enter")
    }

    /// Presses a key by tmux's name for it, such as `C-c` or `Escape`.
    pub fn press(&self, key: &str) -> Result<()> {
        self.tmux(&["send-keys", key]).map(drop)
    }

    /// Gives the window another size.
    pub fn resize(&self, columns: u16, rows: u16) -> Result<()> {
        self.tmux(&["resize-window", "-x", &columns.to_string(), "-y", &rows.to_string()]).map(drop)
    }

    /// What the window shows, and what scrolled out of it.
    pub fn screen(&self) -> Result<String> {
        self.tmux(&["capture-pane", "-p", "-J", "-S", "-"])
    }

    /// Waits until the screen shows `text`; the error shows what it did show.
    pub fn wait_for(&self, text: &str) -> Result<()> {
        until(&format!("{text:?} on the screen"), PATIENCE, || Ok(self.screen()?.contains(text).then_some(())))
            .with_context(|| format!("the screen:\n{}", self.screen().unwrap_or_default().trim_end()))
    }

    fn tmux(&self, words: &[&str]) -> Result<String> {
        let output = Command::new("tmux").arg("-S").arg(&self.socket).args(words).env_remove("TMUX").output();
        let output = output.context("running tmux")?;
        ensure!(output.status.success(), "tmux {words:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // A server that is gone already is what this is for.
        let _ = self.tmux(&["kill-server"]);
    }
}

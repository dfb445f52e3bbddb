//! Where work is done: a process whose standard streams lead to an `fs-load`.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, bail};

/// Ended when dropped.
#[derive(Debug)]
pub struct Worker {
    child: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Worker {
    /// Starts a shell command, and waits until the `fs-load` behind it is ready.
    pub fn start(command: &str) -> anyhow::Result<Self> {
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("exec {command}")]).process_group(0);
        let mut child = shell.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let (commands, answers) = (child.stdin.take().context("no input")?, child.stdout.take().context("no output")?);
        let mut worker = Self { child, commands, answers: BufReader::new(answers) };
        while worker.line()? != "ready" {}
        Ok(worker)
    }

    /// Gives a command.
    pub fn tell(&mut self, command: &str) -> anyhow::Result<()> {
        writeln!(self.commands, "{command}").with_context(|| format!("{command:?}"))
    }

    /// Waits for the numbers of the command that was given.
    pub fn hear(&mut self, command: &str) -> anyhow::Result<Vec<f64>> {
        let line = self.line().with_context(|| format!("no answer to {command:?}"))?;
        if let Some(error) = line.strip_prefix('!') {
            bail!("{command:?}: {error}");
        }
        line.split_whitespace().map(|word| word.parse().with_context(|| format!("{line:?} is no answer"))).collect()
    }

    fn line(&mut self) -> anyhow::Result<String> {
        let mut line = String::new();
        if self.answers.read_line(&mut line)? == 0 {
            bail!("the worker went away ({:?})", self.child.wait()?);
        }
        Ok(line.trim().to_owned())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Whoever ended before is reaped all the same.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

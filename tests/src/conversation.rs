//! A guest that does one thing after the other, with the host acting in between.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::invocation::{Collector, Finished, Invocation, collect, read};
use crate::patience::until;

/// The guest's half: takes a script with its length before it, answers with status, length and output. The status is
/// that of the script's last command, or of one before that failed and was not asked whether it did.
const LISTEN: &str = r#"
while read -r size; do
  LC_ALL=C IFS= read -r -N "$size" script
  failed=0
  trap 'failed=$?' ERR
  eval "$script" >/tmp/answer 2>&1 </dev/null
  trap - ERR
  printf '%d %d\n' $failed "$(stat -c %s /tmp/answer)"
  cat /tmp/answer
done"#;

/// A running guest with a shell (bash) that keeps its folder, variables and descriptors from one script to the next.
#[derive(Debug)]
pub struct Conversation {
    child: Child,
    input: Option<ChildStdin>,
    answers: Receiver<(i32, Vec<u8>)>,
    stderr: Option<Collector>,
    patience: Duration,
}

impl Conversation {
    pub(crate) fn begin(mut invocation: Invocation) -> Result<Self> {
        invocation.command(["bash", "-c", LISTEN]);
        let mut child = invocation.spawn()?;
        let (stderr, input) = (child.stderr.take().map(collect), child.stdin.take());
        let answers = child.stdout.take().map(answers).context("no standard output")?;
        Ok(Self { child, input, answers, stderr, patience: invocation.time_limit() })
    }

    /// The number of the process that was started.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Status and output of a script.
    pub fn ask(&mut self, script: &str) -> Result<(i32, String)> {
        let input = self.input.as_mut().context("the conversation is over")?;
        let sent = input.write_all(format!("{}\n{script}", script.len()).as_bytes()).and_then(|()| input.flush());
        match sent.ok().and_then(|()| self.answers.recv_timeout(self.patience).ok()) {
            Some((status, output)) => Ok((status, String::from_utf8_lossy(&output).trim_end().to_owned())),
            None => {
                let end = self.end()?;
                bail!("no answer to {script:?}; {end}")
            }
        }
    }

    /// Output of a script that has to succeed.
    pub fn does(&mut self, script: &str) -> Result<String> {
        let (status, output) = self.ask(script)?;
        ensure!(status == 0, "status {status} of {script}\n{output}");
        Ok(output)
    }

    /// A script that has to fail, and to say `why`.
    pub fn fails(&mut self, script: &str, why: &str) -> Result<()> {
        let (status, output) = self.ask(script)?;
        ensure!(status != 0, "the guest succeeded in {script}\n{output}");
        ensure!(output.contains(why), "the guest failed without saying {why:?} in {script}\n{output}");
        Ok(())
    }

    /// Runs a script again and again until it succeeds; how long that took.
    pub fn sees(&mut self, script: &str, limit: Duration) -> Result<Duration> {
        let begun = Instant::now();
        until(&format!("the guest to see {script}"), limit, || Ok((self.ask(script)?.0 == 0).then_some(())))?;
        Ok(begun.elapsed())
    }

    /// Lets the guest go.
    pub fn leave(mut self) -> Result<()> {
        drop(self.input.take());
        let end = self.end()?;
        end.ended_with(0)
    }

    /// Waits for the end of the program, and brings it about if that takes too long.
    fn end(&mut self) -> Result<Finished> {
        drop(self.input.take());
        const GRACE: Duration = Duration::from_secs(20);
        if until("the end", GRACE, || Ok(self.child.try_wait()?)).is_err() {
            self.kill();
        }
        let status = self.child.wait()?;
        Ok(Finished::new(status, Vec::new(), &read(self.stderr.take())))
    }

    fn kill(&mut self) {
        // The group may be gone already; the wait that follows sees to the program itself.
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        let _ = self.child.kill();
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.kill();
            // Reaped, if it can be: the case has failed already.
            let _ = self.child.wait();
        }
    }
}

/// Reads answers until the guest is gone.
fn answers(stdout: ChildStdout) -> Receiver<(i32, Vec<u8>)> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        let mut stdout = BufReader::new(stdout);
        while let Some(answer) = answer(&mut stdout) {
            if sender.send(answer).is_err() {
                return;
            }
        }
    });
    receiver
}

fn answer(stdout: &mut impl BufRead) -> Option<(i32, Vec<u8>)> {
    let mut line = String::new();
    stdout.read_line(&mut line).ok()?;
    let (status, length) = line.trim().split_once(' ')?;
    let mut output = vec![0; length.parse().ok()?];
    stdout.read_exact(&mut output).ok()?;
    Some((status.parse().ok()?, output))
}

/// `text` as one word of a shell.
pub fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

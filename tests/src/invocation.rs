//! One run of the program under test: arguments, streams, a time limit, and what came of it.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::conversation::Conversation;
use crate::patience::until;
use crate::stage::User;

/// How long a run may take unless the case says otherwise; guests of an emulated machine are slow.
const PATIENCE: Duration = Duration::from_secs(150);
/// The group of the device node that ordinary users see as /dev/kvm.
const KVM_GROUP: u32 = 61_235;

/// A command to run, built up.
#[derive(Debug, Clone)]
pub struct Invocation {
    before: Vec<OsString>,
    words: Vec<OsString>,
    tail: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    folder: PathBuf,
    stdin: Vec<u8>,
    patience: Duration,
}

impl Invocation {
    pub(crate) fn new(program: &Path, folder: &Path) -> Self {
        Self {
            before: Vec::new(),
            words: vec![program.into()],
            tail: Vec::new(),
            env: Vec::new(),
            folder: folder.into(),
            stdin: Vec::new(),
            patience: PATIENCE,
        }
    }

    /// Adds options.
    pub fn args<S: AsRef<OsStr>>(&mut self, words: impl IntoIterator<Item = S>) -> &mut Self {
        self.words.extend(words.into_iter().map(|word| word.as_ref().to_owned()));
        self
    }

    /// Replaces what follows `--`.
    pub fn command<S: AsRef<OsStr>>(&mut self, words: impl IntoIterator<Item = S>) -> &mut Self {
        self.tail = words.into_iter().map(|word| word.as_ref().to_owned()).collect();
        self
    }

    /// Sets an environment variable.
    pub fn env(&mut self, name: &str, value: impl AsRef<OsStr>) -> &mut Self {
        self.env.push((name.into(), value.as_ref().to_owned()));
        self
    }

    /// What the program reads.
    pub fn stdin(&mut self, bytes: impl Into<Vec<u8>>) -> &mut Self {
        self.stdin = bytes.into();
        self
    }

    /// Another time limit.
    pub fn patience(&mut self, patience: Duration) -> &mut Self {
        self.patience = patience;
        self
    }

    /// Runs it through another program, which gets the whole command as its last arguments.
    pub fn through<S: AsRef<OsStr>>(&mut self, words: impl IntoIterator<Item = S>) -> &mut Self {
        self.before.splice(0..0, words.into_iter().map(|word| word.as_ref().to_owned()));
        self
    }

    /// Runs it through a shell script of the tests' own, in a mount namespace; the command is `"$@"`.
    pub fn through_script(&mut self, script: &str) -> &mut Self {
        self.through(["unshare", "--mount", "--propagation", "private", "--", "sh", "-euc", script, "sh"])
    }

    pub(crate) fn as_user(&self, user: User, program: &Path, images: &Path, seen_images: &Path) -> Self {
        let mut other = self.clone();
        if let Some(first) = other.words.first_mut() {
            *first = program.into();
        }
        let cache = seen_images.parent().unwrap_or(seen_images).to_owned();
        other.env("VMM_CACHE_DIR", &cache).env("HOME", &cache);
        let (uid, gid) = user.ids();
        let groups = match user {
            User::OfKvmGroup => format!("--groups={KVM_GROUP}"),
            User::Ours | User::Stranger => "--clear-groups".to_owned(),
        };
        let [from, to, kvm] = [images, seen_images, &cache.join("kvm")].map(|path| path.display().to_string());
        // A device node of the case's own: neither the machine's permissions nor its groups matter then.
        other.through_script(&format!(
            "mount --bind '{from}' '{to}'
             if [ -e /dev/kvm ]; then
                 [ -e '{kvm}' ] || mknod -m 660 '{kvm}' c 10 232
                 chown 0:{KVM_GROUP} '{kvm}'; mount --bind '{kvm}' /dev/kvm
             fi
             exec setpriv --reuid={uid} --regid={gid} {groups} --inh-caps=-all -- \"$@\""
        ));
        other
    }

    /// The whole command line.
    pub fn words(&self) -> Vec<OsString> {
        let mut words = self.before.clone();
        words.extend(self.words.iter().cloned());
        if !self.tail.is_empty() {
            words.push("--".into());
            words.extend(self.tail.iter().cloned());
        }
        words
    }

    /// The environment it adds.
    pub fn environment(&self) -> &[(OsString, OsString)] {
        &self.env
    }

    /// How long it may take.
    pub(crate) fn time_limit(&self) -> Duration {
        self.patience
    }

    /// Starts it, in a process group of its own and with `VMM_*` settings and proxies of the tests' caller removed.
    pub(crate) fn spawn(&self) -> Result<Child> {
        let words = self.words();
        let (program, rest) = words.split_first().context("an empty command line")?;
        let mut command = Command::new(program);
        command.args(rest).current_dir(&self.folder).process_group(0);
        let is_a_setting = |name: &str| name.starts_with("VMM_") || name.to_ascii_lowercase().ends_with("_proxy");
        for (name, _) in std::env::vars_os().filter(|(name, _)| is_a_setting(&name.to_string_lossy())) {
            command.env_remove(name);
        }
        command.envs(self.env.iter().cloned()).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().with_context(|| format!("starting {program:?}"))
    }

    /// Starts it with its standard input, and collects what it writes.
    pub fn start(&self) -> Result<Started> {
        let mut child = self.spawn()?;
        let bytes = self.stdin.clone();
        let stdin = child.stdin.take();
        // Ends with the child at the latest: it then gets EPIPE, which says nothing that the child's status does not.
        thread::spawn(move || stdin.map(|mut pipe| pipe.write_all(&bytes)));
        let streams = (child.stdout.take().map(collect), child.stderr.take().map(collect));
        Ok(Started { child, streams, patience: self.patience, text: format!("{:?}", self.words()) })
    }

    /// Starts it around a shell in the guest that is told what to do step by step; replaces the command.
    pub fn converse(&self) -> Result<Conversation> {
        Conversation::begin(self.clone())
    }

    /// Starts it and waits for its end.
    pub fn finish(&self) -> Result<Finished> {
        self.start()?.finish()
    }
}

pub(crate) type Collector = JoinHandle<Vec<u8>>;

pub(crate) fn collect(mut pipe: impl Read + Send + 'static) -> Collector {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // What was read before an error is what the case gets to see.
        let _ = pipe.read_to_end(&mut bytes);
        bytes
    })
}

/// What was collected.
pub(crate) fn read(stream: Option<Collector>) -> Vec<u8> {
    stream.and_then(|thread| thread.join().ok()).unwrap_or_default()
}

/// A run that goes on.
#[derive(Debug)]
pub struct Started {
    child: Child,
    streams: (Option<Collector>, Option<Collector>),
    patience: Duration,
    text: String,
}

impl Started {
    /// The number of the process that was started: the program's own, unless it runs through another.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends the program a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill_process(Pid::from_child(&self.child), signal)?)
    }

    /// Sends the whole process group a signal, as a terminal does at Ctrl-C.
    pub fn signal_group(&self, signal: Signal) -> Result<()> {
        Ok(kill_process_group(Pid::from_child(&self.child), signal)?)
    }

    /// Waits for the end; past the time limit the program is killed and what it wrote is in the error.
    pub fn finish(mut self) -> Result<Finished> {
        let what = format!("the end of {}", self.text);
        let waited = until(&what, self.patience, || Ok(self.child.try_wait()?));
        if waited.is_err() {
            // The group may be gone already; the wait below sees to the program itself.
            let _ = self.signal_group(Signal::KILL);
            let _ = self.child.kill();
        }
        let status = self.child.wait()?;
        let (stdout, stderr) = self.streams;
        let finished = Finished::new(status, read(stdout), &read(stderr));
        waited.with_context(|| format!("{finished}"))?;
        Ok(finished)
    }
}

/// What a run left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    /// The exit status; the signal's negative number if one ended it.
    pub status: i32,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: String,
}

impl Finished {
    pub(crate) fn new(status: ExitStatus, stdout: Vec<u8>, stderr: &[u8]) -> Self {
        Self {
            status: status.code().or_else(|| status.signal().map(|signal| -signal)).unwrap_or_default(),
            stdout,
            stderr: String::from_utf8_lossy(stderr).into_owned(),
        }
    }

    /// Standard output as text, without white space around it.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim().to_owned()
    }

    /// The text if the status is zero.
    pub fn succeeded(&self) -> Result<String> {
        self.ended_with(0)?;
        Ok(self.text())
    }

    /// An error with everything that was written, unless the status is `expected`.
    pub fn ended_with(&self, expected: i32) -> Result<()> {
        ensure!(self.status == expected, "expected status {expected}; {self}");
        Ok(())
    }
}

impl fmt::Display for Finished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 2000;
        let text: String = self.text().chars().take(SHOWN).collect();
        write!(f, "it ended with {}; stdout: {text:?}; stderr:\n{}", self.status, self.stderr)
    }
}

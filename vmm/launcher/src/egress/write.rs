//! The writer of the log: a bounded queue, a thread, a file that is rotated by size.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, SystemTime};

use netstack::{AuditSink, Event};

use super::entry::{Entry, Kind};
use crate::instance::VmId;

/// Entries that wait for the disk. The memory for them is taken at once.
const QUEUE: usize = 1024;
/// Entries after which the writer looks at once: a guest that causes as many as the stack lets through (200 a second of
/// each of four kinds, twice that around a second's end) fills no queue during a pause.
const ALARM: usize = QUEUE / 4;
/// A longer log becomes the old log, and the old log goes.
const MAX_FILE: u64 = 8 << 20;
const STACK: usize = 128 << 10;
/// Between what was written and a look at what came meanwhile: to write once is cheaper than for each entry.
const PAUSE: Duration = Duration::from_millis(100);

/// The log in a VM's folder.
pub(super) const FILE: &str = "egress.jsonl";
/// What was the log before.
pub(super) const OLD_FILE: &str = "egress.jsonl.1";
/// Both.
pub(crate) const LOGS: [&str; 2] = [FILE, OLD_FILE];

/// A log being written. Dropping it waits until all is on its way to the disk, so the sink must be gone by then.
#[derive(Debug)]
pub struct Log {
    thread: Option<JoinHandle<()>>,
    lost: Arc<AtomicU64>,
}

/// Where the network stack tells what it decided.
#[derive(Debug)]
struct Sink {
    queue: SyncSender<(SystemTime, Entry)>,
    writer: Thread,
    /// Entries since the writer was last woken up.
    quiet: usize,
    lost: Arc<AtomicU64>,
    total_lost: Arc<AtomicU64>,
}

impl AuditSink for Sink {
    fn record(&mut self, event: &Event<'_>) {
        self.quiet += 1;
        if self.quiet >= ALARM {
            self.quiet = 0;
            self.writer.unpark();
        }
        if self.queue.try_send((SystemTime::now(), Entry::of(event))).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
            self.total_lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Log {
    /// Starts a log in `folder`; its file is made by the first entry.
    ///
    /// # Errors
    ///
    /// When there can be no thread for it.
    pub fn start(folder: &Path, vm: &VmId) -> io::Result<(Self, Box<dyn AuditSink>)> {
        Self::with_limits(folder, vm, QUEUE, MAX_FILE)
    }

    fn with_limits(folder: &Path, vm: &VmId, queue: usize, max: u64) -> io::Result<(Self, Box<dyn AuditSink>)> {
        let (sender, receiver) = sync_channel(queue);
        let (lost, total_lost) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let writer = Writer {
            vm: vm.to_string(),
            started: SystemTime::now(),
            folder: folder.to_owned(),
            file: None,
            max,
            lost: lost.clone(),
            is_failing: false,
        };
        let thread = thread::Builder::new().name("egress-log".into()).stack_size(STACK);
        let thread = thread.spawn(move || writer.run(&receiver))?;
        let sink =
            Sink { queue: sender, writer: thread.thread().clone(), quiet: 0, lost, total_lost: total_lost.clone() };
        Ok((Self { thread: Some(thread), lost: total_lost }, Box::new(sink)))
    }

    /// Entries that did not fit into the queue so far.
    pub(crate) fn lost(&self) -> Arc<AtomicU64> {
        self.lost.clone()
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        thread.thread().unpark();
        if thread.join().is_err() {
            tracing::error!("The egress log ended by a panic");
        }
    }
}

struct Writer {
    vm: String,
    started: SystemTime,
    folder: PathBuf,
    file: Option<Output>,
    max: u64,
    lost: Arc<AtomicU64>,
    is_failing: bool,
}

struct Output {
    file: BufWriter<File>,
    len: u64,
}

impl Writer {
    fn run(mut self, queue: &Receiver<(SystemTime, Entry)>) {
        loop {
            let next = match queue.try_recv() {
                Err(TryRecvError::Empty) => {
                    self.flush();
                    // The end, and a flood, do not wait for it.
                    thread::park_timeout(PAUSE);
                    queue.recv().ok()
                }
                next => next.ok(),
            };
            // Also when the queue ends: what was lost last is told last.
            let lost = self.lost.swap(0, Ordering::Relaxed);
            if lost > 0 {
                self.put(SystemTime::now(), Entry { count: Some(lost), ..Entry::new(Kind::Lost) });
            }
            match next {
                Some((time, entry)) => self.put(time, entry),
                None => break,
            }
        }
        self.flush();
    }

    fn put(&mut self, time: SystemTime, entry: Entry) {
        let written = self.write(time, entry);
        self.complain(written);
    }

    fn flush(&mut self) {
        let flushed = self.file.as_mut().map_or(Ok(()), |output| output.file.flush());
        self.complain(flushed);
    }

    /// A full disk is no reason to stop the VM, but one to say so once.
    fn complain(&mut self, result: io::Result<()>) {
        if let Err(error) = result
            && !std::mem::replace(&mut self.is_failing, true)
        {
            tracing::warn!(%error, folder = %self.folder.display(), "The egress log cannot be written");
        }
    }

    fn write(&mut self, time: SystemTime, entry: Entry) -> io::Result<()> {
        let line = self.line(time, entry)?;
        if self.file.is_none() {
            let output = Output::open(&self.folder)?;
            self.file = Some(output);
            let start = self.line(self.started, Entry::new(Kind::Start))?;
            self.append(&start)?;
        }
        self.append(&line)
    }

    fn append(&mut self, line: &[u8]) -> io::Result<()> {
        let added = u64::try_from(line.len()).unwrap_or(u64::MAX);
        if let Some(output) = &mut self.file
            && output.len > 0
            && output.len.saturating_add(added) > self.max
        {
            output.file.flush()?;
            fs::rename(self.folder.join(FILE), self.folder.join(OLD_FILE))?;
            *output = Output::open(&self.folder)?;
        }
        let Some(output) = &mut self.file else { return Ok(()) };
        output.len = output.len.saturating_add(added);
        output.file.write_all(line)
    }

    fn line(&self, time: SystemTime, mut entry: Entry) -> io::Result<Vec<u8>> {
        entry.time = super::clock::rfc3339(time);
        entry.vm.clone_from(&self.vm);
        let mut line = serde_json::to_vec(&entry)?;
        line.push(b'\n');
        Ok(line)
    }
}

impl Output {
    fn open(folder: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(folder.join(FILE))?;
        let len = file.metadata()?.len();
        Ok(Self { file: BufWriter::new(file), len })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::time::Instant;

    use super::*;

    fn vm() -> VmId {
        VmId::new(Path::new("/project"), 1)
    }

    /// A sink whose writer is this thread.
    fn sink(queue: SyncSender<(SystemTime, Entry)>, lost: Arc<AtomicU64>) -> Sink {
        Sink { queue, writer: thread::current(), quiet: 0, lost, total_lost: Arc::default() }
    }

    fn entries(path: &Path) -> Vec<Entry> {
        fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn a_log_begins_with_its_vm_and_is_the_user_s_alone() {
        let folder = tempfile::tempdir().unwrap();
        let (log, mut sink) = Log::start(folder.path(), &vm()).unwrap();
        sink.record(&Event::Limit { number: 1, what: "TCP connections" });
        drop((sink, log));
        let path = folder.path().join(FILE);
        let entries = entries(&path);
        assert_eq!(entries.iter().map(|entry| entry.event).collect::<Vec<_>>(), [Kind::Start, Kind::Limit]);
        assert_eq!(entries[1].vm, vm().to_string());
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn nothing_to_tell_leaves_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let (log, sink) = Log::start(folder.path(), &vm()).unwrap();
        drop((sink, log));
        assert_eq!(folder.path().read_dir().unwrap().count(), 0);
    }

    #[test]
    fn a_full_log_becomes_the_old_one() {
        const MAX: u64 = 2000;
        let folder = tempfile::tempdir().unwrap();
        let (log, mut sink) = Log::with_limits(folder.path(), &vm(), 1000, MAX).unwrap();
        for _ in 0..100 {
            sink.record(&Event::Limit { number: 1, what: "TCP connections" });
        }
        drop((sink, log));
        for name in [FILE, OLD_FILE] {
            let path = folder.path().join(name);
            assert!(path.metadata().unwrap().len() <= MAX);
            assert!(!entries(&path).is_empty());
        }
        assert_eq!(folder.path().read_dir().unwrap().count(), 2);
    }

    #[test]
    fn a_flood_wakes_the_writer_before_the_queue_is_full() {
        const LONG: Duration = Duration::from_secs(60);
        let (sender, receiver) = sync_channel(QUEUE);
        let lost = Arc::new(AtomicU64::new(0));
        let mut sink = sink(sender, lost.clone());
        let started = Instant::now();
        for _ in 0..4 {
            for _ in 0..ALARM {
                sink.record(&Event::Limit { number: 1, what: "TCP connections" });
            }
            thread::park_timeout(LONG);
            assert!(started.elapsed() < LONG, "nobody woke it");
            assert_eq!(receiver.try_iter().count(), ALARM);
        }
        assert_eq!(lost.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn what_does_not_fit_is_counted_and_the_count_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let (sender, receiver) = sync_channel(2);
        let lost = Arc::new(AtomicU64::new(0));
        let mut sink = sink(sender, lost.clone());
        for _ in 0..5 {
            sink.record(&Event::Limit { number: 1, what: "TCP connections" });
        }
        drop(sink);
        let writer = Writer {
            vm: vm().to_string(),
            started: SystemTime::now(),
            folder: folder.path().to_owned(),
            file: None,
            max: MAX_FILE,
            lost,
            is_failing: false,
        };
        writer.run(&receiver);
        let found: Vec<_> = entries(&folder.path().join(FILE)).iter().map(|entry| (entry.event, entry.count)).collect();
        assert_eq!(found, [(Kind::Start, None), (Kind::Lost, Some(3)), (Kind::Limit, None), (Kind::Limit, None)]);
    }

    #[test]
    fn a_folder_that_cannot_be_written_ends_nothing() {
        let (log, mut sink) = Log::start(Path::new("/nonexistent"), &vm()).unwrap();
        sink.record(&Event::Limit { number: 1, what: "TCP connections" });
        drop((sink, log));
    }
}

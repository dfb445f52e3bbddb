//! The end of what the guest wrote to its serial console: early kernel messages, and the last words of a panic.
//!
//! Both engines write it, the launcher reads it when a boot fails. The guest decides what is in it: only the amount is
//! bounded here, the bytes are to be escaped by whoever shows them.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How much is kept; older bytes give way.
const MAX_KEPT: usize = 64 << 10;

/// A bounded log of the serial console; clones share it.
#[derive(Debug, Clone, Default)]
pub struct ConsoleLog {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    kept: VecDeque<u8>,
    sink: Option<File>,
}

impl ConsoleLog {
    /// A log that also copies everything to `sink`, until a write to it fails.
    pub(crate) fn with_sink(sink: Option<File>) -> Self {
        Self { inner: Arc::new(Mutex::new(Inner { kept: VecDeque::new(), sink })) }
    }

    /// Everything that is still kept.
    pub fn bytes(&self) -> Vec<u8> {
        self.lock().kept.iter().copied().collect()
    }

    /// The last `count` lines that are not empty, without their line ends.
    pub fn last_lines(&self, count: usize) -> Vec<String> {
        let bytes = self.bytes();
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<&str> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
        lines.iter().skip(lines.len().saturating_sub(count)).map(|line| (*line).to_owned()).collect()
    }

    /// Appends what the guest wrote.
    pub(crate) fn push(&self, bytes: &[u8]) {
        let mut inner = self.lock();
        let fresh = bytes.get(bytes.len().saturating_sub(MAX_KEPT)..).unwrap_or_default();
        let excess = (inner.kept.len() + fresh.len()).saturating_sub(MAX_KEPT);
        inner.kept.drain(..excess);
        inner.kept.extend(fresh);
        if inner.sink.as_mut().is_some_and(|sink| sink.write_all(bytes).is_err()) {
            inner.sink = None;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek};

    use super::*;

    #[test]
    fn keeps_only_the_newest_bytes() {
        let log = ConsoleLog::default();
        log.push(&vec![b'a'; MAX_KEPT]);
        log.push(b"bc");
        let bytes = log.bytes();
        assert_eq!(bytes.len(), MAX_KEPT);
        assert!(bytes.ends_with(b"abc"));
    }

    #[test]
    fn one_write_larger_than_the_log_keeps_its_end() {
        let log = ConsoleLog::default();
        log.push(b"old");
        let mut flood = vec![b'x'; 3 * MAX_KEPT];
        flood.push(b'!');
        log.push(&flood);
        assert_eq!(log.bytes().len(), MAX_KEPT);
        assert!(log.bytes().ends_with(b"x!"));
    }

    #[test]
    fn last_lines_skip_blank_ones_and_carriage_returns() {
        let log = ConsoleLog::default();
        log.push(b"one\r\ntwo\r\n\r\nKernel panic - not syncing\r\n");
        assert_eq!(log.last_lines(2), ["two", "Kernel panic - not syncing"]);
        assert_eq!(log.last_lines(9).len(), 3);
    }

    #[test]
    fn sink_gets_every_byte() {
        let mut file = tempfile::tempfile().unwrap();
        let log = ConsoleLog::with_sink(Some(file.try_clone().unwrap()));
        log.push(&vec![b'y'; 2 * MAX_KEPT]);
        let mut copy = Vec::new();
        file.rewind().unwrap();
        file.read_to_end(&mut copy).unwrap();
        assert_eq!(copy.len(), 2 * MAX_KEPT);
    }
}

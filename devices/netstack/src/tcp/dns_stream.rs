//! DNS over TCP: messages behind their lengths (RFC 1035, 4.2.2; RFC 7766).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Questions of one connection that may wait for answers.
const MAX_PENDING: usize = 16;
/// Bytes of answers that may wait for the guest.
const MAX_UNSENT: usize = 256 << 10;

/// Bytes that all connections together may keep, of long questions and of answers that the guest does not take.
const MAX_KEPT: usize = 16 << 20;
/// Beginning of a question that is not counted: any question of good will is shorter.
const SHORT: usize = 4096;

/// How many bytes all connections of a guest keep.
#[derive(Debug, Clone, Default)]
pub(super) struct Kept(Arc<AtomicUsize>);

/// What a connection to port 53 has read and is to write.
#[derive(Debug)]
pub(super) struct DnsStream {
    partial: Vec<u8>,
    unsent: Vec<u8>,
    pending: usize,
    kept: Kept,
    /// How many of the kept bytes are this connection's.
    share: usize,
}

/// There is no room for more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Crowded;

impl DnsStream {
    pub(super) fn new(kept: Kept) -> Self {
        Self { partial: Vec::new(), unsent: Vec::new(), pending: 0, kept, share: 0 }
    }

    /// Counts what is kept now and `more`; whether there is room for it.
    fn account(&mut self, more: usize) -> bool {
        let wanted = self.partial.len().saturating_sub(SHORT) + self.unsent.len() + more;
        let before = std::mem::replace(&mut self.share, wanted);
        if wanted <= before {
            self.kept.0.fetch_sub(before - wanted, Ordering::Relaxed);
            return true;
        }
        self.kept.0.fetch_add(wanted - before, Ordering::Relaxed) + (wanted - before) <= MAX_KEPT
    }

    /// How many bytes `push` may be given now.
    pub(super) fn room(&self) -> usize {
        if self.pending >= MAX_PENDING || self.unsent.len() >= MAX_UNSENT { 0 } else { self.missing() }
    }

    /// Bytes that the message at hand still lacks.
    fn missing(&self) -> usize {
        let wanted = match self.partial.first_chunk::<2>() {
            Some(&len) => 2 + usize::from(u16::from_be_bytes(len)),
            None => 2,
        };
        wanted.saturating_sub(self.partial.len())
    }

    /// Takes at most `room` bytes from the guest; gives a whole message when there is one.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<Option<Vec<u8>>, Crowded> {
        self.partial.extend_from_slice(bytes);
        if self.partial.len() < 2 || self.missing() > 0 {
            return if self.account(0) { Ok(None) } else { Err(Crowded) };
        }
        let message = self.partial.split_off(2);
        self.partial = Vec::new();
        self.account(0);
        if message.is_empty() {
            return Ok(None);
        }
        self.pending += 1;
        Ok(Some(message))
    }

    /// Takes the answer to one message; without one, or without room for it, the question is forgotten.
    pub(super) fn answer(&mut self, message: Option<&[u8]>) {
        self.pending = self.pending.saturating_sub(1);
        if let Some(message) = message
            && let Ok(len) = u16::try_from(message.len())
        {
            if !self.account(2 + message.len()) {
                self.account(0);
                return;
            }
            self.unsent.extend_from_slice(&len.to_be_bytes());
            self.unsent.extend_from_slice(message);
        }
    }

    /// What is to be written.
    pub(super) fn unsent(&self) -> &[u8] {
        &self.unsent
    }

    /// So much was written.
    pub(super) fn sent(&mut self, count: usize) {
        self.unsent.drain(..count.min(self.unsent.len()));
        if self.unsent.is_empty() {
            self.unsent = Vec::new();
        }
        self.account(0);
    }

    /// Whether nothing more is to be answered unless the guest asks for more.
    pub(super) fn is_idle(&self) -> bool {
        self.pending == 0
    }
}

impl Drop for DnsStream {
    fn drop(&mut self) {
        self.kept.0.fetch_sub(self.share, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_that_nobody_takes_are_bounded_for_all_connections_together() {
        let kept = Kept::default();
        let mut streams: Vec<DnsStream> = (0..100).map(|_| DnsStream::new(kept.clone())).collect();
        let answer = vec![0; 60_000];
        for _ in 0..MAX_PENDING {
            streams.iter_mut().for_each(|stream| stream.answer(Some(&answer)));
        }
        let unsent: usize = streams.iter().map(|stream| stream.unsent().len()).sum();
        assert!(unsent <= MAX_KEPT && unsent > MAX_KEPT - 70_000, "{unsent}");
        assert_eq!(kept.0.load(Ordering::Relaxed), unsent);

        let first = streams[0].unsent().len();
        streams[0].sent(first);
        streams[0].answer(Some(b"again"));
        assert_eq!(streams[0].unsent().len(), 7);
        drop(streams);
        assert_eq!(kept.0.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn long_questions_that_never_end_are_bounded_and_short_ones_still_pass() {
        let kept = Kept::default();
        let begin = |len: usize| {
            let mut stream = DnsStream::new(kept.clone());
            let begun = stream.push(&[0xff, 0xff]).and_then(|_| stream.push(&vec![0; len]));
            begun.map(|message| (stream, message))
        };
        let begun: Vec<_> = (0..1000).filter_map(|_| begin(60_000).ok()).collect();
        assert_eq!(begun.len(), MAX_KEPT / (60_000 + 2 - SHORT));
        let mut short = DnsStream::new(kept.clone());
        assert_eq!(short.push(&[0, 1]).and_then(|_| short.push(b"q")), Ok(Some(b"q".to_vec())));
    }

    #[test]
    fn messages_are_found_across_any_split() {
        let mut stream = DnsStream::new(Kept::default());
        let mut found = Vec::new();
        for byte in [0, 3, b'a', b'b', b'c', 0, 1, b'd'] {
            assert!(stream.room() >= 1);
            found.extend(stream.push(&[byte]).unwrap());
        }
        assert_eq!(found, [b"abc".to_vec(), b"d".to_vec()]);
    }

    #[test]
    fn many_unanswered_questions_stop_the_reading() {
        let mut stream = DnsStream::new(Kept::default());
        for _ in 0..MAX_PENDING {
            assert_eq!(stream.room(), 2);
            stream.push(&[0, 1]).unwrap();
            assert!(stream.push(b"q").unwrap().is_some());
        }
        assert_eq!(stream.room(), 0);
        stream.answer(Some(b"r"));
        assert_eq!((stream.room(), stream.unsent()), (2, &[0, 1, b'r'][..]));
    }

    #[test]
    fn an_empty_message_is_skipped() {
        let mut stream = DnsStream::new(Kept::default());
        assert_eq!(stream.push(&[0, 0]), Ok(None));
        assert_eq!(stream.room(), 2);
    }
}

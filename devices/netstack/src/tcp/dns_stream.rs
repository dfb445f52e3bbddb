//! DNS over TCP: messages behind their lengths (RFC 1035, 4.2.2; RFC 7766).

/// Questions of one connection that may wait for answers.
const MAX_PENDING: usize = 16;
/// Bytes of answers that may wait for the guest.
const MAX_UNSENT: usize = 256 << 10;

/// What a connection to port 53 has read and is to write.
#[derive(Debug, Default)]
pub(super) struct DnsStream {
    partial: Vec<u8>,
    unsent: Vec<u8>,
    pending: usize,
}

impl DnsStream {
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
    pub(super) fn push(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        self.partial.extend_from_slice(bytes);
        if self.partial.len() < 2 || self.missing() > 0 {
            return None;
        }
        let message = self.partial.split_off(2);
        self.partial.clear();
        if message.is_empty() {
            return None;
        }
        self.pending += 1;
        Some(message)
    }

    /// Takes the answer to one message; without one the question is forgotten.
    pub(super) fn answer(&mut self, message: Option<&[u8]>) {
        self.pending = self.pending.saturating_sub(1);
        if let Some(message) = message
            && let Ok(len) = u16::try_from(message.len())
        {
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
    }

    /// Whether nothing more is to be answered unless the guest asks for more.
    pub(super) fn is_idle(&self) -> bool {
        self.pending == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_found_across_any_split() {
        let mut stream = DnsStream::default();
        let mut found = Vec::new();
        for byte in [0, 3, b'a', b'b', b'c', 0, 1, b'd'] {
            assert!(stream.room() >= 1);
            found.extend(stream.push(&[byte]));
        }
        assert_eq!(found, [b"abc".to_vec(), b"d".to_vec()]);
    }

    #[test]
    fn many_unanswered_questions_stop_the_reading() {
        let mut stream = DnsStream::default();
        for _ in 0..MAX_PENDING {
            assert_eq!(stream.room(), 2);
            stream.push(&[0, 1]);
            assert!(stream.push(b"q").is_some());
        }
        assert_eq!(stream.room(), 0);
        stream.answer(Some(b"r"));
        assert_eq!((stream.room(), stream.unsent()), (2, &[0, 1, b'r'][..]));
    }

    #[test]
    fn an_empty_message_is_skipped() {
        let mut stream = DnsStream::default();
        assert_eq!(stream.push(&[0, 0]), None);
        assert_eq!(stream.room(), 2);
    }
}

//! Notices: what the host tells the guest's kernel about files that changed on the host.
//!
//! An agent whose kernel takes them says so in `Ready`; the host then connects to [`NOTICE_PORT`] once and sends them,
//! one after another, for as long as the guest runs. The agent hands each to the kernel without looking into it, and
//! nothing comes back. A notice has the form of a notification in the FUSE protocol: a `fuse_out_header` with its
//! length, its code in the field of the error and no request's number, then what belongs to the code;
//! `kernel/README.md` lists the codes. When the connection ends the agent makes the kernel forget what it knows, for
//! nobody keeps that true any more.

use std::io::{self, BufReader, Read};

use crate::frame::ProtocolError;

/// Guest port on which the agent takes notices.
pub const NOTICE_PORT: u32 = 1026;
/// The longest notice: what the kernel takes in one piece.
pub const MAX_NOTICE: usize = 4096;
/// Bytes of the header: `u32` length of the whole notice, `i32` code, `u64` zero.
pub const HEADER_LEN: usize = 16;
/// The notice that everything the kernel knows may have changed: `FUSE_NOTIFY_EPOCH` of our kernel.
pub const EVERYTHING: [u8; HEADER_LEN] = [16, 0, 0, 0, 0xea, 0x03, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// Cuts a stream of bytes into notices.
#[derive(Debug)]
pub struct NoticeReader<R> {
    stream: BufReader<R>,
    notice: Vec<u8>,
}

impl<R: Read> NoticeReader<R> {
    /// Reads from `stream`.
    pub fn new(stream: R) -> Self {
        Self { stream: BufReader::new(stream), notice: Vec::new() }
    }

    /// Blocks until a whole notice arrives; `None` when the stream ends between two.
    pub fn receive(&mut self) -> Result<Option<&[u8]>, ProtocolError> {
        self.notice.clear();
        self.read_up_to(HEADER_LEN)?;
        let Some([a, b, c, d]) = self.notice.first_chunk() else {
            return if self.notice.is_empty() { Ok(None) } else { Err(ProtocolError::Closed) };
        };
        let len = usize::try_from(u32::from_le_bytes([*a, *b, *c, *d])).unwrap_or(usize::MAX);
        if !(HEADER_LEN..=MAX_NOTICE).contains(&len) {
            return Err(ProtocolError::Malformed("notice shorter than its header or longer than allowed"));
        }
        self.read_up_to(len)?;
        if self.notice.len() < len { Err(ProtocolError::Closed) } else { Ok(Some(&self.notice)) }
    }

    fn read_up_to(&mut self, len: usize) -> io::Result<()> {
        let missing = len.saturating_sub(self.notice.len());
        let missing = u64::try_from(missing).unwrap_or(u64::MAX);
        self.stream.by_ref().take(missing).read_to_end(&mut self.notice)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notice(len: u32, tail: &[u8]) -> Vec<u8> {
        [&len.to_le_bytes()[..], &3_u32.to_le_bytes(), &[0; 8], tail].concat()
    }

    #[test]
    fn notices_come_out_as_they_went_in() {
        let sent = [notice(16, b""), notice(21, b"hello"), EVERYTHING.to_vec()];
        let stream = sent.concat();
        let mut notices = NoticeReader::new(&stream[..]);
        for expected in &sent {
            assert_eq!(notices.receive().unwrap(), Some(&expected[..]));
        }
        assert_eq!(notices.receive().unwrap(), None);
    }

    #[test]
    fn a_cut_notice_is_an_error() {
        let whole = notice(21, b"hello");
        for len in 1..whole.len() {
            let mut notices = NoticeReader::new(&whole[..len]);
            let outcome = notices.receive();
            assert!(matches!(outcome, Err(ProtocolError::Closed)), "{len}: {outcome:?}");
        }
    }

    #[test]
    fn lengths_that_cannot_be_are_refused_before_anything_is_read() {
        for len in [0, 15, 4097, u32::MAX] {
            let stream = notice(len, &[]);
            let mut notices = NoticeReader::new(&stream[..]);
            let outcome = notices.receive();
            assert!(matches!(outcome, Err(ProtocolError::Malformed(_))), "{len}: {outcome:?}");
        }
    }
}

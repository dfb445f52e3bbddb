//! An output stream of a command, and the queue of bytes on their way to the host.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};

use agent_protocol::credit::SendCredit;
use agent_protocol::exec::{DATA_HEADER_LEN, MAX_DATA, Stream, ToHost, data_header};
use agent_protocol::{ProtocolError, encode};

/// The reading side of a command's output.
#[derive(Debug)]
pub(super) struct Output {
    file: File,
    pub(super) stream: Stream,
    pub(super) credit: SendCredit,
}

/// What became of an output when it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pumped {
    /// There was something.
    Data,
    /// There is nothing now.
    Nothing,
    /// Nothing will come any more.
    End,
}

impl Output {
    pub(super) fn new(file: File, stream: Stream) -> Self {
        Self { file, stream, credit: SendCredit::default() }
    }

    /// The descriptor to wait for, when there is credit for what it gives.
    pub(super) fn wanted(&self) -> Option<BorrowedFd<'_>> {
        (self.credit.left() > 0).then(|| self.file.as_fd())
    }

    /// Reads once, as much as the credit allows.
    pub(super) fn pump(&mut self, outbox: &mut Outbox) -> Pumped {
        let limit = self.credit.left().min(MAX_DATA);
        match outbox.read_data(self.stream, limit, &self.file) {
            Ok(0) => Pumped::End,
            Ok(count) => {
                self.credit.spend(count);
                Pumped::Data
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Pumped::Nothing,
            // A terminal nobody has open any more reads as EIO.
            Err(_) => Pumped::End,
        }
    }
}

/// Frames the connection has not taken yet. Output is read only while it is empty, so it stays short.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    bytes: Vec<u8>,
    sent: usize,
}

impl Outbox {
    pub(super) fn is_empty(&self) -> bool {
        self.sent == self.bytes.len()
    }

    pub(super) fn put(&mut self, message: &ToHost) -> Result<(), ProtocolError> {
        self.bytes.extend(encode(message)?);
        Ok(())
    }

    /// Reads a Data message's payload in place.
    fn read_data(&mut self, stream: Stream, limit: usize, mut file: &File) -> std::io::Result<usize> {
        let start = self.bytes.len();
        let payload = start + DATA_HEADER_LEN;
        self.bytes.resize(payload + limit, 0);
        let result = file.read(&mut self.bytes[payload..]);
        let count = *result.as_ref().unwrap_or(&0);
        if count == 0 {
            self.bytes.truncate(start);
        } else {
            self.bytes.truncate(payload + count);
            self.bytes[start..payload].copy_from_slice(&data_header(Some(stream), count));
        }
        result
    }

    /// Writes as much as the connection takes now.
    pub(super) fn flush(&mut self, mut stream: impl Write) -> std::io::Result<()> {
        while !self.is_empty() {
            match stream.write(&self.bytes[self.sent..]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.bytes.clear();
        self.sent = 0;
        Ok(())
    }
}

//! Standard input of a command: holds what it has not read yet, at most a window of it.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::os::fd::{AsFd, BorrowedFd};

use agent_protocol::ProtocolError;
use agent_protocol::credit::ReceiveCredit;
use rustix::termios::{LocalModes, SpecialCodeIndex, tcgetattr};

/// The writing side of a command's standard input.
#[derive(Debug)]
pub(super) struct Input {
    file: File,
    is_terminal: bool,
    waiting: VecDeque<u8>,
    credit: ReceiveCredit,
    /// The host sends no more.
    is_ending: bool,
}

/// What became of the input when it was served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Served {
    /// It goes on; so much credit is to be given back.
    Credit(Option<u32>),
    /// Everything the host sent was passed on.
    Ended,
    /// The command reads no more.
    Closed,
}

impl Input {
    pub(super) fn new(file: File, is_terminal: bool) -> Self {
        let (waiting, credit) = (VecDeque::new(), ReceiveCredit::default());
        Self { file, is_terminal, waiting, credit, is_ending: false }
    }

    pub(super) fn take(&mut self, bytes: &[u8]) -> Result<(), ProtocolError> {
        if self.is_ending {
            return Err(ProtocolError::Malformed("standard input after its end"));
        }
        self.credit.take(bytes.len())?;
        self.waiting.extend(bytes);
        Ok(())
    }

    /// The host sends no more. A terminal is told by the character that means so to it, if it is in line mode.
    pub(super) fn end(&mut self) {
        if self.is_terminal
            && !self.is_ending
            && let Ok(modes) = tcgetattr(&self.file)
            && modes.local_modes.contains(LocalModes::ICANON)
        {
            self.waiting.push_back(modes.special_codes[SpecialCodeIndex::VEOF]);
        }
        self.is_ending = true;
    }

    /// The descriptor to wait for, when there is something to write.
    pub(super) fn wanted(&self) -> Option<BorrowedFd<'_>> {
        (!self.waiting.is_empty()).then(|| self.file.as_fd())
    }

    /// Writes as much as the command takes now.
    pub(super) fn serve(&mut self) -> Served {
        let mut passed_on = 0;
        while !self.waiting.is_empty() {
            let (front, _) = self.waiting.as_slices();
            match (&self.file).write(front) {
                Ok(count) => {
                    self.waiting.drain(..count);
                    passed_on += count;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Served::Closed,
            }
        }
        if self.waiting.is_empty() && self.is_ending {
            return Served::Ended;
        }
        Served::Credit(self.credit.release(passed_on))
    }
}

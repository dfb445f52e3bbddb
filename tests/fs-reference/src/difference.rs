//! Where our server differs from another, and why.

use rustix::io::Errno;

use crate::operation::Operation;
use crate::player::{Outcome, Told};
use crate::servers::Kind;

/// A difference that is known and meant, or that is the other's.
pub struct Known {
    /// Between ours and these.
    pub servers: &'static [Kind],
    /// Why there is one.
    pub reason: &'static str,
    /// Whether it is the difference between these outcomes (ours, theirs) of an operation.
    applies: fn(&Operation, &Outcome, &Outcome) -> bool,
}

const BOTH: &[Kind] = &[Kind::Virtiofsd, Kind::FuseBackend];

/// All of them.
pub const KNOWN: &[Known] = &[
    Known {
        servers: BOTH,
        reason: "An absent name is told with the time for which it will be absent; the others send an error, which Linux \
                 does not remember",
        applies: |_, ours, theirs| *ours == Ok(Told::Absent) && *theirs == Err(Errno::NOENT),
    },
    Known {
        servers: BOTH,
        reason: "CREATE where a folder, a FIFO or a link is: ours says that something is there, and Linux looks again; the \
                 others open a folder for reading, and refuse the rest in words of their own",
        applies: |operation, ours, theirs| {
            let is_theirs = matches!(theirs, Ok(Told::File(_)) | Err(Errno::BADF | Errno::ISDIR));
            matches!(operation, Operation::Create { .. }) && *ours == Err(Errno::EXIST) && is_theirs
        },
    },
    Known {
        servers: BOTH,
        reason: "Flags of RENAME2 that are unknown, or exclude each other, are refused before anything else is looked at, or \
                 after; the others drop those they do not know, and so rename all the same",
        applies: |operation, ours, theirs| match operation {
            Operation::Rename { flags: 3, .. } => ours.is_err() && *theirs == Err(Errno::INVAL),
            Operation::Rename { flags, .. } => flags & !3 != 0 && *ours == Err(Errno::INVAL),
            _ => false,
        },
    },
    Known {
        servers: &[Kind::FuseBackend],
        reason: "fuse-backend-rs leaves `.` and `..` out of listings",
        applies: |_, ours, theirs| match (ours, theirs) {
            (Ok(Told::Entries(ours)), Ok(Told::Entries(theirs))) => {
                let is_dot = |name: &[u8]| matches!(name, b"." | b"..");
                ours.iter().filter(|(name, _)| !is_dot(name)).eq(theirs)
            }
            _ => false,
        },
    },
];

/// What a difference means for the rest of a sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// There is none, or it is known and makes no difference later on.
    GoOn,
    /// It is known, but the servers' files or the guests' knowledge differ from here on.
    End,
    /// It is not on the list.
    Unknown,
}

/// Compares what ours and another server made of an operation.
pub fn judge(server: Kind, operation: &Operation, ours: &Outcome, theirs: &Outcome) -> Verdict {
    if ours == theirs {
        return Verdict::GoOn;
    }
    let mut known = KNOWN.iter().filter(|known| known.servers.contains(&server));
    let changes = |outcome: &Outcome| outcome.as_ref().is_ok_and(|told| *told != Told::Absent);
    match (known.any(|known| (known.applies)(operation, ours, theirs)), changes(ours) == changes(theirs)) {
        (true, true) => Verdict::GoOn,
        (true, false) => Verdict::End,
        (false, _) => Verdict::Unknown,
    }
}

/// Whether a server knows such requests at all. A guest's kernel that is told that it does not never asks again.
pub fn is_served(server: Kind, operation: &Operation) -> bool {
    match operation {
        Operation::Tmpfile { .. } => server == Kind::Ours,
        Operation::Copy { .. } => server != Kind::FuseBackend,
        _ => true,
    }
}

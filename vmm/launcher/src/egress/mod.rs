//! The egress log: what the network stack decided about the guest, as JSON lines in the VM's state folder.
//!
//! [`Log`] writes it on a thread of its own, so that neither a slow disk nor a busy guest holds the stack up: what does
//! not fit into its queue is counted instead. [`Tail`] reads it, while it is written or afterwards. Names in it are the
//! guest's words.

mod clock;
mod entry;
mod tail;
mod write;

pub use entry::{Entry, Kind};
pub use tail::{Followed, Tail};
pub(crate) use write::LOGS;
pub use write::Log;

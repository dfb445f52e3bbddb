//! virtio-fs: shares directories and files of the host with the guest.
//!
//! One device exports any number of [`Share`]s through a FUSE server of our own. The guest's kernel is not trusted: it
//! may send any message in any order. What holds against it:
//!
//! - Every name is one component, checked once; it is only ever looked up in a directory that is held open,
//!   with symbolic links, magic links and `..` refused by the host's kernel. Links are resolved in the guest alone.
//! - Only regular files and directories are ever opened, after their type was seen through an `O_PATH` descriptor. No
//!   device node and no set-id bit appears on the host.
//! - A node ID or handle that was not given out names nothing; they are never reused.
//! - Read-only shares are read-only here, not in the guest; so are protected paths ([`Rule`]), and hidden ones are not
//!   there.
//! - Nodes, handles, descriptors and message sizes are bounded.
//!
//! Guest and host see each other's changes: writes go through to the host at once. What the guest caches about names
//! and attributes it checks again after one second; or, if it can be told of changes ([`Notifier`]), believes for a day
//! and hears within tens of milliseconds when it is no longer so, for as long as the host's kernel reports changes
//! where it looked. Programs in the guest that watch files hear of them, too. Small files it then reads without opening
//! them first. Written through a mapping, a file counts as changed when the mapping ends. A directory the *host's* user
//! moves out of a share stays reachable for a guest that works in it, as it would for any process.
//!
//! Extended attributes of programs (`user.*`) are kept for a guest's kernel that asks for no others; what else Linux
//! keeps there means rights on the host, and is not supported.
//!
//! A request that may take long holds up only requests of its kind, one on a network file system only those of its
//! share: if that hangs, the other shares go on and the device can be stopped. What is answered is done: FSYNC is
//! answered when the host's file has been synced, with the host's error if it has not.
//!
//! The host's permissions are those of the process's user: the guest's root cannot write what that user cannot. How
//! many files can be open depends on the process's descriptor limit at the time of [`Fs::new`]; raise it before.

mod device;
mod guard;
mod handle;
mod implicit;
mod linger;
mod name;
mod node;
mod notice;
mod notifier;
mod outbox;
mod pool;
mod report;
mod server;
mod share;
mod stream;
#[cfg(any(test, feature = "test-kit"))]
pub mod test_kit;
#[cfg(test)]
mod tests;
mod watch;
// Reached from outside by the test kit alone. The lints would speak of each field, and of types that derives make.
#[allow(missing_docs, missing_debug_implementations)]
mod wire;

pub use device::{Fs, TAG};
pub use guard::{Guarded, Rule};
pub use notifier::Notifier;
pub use report::{GuardReport, Monitor, ShareReport};
pub use server::Requests;
pub use share::{Access, Owner, OwnerSeen, Ownership, Share};

//! Running VMs on this host: their names, and the sockets by which other `vmm` commands find and steer them.
//!
//! A VM is named by its project: a hash of the project's real path, and a number, since a project may have several. Its
//! files in the run-time folder are `NAME.lock` and `NAME.sock`. The lock is held by the kernel for as long as the
//! process lives, so what a killed one leaves is recognised, whoever has its process number by then. The folder is the
//! user's own and trusted.

mod card;
mod claim;
mod find;
mod id;
mod prune;

pub use card::Card;
pub(crate) use claim::Claim;
pub(crate) use find::connect;
pub use find::{pick, recorded, running};
pub use id::VmId;
pub(crate) use prune::prune;

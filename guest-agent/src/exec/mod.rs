//! The exec server: each connection is one command ([`agent_protocol::exec`]).
//!
//! [`serve`] runs on a thread per connection and takes any stream, so that tests can use a socket pair. A command is
//! started by a helper process ([`helper`], [`spawn`]) as [`user`] says, its end comes from the one reaper of the
//! process ([`reaper`]), and [`session`] moves bytes until it is over.

pub mod helper;
pub mod reaper;

mod input;
mod output;
mod session;
mod spawn;
mod stdio;
mod user;

pub(crate) use session::monotonic_ns;
pub use session::{Context, serve};
pub(crate) use user::ids;

//! Ports of the guest on the host: what users ask for, what is published, and what follows the guest by itself.

mod auto;
mod board;
mod mailbox;
mod spec;
#[cfg(test)]
mod tests;

pub(crate) use auto::Mirror;
pub use auto::{Change, Notice};
pub(crate) use board::Board;
pub(crate) use mailbox::Mailbox;
pub use spec::{PortError, PortSpec};

//! The gateway's resolver: it asks the host's resolvers, and only what the policy lets be asked.
//!
//! A name that is not allowed is refused without a word to anybody, since the question itself would tell somebody
//! something. Answers are taken apart and put together again: addresses that the policy would not let the guest reach
//! are left out (so no name can be rebound to a private network), records beside the answer are dropped, and the rest is
//! remembered as a pin of address to name, for as long as the answer lives and a little longer. The pin belongs to the
//! name that was asked for, whatever aliases led to the address.

mod message;
mod pins;
mod resolver;
mod servers;

pub(crate) use pins::Pins;
pub(crate) use resolver::{Origin, Resolver};

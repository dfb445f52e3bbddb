//! The gateway's resolver: it asks the host's resolvers, and only what the policy lets be asked.
//!
//! A name that is not allowed is refused without a word to anybody, since the question itself would tell somebody
//! something. Answers are taken apart and put together again: addresses that the policy would not let the guest reach
//! are left out (so no name can be rebound to a private network), records beside the answer are dropped, and the rest
//! is remembered as a pin of address to name, for as long as the answer lives and a little longer. The pin belongs to
//! the name that was asked for, whatever aliases led to the address; a name that a rule denies is not let in under an
//! alias.
//!
//! What only means something near the host is answered here and asked of nobody: single labels, `localhost`, `.local`
//! and its like, reverse names of addresses that the guest could not reach. The host's `/etc/hosts` and its search
//! domains are not the guest's. Answers are cached for a minute at most, negative ones included, and how much a guest
//! can say in names below an allowed suffix is bounded. Multicast DNS, LLMNR and NetBIOS go to addresses that no flow
//! reaches.

mod allowance;
mod cache;
mod exchange;
#[cfg(feature = "fuzz")]
pub(crate) mod fuzz;
mod message;
mod pins;
mod resolver;
mod servers;
mod special;

pub(crate) use exchange::Origin;
pub(crate) use pins::Pins;
pub(crate) use resolver::Resolver;

//! Ports of the guest on the host: bound on the caller's thread, so that a taken port is an error where it was asked
//! for, and served on the gateway's.
//!
//! What a client of the host sends is the guest's business; what the guest does with a port it was given is bounded by
//! the limits of its flows. The guest has no say in where a port is bound.

mod bound;
mod holder;
mod ports;

pub(crate) use bound::Bound;
pub(crate) use ports::Ports;

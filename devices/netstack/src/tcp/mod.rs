//! TCP: each flow of the guest ends here and goes on in a socket of the host.
//!
//! The gateway translates: it keeps sequence numbers, and lets the host's socket keep the bytes.
//!
//! ```text
//! guest -> segment -> arrival (judged) -> flow -> send() out of the frame -> upstream
//!                                              -> held, while the socket is full; the guest's window stays shut
//! guest <- frame <- peek behind its headers <- upstream; passed over there when the guest has acknowledged it
//! ```
//!
//! `table` finds a flow by its 4-tuple; `opening` and `ingress` begin flows, `interception` hands them to the launcher.
//! `state` knows how far both sides are, `timer` what is due when the guest is silent.
//! The guest's SYN is answered when the host's connection stands. Everything in a segment is untrusted.

mod arrival;
mod dns_stream;
mod flow;
mod held;
mod ingress;
mod interception;
mod opening;
mod segment;
mod sequence;
mod state;
mod table;
mod timer;
mod to_guest;
mod to_host;
mod upstream;

#[cfg(test)]
mod tests;

pub(crate) use held::Stalled;
pub(crate) use ingress::Client;
pub(crate) use table::TcpTable;

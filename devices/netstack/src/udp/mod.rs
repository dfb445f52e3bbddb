//! UDP: each pair of guest and remote endpoint has a connected socket of the host, for as long as it is used.
//!
//! Mappings are address and port dependent (RFC 4787, 4.1 and 5): each pair has a host port of its own, only the
//! endpoint that the guest wrote to can answer, and the host's kernel tells us when nobody is there. A mapping that
//! nothing moves on ends after `Limits::udp_idle`; over `Limits::udp_mappings` the one that was idle longest makes
//! room. Port 53 never has a mapping: the gateway's resolver answers.
//!
//! A published port is one socket of the host. Each of its clients appears to the guest as a port of the gateway.

mod datagram;
mod mapping;
mod published;
mod table;

pub(crate) use datagram::send_datagram;
pub(crate) use table::UdpTable;

//! UDP: each pair of guest and remote endpoint has a connected socket of the host, for as long as it is used.
//!
//! Mappings are address and port dependent: only the endpoint the guest wrote to can answer, and the host's kernel
//! tells us when nobody is there.

mod table;

pub(crate) use table::{UdpTable, send_datagram};

//! TCP: each flow of the guest ends in a smoltcp socket of its own and goes on in a socket of the host.
//!
//! A flow is found by its 4-tuple and has an interface to itself, so that ten thousand idle flows cost a busy one
//! nothing. The guest's SYN is kept until the host's connection stands, and only then shown to smoltcp.

mod dns_stream;
mod endpoint;
mod flow;
mod segment;
mod table;

pub(crate) use endpoint::Spares;
pub(crate) use table::TcpTable;

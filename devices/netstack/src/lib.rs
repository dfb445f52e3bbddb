//! The network gateway of a VM, in userspace: every flow the guest opens ends here and is opened again from the host,
//! if the policy lets it.
//!
//! The launcher starts one [`Netstack`] per VM on the stack end of a [`virtio::frame::FrameLink`] and drops the
//! [`Handle`] to end it. One thread serves everything from one epoll; nothing polls at intervals.
//!
//! ```text
//! frames -> ethernet, arp, ndp, ip (wire) -> tcp: 4-tuple hash -> one translated connection per flow -> host socket
//!                                         -> udp: mapping table -> connected host socket
//!                                         -> port 53: dns -> the host's resolvers
//!                                         -> icmp: echo table -> the host's ping sockets
//! clients of the host -> published ports  -> tcp or udp -> guest
//! ```
//!
//! A TCP flow that only a rule about a name opens has to name that host itself before a byte of it goes on (module
//! `inspect` has the table of verdicts); an [`Interceptor`] may watch or take over flows that are allowed; where the
//! host has a [`Proxy`], flows are opened there.
//!
//! What is not forwarded: anything that does not come from the guest's own addresses; protocols other than TCP, UDP and
//! ICMP echo; packets with IPv4 options or IPv6 extension headers that steer them on, such as source routes (those that
//! do no harm are taken off); multicast and broadcast. Fragments are put together before anything is judged. DNS to
//! whatever server is answered by the gateway. Echo to others than the gateway is relayed where the host has ping
//! sockets for its users and dropped where it has none. What is dropped without an answer is counted in the [`Report`].
//! Every byte from the guest, from clients of published ports, from remote servers and from resolvers is untrusted.
#![forbid(unsafe_code)]

mod audit;
mod config;
mod context;
mod dialer;
mod dns;
mod drops;
mod echo;
#[cfg(feature = "fuzz")]
pub mod fuzz;
mod gateway;
mod handle;
mod host;
mod idle;
mod inspect;
mod intercept;
mod poller;
mod proxy;
mod publish;
mod reassembly;
mod router;
mod slab;
mod tcp;
mod timers;
mod udp;
mod uplink;
mod wire;

#[cfg(test)]
mod tests;

pub use audit::{AuditSink, Discard, Event, Outcome, Subject};
pub use config::{Addresses, Limits, NetConfig, Publish, Published, Resolvers, Transport};
pub use dialer::{Dialed, Dialer, Greeting, HostDialer};
pub use handle::{Handle, Netstack, Report};
pub use host::host_addresses;
pub use inspect::{BadHello, BadRequest, ClientHello, HelloReader, RequestReader, StreamChecks};
pub use intercept::{FlowFacts, Handover, Interceptor, OnConnect, OnHello};
pub use proxy::{Proxy, ProxyError};

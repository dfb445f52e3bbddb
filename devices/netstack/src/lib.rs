//! The network gateway of a VM, in userspace: every flow the guest opens ends here and is opened again from the host,
//! if the policy lets it.
//!
//! The launcher starts one [`Netstack`] per VM on the stack end of a [`virtio::frame::FrameLink`] and drops the
//! [`Handle`] to end it. One thread serves everything from one epoll; nothing polls at intervals.
//!
//! ```text
//! frames -> ethernet, arp, ndp, ip (wire) -> tcp: 4-tuple hash -> one smoltcp interface per flow -> host socket
//!                                         -> udp: mapping table -> connected host socket
//! clients of the host -> published ports  -> tcp or udp -> guest
//!                                         -> port 53: dns -> the host's resolvers
//! ```
//!
//! What is not forwarded: fragments and packets with IP options or IPv6 extension headers (the link's MTU of 65520
//! leaves no reason for them), ICMP other than echo to the gateway, anything that does not come from the guest's own
//! addresses. DNS to whatever server is answered by the gateway. Every byte from the guest, from remote servers and
//! from resolvers is untrusted.
#![forbid(unsafe_code)]

mod audit;
mod config;
mod context;
mod dialer;
mod dns;
mod gateway;
mod handle;
mod host;
mod inspect;
mod intercept;
mod poller;
mod proxy;
mod publish;
mod slab;
mod tcp;
mod timers;
mod udp;
mod uplink;
mod wire;

#[cfg(test)]
mod tests;

pub use audit::{AuditSink, Discard, Event, Outcome};
pub use config::{Addresses, Limits, NetConfig, Publish, Published, Resolvers, Transport};
pub use dialer::{Dialed, Dialer, Greeting, HostDialer};
pub use handle::{Handle, Netstack, Report};
pub use host::host_addresses;
pub use inspect::{BadHello, BadRequest, ClientHello, HelloReader, RequestReader, StreamChecks};
pub use intercept::{FlowFacts, Handover, Interceptor, OnConnect, OnHello};
pub use proxy::{Proxy, ProxyError};

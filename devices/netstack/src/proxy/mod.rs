//! Egress through the proxy that the host itself has to use.
//!
//! Where a network lets nothing out but by an HTTP proxy, the host's own programs learn of it by `HTTPS_PROXY`,
//! `HTTP_PROXY` and `NO_PROXY`. The launcher passes these on, and every TCP flow that the policy has allowed is then
//! opened with a CONNECT to that proxy: `HTTP_PROXY` serves port 80, `HTTPS_PROXY` the rest, each serves all if the
//! other is not set. CONNECT names the host that the guest resolved, so that the proxy's own rules can judge it, or the
//! address where no name is known. What `NO_PROXY` names, and the host's own loopback, is connected to directly.
//!
//! What a name stands for is then the proxy's to find out: one that answers the gateway with a public address and the
//! proxy with another leads to the latter. It is the proxy's rules that keep it from what is behind it.
//!
//! It fails closed: a proxy that cannot be found, does not answer or refuses is a connection refused, never a direct
//! one, and UDP that is not excepted does not go out at all. The gateway's own questions to the host's resolvers are
//! not the guest's traffic and stay direct. Proxies that speak TLS themselves are not supported.

mod bypass;
mod connect;
mod dialer;
mod settings;

pub(crate) use dialer::ProxyDialer;
pub use settings::{Proxy, ProxyError};

#[cfg(test)]
mod tests;

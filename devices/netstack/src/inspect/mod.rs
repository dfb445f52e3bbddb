//! What a stream says about the host it is for, checked before a byte of it leaves.
//!
//! A rule about a name opens the addresses that the gateway's own answers gave for the name. Many names share an
//! address, so for a TCP flow that nothing but such a rule opens, the guest's own words must name one of the names that
//! the address was given for and that the rules allow at this port. They are never trusted alone: the address was
//! judged before, and the words can only narrow. The upstream connection stands while they are read, since the guest is
//! answered only when it does, but nothing of the guest's bytes reaches it before the verdict. What the server sends
//! first passes at once. Flows that an address rule, a preset or `lan` opens are not looked into at all.
//!
//! | what the guest sends first | verdict |
//! |---|---|
//! | TLS ClientHello, server name allowed and pinned to the address | allowed; the rest of the connection is not looked into (a later hello is bound to the first, RFC 8446, 4.1.2) |
//! | TLS ClientHello for another name | denied |
//! | TLS ClientHello without a server name | denied, unless [`StreamChecks::allow_unnamed_tls`] |
//! | TLS ClientHello with an encrypted one inside (ECH, also as GREASE) | denied, unless [`StreamChecks::allow_encrypted_hello`]; see below |
//! | TLS ClientHello that is malformed, ambiguous, over 64 KiB, or in over 128 KiB of records | denied |
//! | HTTP/1 request whose Host (and host in the target) is allowed and pinned | allowed; every later request on the connection is judged alike, bodies are followed by their lengths |
//! | HTTP/1 request for another host, without a host, or that could be read in two ways | denied |
//! | HTTP CONNECT, Upgrade (WebSocket, h2c), HTTP/2 without TLS | denied: what follows could be for anybody. Use TLS, or a rule for the address |
//! | anything else (SSH, bytes that only begin like TLS, ...) where the rule names the port, and not 80 or 443 | allowed: the user named the service, and it has no names to check |
//! | anything else where the rule names no port, or 80 or 443 | denied |
//! | a hello or a request that is not complete after [`StreamChecks::patience`] | denied |
//! | nothing | waits; the server may speak first |
//!
//! The resolver leaves the keys for encrypted hellos out of its answers, so a client of good will has none. A hostile
//! one brings them along: those of a large provider are the same for all its sites, and so an allowed name outside with
//! another one inside reaches any of them. Browsers send an encrypted hello that is none with every connection (GREASE,
//! RFC 9849, 6.2), made so that nobody on the way can tell it from a real one; nobody but the server can, and the
//! gateway cannot take it out of a hello that the handshake's keys depend on. So it is one verdict for both. A browser
//! under name rules needs ECH switched off (Chromium: policy `EncryptedClientHelloEnabled`), a rule for the address, or
//! a user who accepts the risk and says so.
//!
//! UDP, and so QUIC of every version, is opened by no name rule. A denial is a reset, with the reason in the audit.

mod gate;
mod hello;
mod request;
#[cfg(test)]
pub(crate) mod sample;

pub use gate::StreamChecks;
pub(crate) use gate::{Budget, Gate, Terms};
pub use hello::{BadHello, ClientHello, HelloReader};
pub use request::{BadRequest, RequestReader};

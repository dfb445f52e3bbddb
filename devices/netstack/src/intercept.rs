//! The seam by which the launcher takes flows over, to look into them or to answer them itself.
//!
//! An [`Interceptor`] is asked on the gateway's thread about TCP flows that the policy has allowed; it cannot allow
//! what the policy denies. A flow that it takes ends in a stream socket whose other end it is given, with what is known
//! of the flow: the guest's bytes from the first on come out of it, what is written into it goes to the guest, and a
//! half-close means the same on both sides. The checks of module `inspect` stay in front of a flow that rests on names.
//! There is no TLS and no HTTP in this package beyond what those checks need.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use policy::Name;

use crate::inspect::ClientHello;

/// What is known of a flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlowFacts {
    /// The guest's end.
    pub guest: SocketAddr,
    /// The end that the guest wants to reach.
    pub remote: SocketAddr,
    /// Names that the gateway's resolver gave the address for and that are allowed there; the latest answer first.
    pub names: Vec<Name>,
    /// Whether the flow is allowed only for the sake of these names.
    pub rests_on_names: bool,
}

/// What becomes of a new flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnConnect {
    /// It goes on to the remote end.
    Pass,
    /// It goes on, but a TLS ClientHello is shown before it does.
    Watch,
    /// It is taken over; nobody is connected to.
    Take,
}

/// What becomes of a flow that was watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnHello {
    /// It goes on to the remote end.
    Pass,
    /// It is taken over, together with the connection to the remote end, over which nothing was sent yet.
    Take,
}

/// A flow that changed hands.
#[derive(Debug)]
pub struct Handover {
    /// What is known of it.
    pub facts: FlowFacts,
    /// The guest's end of the stream, its first byte first. Blocking, as std makes them.
    pub stream: UnixStream,
    /// The hello that the stream begins with, if the flow was watched.
    pub hello: Option<ClientHello>,
    /// The connection to the remote end, if there is one already. It does not block.
    pub upstream: Option<OwnedFd>,
}

/// Takes flows over. Every call is made on the gateway's thread and must not block.
pub trait Interceptor: Send + fmt::Debug {
    /// A flow was allowed and is about to be connected.
    fn on_connect(&mut self, flow: &FlowFacts) -> OnConnect;

    /// A flow that is watched begins with this hello.
    fn on_tls_client_hello(&mut self, flow: &FlowFacts, hello: &ClientHello) -> OnHello {
        let _ = (flow, hello);
        OnHello::Pass
    }

    /// A flow that it wanted is now its own.
    fn take(&mut self, handover: Handover);
}

/// A stream with an end for the gateway, which does not block, and one for whoever takes the flow.
pub(crate) fn handover_pair() -> io::Result<(OwnedFd, UnixStream)> {
    let (ours, theirs) = UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    Ok((ours.into(), theirs))
}

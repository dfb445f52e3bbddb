//! One flow, and how bytes move through it.
//!
//! Both sides push back by themselves: what the host's socket does not take stays in smoltcp's buffer and closes the
//! guest's window, what smoltcp does not take stays in the host's socket and closes the remote's.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown, sockopt};
use smoltcp::socket::tcp::{Socket, State};

use super::dns_stream::DnsStream;
use super::endpoint::Endpoint;
use super::segment::Segment;
use crate::audit::Outcome;
use crate::dialer::Greeting;
use crate::inspect::Gate;
use crate::intercept::FlowFacts;
use crate::poller::Ready;
use crate::timers::Armed;
use crate::uplink::Uplink;

/// Turns of one flow before others get theirs.
const MAX_TURNS: usize = 8;
/// How long a published port's connection waits for the guest to answer, and the guest for the host's proxy.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// Both ends of a connection as the guest names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Tuple {
    pub(super) guest: SocketAddr,
    pub(super) remote: SocketAddr,
}

/// Where the bytes go.
pub(super) enum Upstream {
    /// Out into the world, or to a client of a published port.
    Socket(OwnedFd),
    /// To the gateway's resolver.
    Resolver(DnsStream),
}

pub(super) enum Stage {
    /// The host's connection is being made; the guest's SYN waits.
    Connecting {
        syn: Box<[u8]>,
        segment: Segment,
        fallback: Option<SocketAddr>,
        /// What has to be said first.
        greeting: Option<Box<dyn Greeting>>,
    },
    /// Both sides have a socket.
    Open(Box<Endpoint>),
}

pub(super) struct Flow {
    pub(super) tuple: Tuple,
    pub(super) stage: Stage,
    pub(super) upstream: Upstream,
    pub(super) armed: Armed,
    /// Whether it is on the table's list of flows to pump.
    pub(super) dirty: bool,
    pub(super) started: Instant,
    pub(super) from_guest: u64,
    pub(super) to_guest: u64,
    /// Whether this flow comes from a published port.
    pub(super) ingress: bool,
    /// What holds the guest's bytes back until they have said whom they are for.
    pub(super) gate: Option<Box<Gate>>,
    /// What was known of a flow of the guest's when it was allowed.
    pub(super) facts: Option<Box<FlowFacts>>,
    readable: bool,
    writable: bool,
    /// The guest said that it sends no more.
    guest_done: bool,
    /// The other side was told so.
    told_upstream: bool,
    /// The other side sends no more.
    upstream_done: bool,
}

/// What a turn came to.
pub(super) enum Pumped {
    /// Nothing more to do until something happens.
    Idle,
    /// Another turn is due: it used up its share.
    Again,
    /// It is over.
    Over(Outcome),
}

impl Flow {
    pub(super) fn new(tuple: Tuple, stage: Stage, upstream: Upstream, now: Instant) -> Self {
        Self {
            tuple,
            stage,
            upstream,
            armed: Armed::default(),
            dirty: false,
            started: now,
            from_guest: 0,
            to_guest: 0,
            ingress: false,
            gate: None,
            facts: None,
            readable: true,
            writable: true,
            guest_done: false,
            told_upstream: false,
            upstream_done: false,
        }
    }

    /// Whether no byte has moved yet.
    pub(super) fn is_untouched(&self) -> bool {
        self.from_guest == 0 && self.to_guest == 0
    }

    /// Remembers what the host's socket is ready for. An error ends an open flow.
    pub(super) fn ready(&mut self, ready: Ready) -> Option<Outcome> {
        self.readable |= ready.readable;
        self.writable |= ready.writable;
        let Upstream::Socket(socket) = &self.upstream else { return None };
        if ready.error && matches!(sockopt::socket_error(socket), Ok(Err(_))) {
            return Some(Outcome::RemoteReset);
        }
        None
    }

    /// The host's side has another socket now, of which nothing is known.
    pub(super) fn restart(&mut self) {
        self.readable = true;
        self.writable = true;
    }

    /// Moves what can be moved. Whole messages for the resolver are added to `questions`.
    pub(super) fn pump(&mut self, now: Instant, uplink: &mut Uplink, questions: &mut Vec<Vec<u8>>) -> Pumped {
        if let Some(gate) = &mut self.gate
            && gate.expire(now).is_err()
        {
            return Pumped::Over(Outcome::Denied);
        }
        let greeted = !matches!(&self.stage, Stage::Connecting { greeting: Some(_), .. });
        if !greeted && now.saturating_duration_since(self.started) >= CONNECT_TIMEOUT {
            return Pumped::Over(Outcome::Unreachable);
        }
        for _ in 0..MAX_TURNS {
            let outward = self.pump_out(now, questions);
            let inward = self.pump_in();
            let Stage::Open(endpoint) = &mut self.stage else { return Pumped::Idle };
            endpoint.poll(now, None, uplink);
            match (outward, inward) {
                (Err(outcome), _) | (_, Err(outcome)) => return Pumped::Over(outcome),
                (Ok(false), Ok(false)) => return self.settle(now),
                _ => {}
            }
        }
        Pumped::Again
    }

    /// Guest to host. True when something moved.
    fn pump_out(&mut self, now: Instant, questions: &mut Vec<Vec<u8>>) -> Result<bool, Outcome> {
        let Stage::Open(endpoint) = &mut self.stage else { return Ok(false) };
        let socket = endpoint.socket();
        let mut moved = 0;
        match &mut self.upstream {
            Upstream::Socket(fd) if self.gate.is_some() => {
                let Some(gate) = &mut self.gate else { return Ok(false) };
                moved += pump_gate(gate, socket, fd, &mut self.writable, now)?;
            }
            Upstream::Socket(fd) => {
                while self.writable && socket.can_recv() {
                    let sent = socket.recv(|bytes| match send(&*fd, bytes, SendFlags::NOSIGNAL) {
                        Ok(count) => (count, Ok(count)),
                        Err(error) => (0, Err(error)),
                    });
                    match sent {
                        Ok(Ok(count)) => moved += count,
                        Ok(Err(Errno::INTR)) => {}
                        Ok(Err(Errno::AGAIN)) => self.writable = false,
                        Ok(Err(_)) => return Err(Outcome::RemoteReset),
                        Err(_) => break,
                    }
                }
            }
            Upstream::Resolver(stream) => {
                while socket.can_recv() && stream.room() > 0 {
                    let room = stream.room();
                    let taken = socket.recv(|bytes| {
                        let bytes = bytes.get(..room).unwrap_or(bytes);
                        (bytes.len(), (bytes.len(), stream.push(bytes)))
                    });
                    let Ok((count, question)) = taken else { break };
                    moved += count;
                    questions.extend(question);
                }
            }
        }
        self.from_guest += u64::try_from(moved).unwrap_or(0);

        self.guest_done |=
            matches!(socket.state(), State::CloseWait | State::LastAck | State::Closing | State::TimeWait);
        if self.guest_done && !self.told_upstream && socket.recv_queue() == 0 {
            if let Some(gate) = &mut self.gate {
                gate.finish().map_err(|_| Outcome::Denied)?;
                if gate.question().is_some() || !gate.released().is_empty() {
                    return Ok(moved > 0 || (self.writable && !gate.released().is_empty()));
                }
            }
            self.told_upstream = true;
            if let Upstream::Socket(fd) = &self.upstream
                && shutdown(fd, Shutdown::Write).is_err()
            {
                return Err(Outcome::RemoteReset);
            }
            return Ok(true);
        }
        Ok(moved > 0)
    }

    /// Host to guest. True when something moved.
    fn pump_in(&mut self) -> Result<bool, Outcome> {
        let Stage::Open(endpoint) = &mut self.stage else { return Ok(false) };
        let socket = endpoint.socket();
        let mut moved = 0;
        let mut ended = false;
        match &mut self.upstream {
            Upstream::Socket(fd) => {
                while self.readable && !self.upstream_done && socket.can_send() {
                    let received = socket.send(|space| match recv(&*fd, &mut *space, RecvFlags::empty()) {
                        Ok((_, count)) => (count, Ok(count)),
                        Err(error) => (0, Err(error)),
                    });
                    match received {
                        Ok(Ok(0)) => {
                            ended = true;
                            break;
                        }
                        Ok(Ok(count)) => moved += count,
                        Ok(Err(Errno::INTR)) => {}
                        Ok(Err(Errno::AGAIN)) => self.readable = false,
                        Ok(Err(_)) => return Err(Outcome::RemoteReset),
                        Err(_) => break,
                    }
                }
            }
            Upstream::Resolver(stream) => {
                if socket.can_send() && !stream.unsent().is_empty() {
                    let count = socket.send_slice(stream.unsent()).unwrap_or(0);
                    stream.sent(count);
                    moved += count;
                }
                ended = !self.upstream_done && self.told_upstream && stream.is_done();
            }
        }
        self.to_guest += u64::try_from(moved).unwrap_or(0);
        if ended {
            self.upstream_done = true;
            socket.close();
        }
        Ok(moved > 0 || ended)
    }

    /// Nothing moves: is it over?
    fn settle(&mut self, now: Instant) -> Pumped {
        let Stage::Open(endpoint) = &mut self.stage else { return Pumped::Idle };
        let socket = endpoint.socket();
        let drained = socket.recv_queue() == 0;
        match socket.state() {
            // TIME-WAIT protects against segments that were delayed on the way; the link delays none.
            State::TimeWait if drained => Pumped::Over(Outcome::Finished),
            State::Closed if self.guest_done && self.upstream_done => {
                if drained {
                    Pumped::Over(Outcome::Finished)
                } else {
                    Pumped::Idle
                }
            }
            // A reset in SYN-RECEIVED takes smoltcp back to LISTEN.
            State::Closed | State::Listen => Pumped::Over(Outcome::GuestReset),
            State::SynSent if now.saturating_duration_since(self.started) > CONNECT_TIMEOUT => {
                Pumped::Over(Outcome::Unreachable)
            }
            _ => Pumped::Idle,
        }
    }

    /// Ends both sides at once, each with a reset unless it is done already. The guest's side may serve again.
    pub(super) fn end(self, now: Instant, outcome: Outcome, uplink: &mut Uplink) -> Option<Box<Endpoint>> {
        if outcome != Outcome::Finished
            && let Upstream::Socket(fd) = &self.upstream
            && let Err(error) = sockopt::set_socket_linger(fd, Some(Duration::ZERO))
        {
            tracing::debug!(%error, "Connection could not be made to end with a reset");
        }
        match self.stage {
            Stage::Connecting { segment, .. } => {
                // Of an unreachable remote the guest has heard by other means.
                if !matches!(outcome, Outcome::GuestReset | Outcome::Unreachable) {
                    segment.refuse(uplink);
                }
                None
            }
            Stage::Open(mut endpoint) => {
                endpoint.socket().abort();
                // Whoever has heard both ends needs no reset.
                if outcome != Outcome::Finished {
                    endpoint.poll(now, None, uplink);
                }
                Some(endpoint)
            }
        }
    }
}

/// Guest to host by way of the gate. How many bytes moved.
fn pump_gate(
    gate: &mut Gate,
    socket: &mut Socket<'_>,
    fd: &OwnedFd,
    writable: &mut bool,
    now: Instant,
) -> Result<usize, Outcome> {
    let mut moved = 0;
    loop {
        while *writable && !gate.released().is_empty() {
            match send(fd, gate.released(), SendFlags::NOSIGNAL) {
                Ok(count) => {
                    gate.sent(count);
                    moved += count;
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => *writable = false,
                Err(_) => return Err(Outcome::RemoteReset),
            }
        }
        let room = gate.room();
        if room == 0 || !socket.can_recv() {
            return Ok(moved);
        }
        let pushed = socket.recv(|bytes| {
            let bytes = bytes.get(..room).unwrap_or(bytes);
            (bytes.len(), gate.push(bytes, now))
        });
        match pushed {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err(Outcome::Denied),
            Err(_) => return Ok(moved),
        }
    }
}

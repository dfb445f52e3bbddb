//! One question and the server that is being asked.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send, sockopt};
use rustix::rand::{GetRandomFlags, getrandom};

use super::message::Query;
use crate::context::Context;
use crate::poller::Owner;
use crate::slab::Key;
use crate::timers::Armed;

/// How long one server gets.
const PATIENCE: Duration = Duration::from_millis(1500);
/// Datagrams that are no answer before the next try, with another port and another identifier (RFC 5452, 9).
const MAX_WRONG: u8 = 16;

/// Who asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A datagram, to the server the guest thinks it asks.
    Udp { guest: SocketAddr, server: SocketAddr },
    /// A connection.
    Tcp(Key),
}

/// How a server is being asked.
enum Transport {
    Udp(OwnedFd),
    Tcp { fd: OwnedFd, unsent: Vec<u8>, received: Vec<u8> },
}

/// A question of the guest that servers are asked in turn.
pub(super) struct Exchange {
    /// The audit's.
    pub(super) number: u64,
    pub(super) origin: Origin,
    pub(super) query: Query,
    pub(super) id: u16,
    pub(super) tries: usize,
    transport: Option<Transport>,
    /// Datagrams from this server that were no answer.
    wrong: u8,
    pub(super) deadline: Instant,
    pub(super) armed: Armed,
}

/// What a server has come up with.
pub(super) enum Heard {
    /// Nothing yet.
    Nothing,
    /// A message.
    Message(Vec<u8>),
    /// It will not answer.
    Failure,
}

impl Exchange {
    /// A question that nobody was asked yet.
    pub(super) fn new(number: u64, origin: Origin, query: Query, now: Instant) -> Self {
        Self {
            number,
            origin,
            query,
            id: 0,
            tries: 0,
            transport: None,
            wrong: 0,
            deadline: now,
            armed: Armed::default(),
        }
    }

    /// Sends the question to `server`, the way it came: over TCP when the guest wants an answer of any length.
    pub(super) fn start(&mut self, context: &mut Context, server: SocketAddr, key: Key) -> Result<(), Errno> {
        let failed = |error: std::io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
        let mut id = [0; 2];
        getrandom(&mut id, GetRandomFlags::empty())?;
        self.id = u16::from_ne_bytes(id);
        let message = self.query.to_upstream(self.id);
        let transport = match self.origin {
            Origin::Udp { .. } => {
                let fd = context.dialer.udp(server).map_err(failed)?;
                send(&fd, &message, SendFlags::NOSIGNAL)?;
                context.poller.add(&fd, Owner::Dns(key)).map_err(failed)?;
                Transport::Udp(fd)
            }
            Origin::Tcp(_) => {
                let fd = context.dialer.tcp(server).map_err(failed)?;
                context.poller.add(&fd, Owner::Dns(key)).map_err(failed)?;
                let len = u16::try_from(message.len()).map_err(|_| Errno::MSGSIZE)?;
                let unsent = len.to_be_bytes().into_iter().chain(message).collect();
                Transport::Tcp { fd, unsent, received: Vec::new() }
            }
        };
        self.transport = Some(transport);
        self.wrong = 0;
        self.deadline = context.now + PATIENCE;
        context.timers.arm(&mut self.armed, Owner::Dns(key).into(), self.deadline);
        Ok(())
    }

    /// Gives the server up that was asked.
    pub(super) fn hang_up(&mut self) {
        self.transport = None;
    }

    /// What the server has come up with since the last call.
    pub(super) fn hear(&mut self, buffer: &mut [u8]) -> Heard {
        match &mut self.transport {
            None => Heard::Nothing,
            Some(Transport::Udp(fd)) => hear_udp(fd, buffer),
            Some(Transport::Tcp { fd, unsent, received }) => hear_tcp(fd, unsent, received, buffer),
        }
    }

    /// Something came that is no answer. Whether that is the end of it: over a connection nobody but the server can
    /// speak, and among datagrams somebody may be guessing.
    pub(super) fn has_heard_enough(&mut self) -> bool {
        self.wrong = self.wrong.saturating_add(1);
        matches!(self.transport, Some(Transport::Tcp { .. })) || self.wrong > MAX_WRONG
    }
}

fn hear_udp(fd: &OwnedFd, buffer: &mut [u8]) -> Heard {
    match recv(fd, &mut *buffer, RecvFlags::empty()) {
        Ok((_, count)) => Heard::Message(buffer.get(..count).unwrap_or_default().to_vec()),
        Err(Errno::AGAIN) => Heard::Nothing,
        Err(_) => Heard::Failure,
    }
}

fn hear_tcp(fd: &OwnedFd, unsent: &mut Vec<u8>, received: &mut Vec<u8>, buffer: &mut [u8]) -> Heard {
    if matches!(sockopt::socket_error(fd), Ok(Err(_)) | Err(_)) {
        return Heard::Failure;
    }
    while !unsent.is_empty() {
        match send(fd, unsent, SendFlags::NOSIGNAL) {
            Ok(count) => drop(unsent.drain(..count)),
            Err(Errno::AGAIN | Errno::NOTCONN) => return Heard::Nothing,
            Err(_) => return Heard::Failure,
        }
    }
    loop {
        if let Some(&len) = received.first_chunk::<2>()
            && let Some(message) = received.get(2..2 + usize::from(u16::from_be_bytes(len)))
        {
            return Heard::Message(message.to_vec());
        }
        match recv(fd, &mut *buffer, RecvFlags::empty()) {
            Ok((_, 0)) => return Heard::Failure,
            Ok((_, count)) => received.extend_from_slice(buffer.get(..count).unwrap_or_default()),
            Err(Errno::AGAIN) => return Heard::Nothing,
            Err(_) => return Heard::Failure,
        }
    }
}

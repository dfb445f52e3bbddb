//! Readiness of descriptors, edge by edge.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::time::Timespec;

use crate::slab::Key;

/// Descriptors looked at per wake.
const BATCH: usize = 256;
const NOT_AT_ALL: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

/// What a ready descriptor or a due timer belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Token(u64);

/// The parts of the gateway that own descriptors or timers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    Control,
    HostAddresses,
    Alarm,
    Router,
    /// The look after all TCP flows that nothing happens to.
    TcpRound,
    Tcp(Key),
    Udp(Key),
    Dns(Key),
    Listener(Key),
    UdpPort(Key),
    Echo(Key),
}

const CONTROL: u64 = 1;
const HOST_ADDRESSES: u64 = 2;
const TCP: u64 = 3;
const UDP: u64 = 4;
const DNS: u64 = 5;
const LISTENER: u64 = 6;
const UDP_PORT: u64 = 7;
const ECHO: u64 = 8;
const ROUTER: u64 = 9;
const ALARM: u64 = 10;
const TCP_ROUND: u64 = 11;
const KIND_SHIFT: u32 = 56;

impl From<Owner> for Token {
    fn from(owner: Owner) -> Self {
        let (kind, bits) = match owner {
            Owner::Control => (CONTROL, 0),
            Owner::HostAddresses => (HOST_ADDRESSES, 0),
            Owner::Alarm => (ALARM, 0),
            Owner::Router => (ROUTER, 0),
            Owner::TcpRound => (TCP_ROUND, 0),
            Owner::Tcp(key) => (TCP, key.to_bits()),
            Owner::Udp(key) => (UDP, key.to_bits()),
            Owner::Dns(key) => (DNS, key.to_bits()),
            Owner::Listener(key) => (LISTENER, key.to_bits()),
            Owner::UdpPort(key) => (UDP_PORT, key.to_bits()),
            Owner::Echo(key) => (ECHO, key.to_bits()),
        };
        Self(kind << KIND_SHIFT | bits)
    }
}

impl Token {
    pub(crate) fn owner(self) -> Owner {
        let key = Key::from_bits(self.0);
        match self.0 >> KIND_SHIFT {
            CONTROL => Owner::Control,
            HOST_ADDRESSES => Owner::HostAddresses,
            ALARM => Owner::Alarm,
            ROUTER => Owner::Router,
            TCP_ROUND => Owner::TcpRound,
            TCP => Owner::Tcp(key),
            UDP => Owner::Udp(key),
            DNS => Owner::Dns(key),
            UDP_PORT => Owner::UdpPort(key),
            ECHO => Owner::Echo(key),
            _ => Owner::Listener(key),
        }
    }
}

/// What a descriptor is ready for. Edges: each is told once, its owner remembers it until the descriptor says it would
/// block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ready {
    pub(crate) readable: bool,
    pub(crate) writable: bool,
    /// The other side sends no more than what is there already.
    pub(crate) ended: bool,
    pub(crate) error: bool,
}

#[derive(Debug)]
pub(crate) struct Poller {
    epoll: OwnedFd,
    /// Edges that nobody has looked at yet.
    ready: Vec<(Token, Ready)>,
}

impl Poller {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { epoll: epoll::create(CreateFlags::CLOEXEC)?, ready: Vec::with_capacity(BATCH) })
    }

    /// Watches `fd` for every edge until it is closed.
    pub(crate) fn add(&self, fd: impl AsFd, owner: Owner) -> io::Result<()> {
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        epoll::add(&self.epoll, fd, EventData::new_u64(Token::from(owner).0), flags)?;
        Ok(())
    }

    /// Watches `fd` no more, which somebody else has from now on.
    pub(crate) fn remove(&self, fd: impl AsFd) -> io::Result<()> {
        Ok(epoll::delete(&self.epoll, fd)?)
    }

    /// Takes the edges there are.
    pub(crate) fn look(&mut self) -> io::Result<()> {
        let mut space = [const { MaybeUninit::uninit() }; BATCH];
        let events = match epoll::wait(&self.epoll, &mut space, Some(&NOT_AT_ALL)) {
            Ok((events, _)) => events,
            Err(rustix::io::Errno::INTR) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        self.ready.extend(events.iter().map(|event| (Token(event.data.u64()), Ready::from(event.flags))));
        Ok(())
    }

    /// Takes one edge that `wait` brought.
    pub(crate) fn next(&mut self) -> Option<(Token, Ready)> {
        self.ready.pop()
    }
}

impl AsFd for Poller {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

impl From<EventFlags> for Ready {
    fn from(flags: EventFlags) -> Self {
        Self {
            readable: flags.intersects(EventFlags::IN | EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR),
            writable: flags.intersects(EventFlags::OUT | EventFlags::HUP | EventFlags::ERR),
            ended: flags.intersects(EventFlags::RDHUP | EventFlags::HUP),
            error: flags.contains(EventFlags::ERR),
        }
    }
}

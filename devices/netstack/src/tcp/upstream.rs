//! The host's half of a flow: a socket in which what is for the guest stays until the guest has it, or the resolver.

use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvFlags, SendFlags, Shutdown, recv, recvmsg, send, shutdown, sockopt,
};
use virtio::Writer;

use super::dns_stream::DnsStream;
use crate::poller::Ready;

/// Bytes that the guest has and that may stay in the socket, so that short answers are passed over by the dozen: each
/// costs a system call. And how many times bytes may.
const MAX_STALE: usize = 8 << 10;
const MAX_STALE_PIECES: u8 = 16;

/// Where the bytes go.
#[derive(Debug)]
pub(super) enum Upstream {
    /// Out into the world, to a client of a published port, or to the launcher.
    Socket(HostSocket),
    /// To the gateway's resolver.
    Resolver(DnsStream),
}

/// The other side broke the connection off, or it broke.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Broken;

/// What there is for the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Peeked {
    /// Nothing for now.
    Nothing,
    /// So many bytes.
    Bytes {
        count: usize,
        /// Nothing more for now.
        drained: bool,
        /// Nothing more, ever.
        ends: bool,
    },
    /// The end.
    End,
}

/// What a stream socket is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Tcp,
    /// One of a pair within the host.
    Pair,
    /// To be asked once it stands.
    Unknown,
}

/// A connected stream socket that does not block.
#[derive(Debug)]
pub(super) struct HostSocket {
    fd: OwnedFd,
    readable: bool,
    writable: bool,
    /// Nothing more will come than is there.
    ended: bool,
    /// Where the next peek begins, if the kernel keeps that in mind.
    position: Option<usize>,
    /// Of TCP a peek brings everything there is, up to the room there is.
    kind: Kind,
    /// Whether the host asks a silent peer if it is still there.
    keeps_alive: bool,
    /// Bytes at the front that the guest has.
    stale: usize,
    stale_pieces: u8,
}

impl HostSocket {
    pub(super) fn new(fd: OwnedFd, kind: Kind) -> Self {
        Self {
            fd,
            kind,
            keeps_alive: false,
            // Whoever watches it is told what it is ready for from the start.
            readable: false,
            writable: true,
            ended: false,
            position: None,
            stale: 0,
            stale_pieces: 0,
        }
    }

    pub(super) fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// Gives the socket up.
    pub(super) fn into_fd(mut self) -> OwnedFd {
        self.keep_alive();
        self.fd
    }

    /// Lets the host find out if the peer is gone: the guest's own probes end at the gateway. Most connections are over
    /// before they need it.
    pub(super) fn keep_alive(&mut self) {
        if !std::mem::replace(&mut self.keeps_alive, true)
            && self.kind == Kind::Tcp
            && let Err(error) = sockopt::set_socket_keepalive(&self.fd, true)
        {
            tracing::debug!(%error, "Peer of a connection cannot be asked whether it is still there");
        }
    }

    /// The connection stands; from now on it is looked into.
    fn open(&mut self) {
        self.position = virtio::set_peek_offset(&self.fd, 0).is_ok().then_some(0);
        if self.kind == Kind::Unknown {
            let domain = sockopt::socket_domain(&self.fd);
            let is_tcp = domain.is_ok_and(|domain| [AddressFamily::INET, AddressFamily::INET6].contains(&domain));
            self.kind = if is_tcp { Kind::Tcp } else { Kind::Pair };
        }
    }

    /// Remembers what it is ready for.
    pub(super) fn ready(&mut self, ready: Ready) {
        self.readable |= ready.readable;
        self.writable |= ready.writable;
        self.ended |= ready.ended;
    }

    /// Asks for the error that it told of.
    pub(super) fn check(&self) -> Result<(), Broken> {
        if matches!(sockopt::socket_error(&self.fd), Ok(Err(_))) { Err(Broken) } else { Ok(()) }
    }

    /// Sends what the socket takes.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<usize, Broken> {
        let mut sent = 0;
        while self.writable && sent < bytes.len() {
            match send(&self.fd, bytes.get(sent..).unwrap_or_default(), SendFlags::NOSIGNAL) {
                Ok(count) => sent += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => self.writable = false,
                Err(_) => return Err(Broken),
            }
        }
        Ok(sent)
    }

    /// Looks at what there is behind the first `offset` bytes that the guest has not acknowledged.
    fn peek(&mut self, offset: usize, space: &mut [u8], scratch: &mut [u8]) -> Result<Peeked, Broken> {
        let (start, room) = (self.stale + offset, space.len());
        let result = match self.position {
            Some(_) => self
                .seek(start)
                .and_then(|()| retry(|| recv(&self.fd, &mut *space, RecvFlags::PEEK).map(|(count, _)| count))),
            None => {
                let skipped = scratch.get_mut(..start).ok_or(Broken)?;
                retry(|| self.peek_behind(&mut *skipped, &mut *space))
            }
        };
        self.seen(result, room)
    }

    /// Likewise, and shows it to the guest at once. Only for sockets that know where a look begins.
    fn peek_into(&mut self, offset: usize, space: &mut Writer<'_>) -> Result<Peeked, Broken> {
        let room = space.available_bytes();
        let result = self.seek(self.stale + offset).and_then(|()| {
            let errno = |error: io::Error| error.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error);
            space.peek_from(self.fd.as_fd(), room).map_err(errno)
        });
        self.seen(result, room)
    }

    /// What came of a look at as much as fits into `room`.
    fn seen(&mut self, result: Result<usize, Errno>, room: usize) -> Result<Peeked, Broken> {
        match result {
            Ok(0) => Ok(Peeked::End),
            Ok(count) => {
                self.position = self.position.map(|at| at + count);
                let drained = self.kind == Kind::Tcp && count < room;
                // An end that was told before the look has nothing behind what was seen.
                self.readable = !drained || self.ended;
                Ok(Peeked::Bytes { count, drained, ends: drained && self.ended })
            }
            Err(Errno::AGAIN) => {
                self.readable = false;
                Ok(Peeked::Nothing)
            }
            Err(_) => Err(Broken),
        }
    }

    /// Lets the next look begin behind `start` bytes.
    fn seek(&mut self, start: usize) -> Result<(), Errno> {
        if self.position != Some(start) {
            let offset = i32::try_from(start).map_err(|_| Errno::OVERFLOW)?;
            virtio::set_peek_offset(&self.fd, offset).map_err(|_| Errno::NOPROTOOPT)?;
            self.position = Some(start);
        }
        Ok(())
    }

    /// Peeks from the beginning and leaves what fits into `skipped` aside.
    fn peek_behind(&self, skipped: &mut [u8], space: &mut [u8]) -> Result<usize, Errno> {
        let start = skipped.len();
        if start == 0 {
            return recv(&self.fd, space, RecvFlags::PEEK).map(|(count, _)| count);
        }
        let mut parts = [IoSliceMut::new(skipped), IoSliceMut::new(space)];
        let message = recvmsg(&self.fd, &mut parts, &mut RecvAncillaryBuffer::default(), RecvFlags::PEEK)?;
        match message.bytes.saturating_sub(start) {
            0 if !self.ended => Err(Errno::AGAIN),
            count => Ok(count),
        }
    }

    /// The guest has the first `count` bytes.
    fn discard(&mut self, count: usize, scratch: &mut [u8]) -> Result<(), Broken> {
        if count == 0 {
            return Ok(());
        }
        self.stale += count;
        self.stale_pieces = self.stale_pieces.saturating_add(1);
        let is_little = self.stale < MAX_STALE && self.stale_pieces < MAX_STALE_PIECES;
        if is_little && self.position.is_some() { Ok(()) } else { self.settle(scratch) }
    }

    /// Passes over everything that the guest has. A socket that is closed with something in it resets the connection.
    pub(super) fn settle(&mut self, scratch: &mut [u8]) -> Result<(), Broken> {
        while self.stale > 0 {
            let most = self.stale.min(scratch.len());
            // TCP passes over what is to be truncated (tcp(7), MSG_TRUNC), others copy it.
            match recv(&self.fd, scratch.get_mut(..most).unwrap_or_default(), RecvFlags::TRUNC) {
                Ok((_, 0)) => return Err(Broken),
                Ok((_, count)) => {
                    let count = count.min(most);
                    self.stale -= count;
                    self.position = self.position.map(|at| at.saturating_sub(count));
                }
                Err(Errno::INTR) => {}
                Err(_) => return Err(Broken),
            }
        }
        self.stale_pieces = 0;
        Ok(())
    }

    /// Lets closing it reset the connection.
    pub(super) fn break_off(&self) {
        if let Err(error) = sockopt::set_socket_linger(&self.fd, Some(Duration::ZERO)) {
            tracing::debug!(%error, "Connection could not be made to end with a reset");
        }
    }
}

impl Upstream {
    pub(super) fn socket(fd: OwnedFd, kind: Kind) -> Self {
        Self::Socket(HostSocket::new(fd, kind))
    }

    /// The connection stands; from now on it is looked into.
    pub(super) fn open(&mut self) {
        if let Self::Socket(socket) = self {
            socket.open();
        }
    }

    /// Whether there may be something for the guest behind the first `offset` bytes. `told` says that the guest's end
    /// of stream was passed on.
    pub(super) fn has_more(&self, offset: usize, told: bool) -> bool {
        match self {
            Self::Socket(socket) => socket.readable,
            Self::Resolver(stream) => stream.unsent().len() > offset || (told && stream.is_idle()),
        }
    }

    /// How far behind the oldest byte that the guest has not acknowledged `peek` can look.
    pub(super) fn reach(&self, scratch: &[u8]) -> usize {
        match self {
            Self::Socket(HostSocket { position: None, .. }) => scratch.len(),
            _ => usize::MAX,
        }
    }

    /// Shows what there is behind the first `offset` bytes that the guest has not acknowledged.
    pub(super) fn peek(
        &mut self,
        offset: usize,
        space: &mut [u8],
        told: bool,
        scratch: &mut [u8],
    ) -> Result<Peeked, Broken> {
        match self {
            Self::Socket(socket) => socket.peek(offset, space, scratch),
            Self::Resolver(stream) => {
                let rest = stream.unsent().get(offset..).unwrap_or_default();
                if rest.is_empty() {
                    return Ok(if told && stream.is_idle() { Peeked::End } else { Peeked::Nothing });
                }
                let count = rest.len().min(space.len());
                if let (Some(space), Some(rest)) = (space.get_mut(..count), rest.get(..count)) {
                    space.copy_from_slice(rest);
                }
                Ok(Peeked::Bytes { count, drained: count == rest.len(), ends: false })
            }
        }
    }

    /// Whether bytes can go into the guest's memory without a stop.
    pub(super) fn is_direct(&self) -> bool {
        matches!(self, Self::Socket(HostSocket { position: Some(_), .. }))
    }

    /// Likewise, shown to the guest at once, if `is_direct`.
    pub(super) fn peek_into(&mut self, offset: usize, space: &mut Writer<'_>) -> Result<Peeked, Broken> {
        match self {
            Self::Socket(socket) => socket.peek_into(offset, space),
            Self::Resolver(_) => Ok(Peeked::Nothing),
        }
    }

    /// The guest has the first `count` bytes.
    pub(super) fn discard(&mut self, count: usize, scratch: &mut [u8]) -> Result<(), Broken> {
        match self {
            Self::Socket(socket) => socket.discard(count, scratch),
            Self::Resolver(stream) => {
                stream.sent(count);
                Ok(())
            }
        }
    }

    /// The guest sends no more.
    pub(super) fn finish(&mut self) -> Result<(), Broken> {
        match self {
            Self::Socket(socket) => shutdown(&socket.fd, Shutdown::Write).map_err(|_| Broken),
            Self::Resolver(_) => Ok(()),
        }
    }
}

fn retry(mut call: impl FnMut() -> Result<usize, Errno>) -> Result<usize, Errno> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::UnixStream;

    use super::*;

    fn socket(near: impl Into<OwnedFd>, by_position: bool) -> HostSocket {
        let near = near.into();
        rustix::io::ioctl_fionbio(&near, true).unwrap();
        let mut socket = HostSocket::new(near, Kind::Unknown);
        socket.open();
        if !by_position {
            // As with a kernel that has no such thing.
            virtio::set_peek_offset(&socket.fd, -1).unwrap();
            socket.position = None;
        }
        socket.readable = true;
        socket
    }

    /// Pairs of either kind, the near end's way to peek of either kind.
    fn pairs() -> Vec<(HostSocket, Box<dyn Far>)> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut all: Vec<(HostSocket, Box<dyn Far>)> = Vec::new();
        for by_position in [true, false] {
            let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            all.push((socket(near, by_position), Box::new(listener.accept().unwrap().0)));
            let (near, far) = UnixStream::pair().unwrap();
            all.push((socket(near, by_position), Box::new(far)));
        }
        all
    }

    trait Far: Read + Write {}
    impl<T: Read + Write> Far for T {}

    /// Peeks until there is something, as after an edge.
    fn peek(socket: &mut HostSocket, offset: usize, room: usize) -> Vec<u8> {
        let mut space = vec![0; room];
        let mut scratch = vec![0; 1 << 16];
        loop {
            match socket.peek(offset, &mut space, &mut scratch).unwrap() {
                Peeked::Bytes { count, .. } => return space[..count].to_vec(),
                Peeked::Nothing => std::thread::yield_now(),
                Peeked::End => return Vec::new(),
            }
        }
    }

    #[test]
    fn bytes_stay_until_the_guest_has_them_and_can_be_seen_again() {
        for (mut socket, mut far) in pairs() {
            let mut scratch = vec![0; 1 << 16];
            far.write_all(b"abcdefgh").unwrap();
            assert_eq!(peek(&mut socket, 0, 3), b"abc");
            assert_eq!(peek(&mut socket, 3, 3), b"def");
            // Not acknowledged in time.
            assert_eq!(peek(&mut socket, 0, 2), b"ab");
            socket.discard(2, &mut scratch).unwrap();
            assert_eq!(peek(&mut socket, 0, 100), b"cdefgh");
            socket.settle(&mut scratch).unwrap();
            assert_eq!(peek(&mut socket, 1, 100), b"defgh");
            far.write_all(b"ij").unwrap();
            assert_eq!(peek(&mut socket, 6, 100), b"ij");
            socket.discard(8, &mut scratch).unwrap();
            assert_eq!(socket.peek(0, &mut [0; 9], &mut scratch), Ok(Peeked::Nothing));
            assert!(!socket.readable);
        }
    }

    #[test]
    fn the_end_is_seen_behind_bytes_that_are_still_there() {
        for (mut socket, mut far) in pairs() {
            let mut scratch = vec![0; 1 << 16];
            far.write_all(b"abc").unwrap();
            drop(far);
            socket.ready(Ready { readable: true, writable: true, ended: true, error: false });
            assert_eq!(peek(&mut socket, 0, 2), b"ab");
            assert_eq!(peek(&mut socket, 2, 9), b"c");
            assert_eq!(peek(&mut socket, 3, 9), b"");
            assert_eq!(peek(&mut socket, 0, 9), b"abc");
            socket.discard(3, &mut scratch).unwrap();
            assert_eq!(peek(&mut socket, 0, 9), b"");
            socket.settle(&mut scratch).unwrap();
            assert_eq!(socket.peek(0, &mut [0; 9], &mut scratch), Ok(Peeked::End));
        }
    }

    #[test]
    fn a_connection_whose_bytes_were_all_passed_over_closes_in_peace() {
        for (mut socket, mut far) in pairs() {
            let mut scratch = vec![0; 100];
            far.write_all(&[7; 3000]).unwrap();
            assert_eq!(peek(&mut socket, 0, 3000).len(), 3000);
            socket.discard(3000, &mut scratch).unwrap();
            socket.settle(&mut scratch).unwrap();
            drop(socket);
            assert_eq!(far.read(&mut [0; 1]).unwrap(), 0);
        }
    }

    #[test]
    fn the_host_asks_after_the_peer_of_a_connection_that_lasts() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut socket = HostSocket::new(near.into(), Kind::Tcp);
        assert_eq!(sockopt::socket_keepalive(&socket.fd), Ok(false));
        socket.keep_alive();
        assert_eq!(sockopt::socket_keepalive(&socket.fd), Ok(true));
    }

    #[test]
    fn what_a_full_socket_does_not_take_is_told() {
        for (mut socket, _far) in pairs() {
            let chunk = vec![7; 1 << 20];
            let mut total = 0;
            while socket.writable {
                total += socket.write(&chunk).unwrap();
            }
            assert!(total > 0 && total < 100 << 20);
            assert_eq!(socket.write(&chunk), Ok(0));
        }
    }
}

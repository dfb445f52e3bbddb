//! The pair of ends and what one tells the other.
//!
//! A `SOCK_SEQPACKET` socket pair: one frame per packet, both ends non-blocking, either end sees the other close.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendFlags, SocketFlags,
    SocketType, recvmsg, sendmsg, socketpair, sockopt,
};

use super::{FrameHeader, HEADER_LEN, LentStack, MAX_FRAME, StackSeat};

/// Kernel memory asked for in each direction; the kernel lowers it to `net.core.wmem_max`.
const SEND_BUFFER: usize = 1 << 20;

/// What the guest's driver takes unfinished. All false until a driver says otherwise, and always behind QEMU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Offloads {
    /// Frames with a partial checksum.
    pub checksum: bool,
    /// TCP over IPv4 segments of up to 64 KiB.
    pub tcp4_segments: bool,
    /// TCP over IPv6 segments of up to 64 KiB.
    pub tcp6_segments: bool,
}

const PLAIN: u8 = 1;
const CHECKSUM: u8 = 2;
const TCP4: u8 = 4;
const TCP6: u8 = 8;

/// A connected pair of ends.
#[derive(Debug)]
pub struct FrameLink {
    /// For the guest's network card.
    pub device: DeviceEnd,
    /// For the network stack.
    pub stack: StackEnd,
}

/// The end of the guest's network card.
#[derive(Debug)]
pub struct DeviceEnd(End);

/// The end of the network stack.
#[derive(Debug)]
pub struct StackEnd(End);

#[derive(Debug)]
struct End {
    socket: OwnedFd,
    /// `PLAIN`, `CHECKSUM`, `TCP4`, `TCP6`: written by the device end, read by the stack's.
    state: Arc<AtomicU8>,
    seat: StackSeat,
}

impl FrameLink {
    /// Makes a pair. Frames carry a [`FrameHeader`] unless the device end becomes a datagram descriptor.
    pub fn new() -> io::Result<Self> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let (device, stack) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        for socket in [&device, &stack] {
            sockopt::set_socket_send_buffer_size(socket, SEND_BUFFER)?;
        }
        let (state, seat) = (Arc::new(AtomicU8::new(0)), StackSeat::new()?);
        Ok(Self {
            device: DeviceEnd(End { socket: device, state: Arc::clone(&state), seat: seat.clone() }),
            stack: StackEnd(End { socket: stack, state, seat }),
        })
    }
}

impl DeviceEnd {
    /// Sends one frame to the stack. `WouldBlock`: keep the frame and wait until the descriptor is writable.
    pub fn send(&self, header: &FrameHeader, frame: &[u8]) -> io::Result<()> {
        self.0.send(header, frame)
    }

    /// Receives one frame into `buffer`, which holds [`MAX_FRAME`]; gives its header and length. `WouldBlock`: none is
    /// there. `UnexpectedEof`: the stack is gone. `InvalidData`: a frame was unusable and is lost.
    pub fn recv(&self, buffer: &mut [u8]) -> io::Result<(FrameHeader, usize)> {
        self.0.recv(buffer)
    }

    /// Tells the stack what the driver takes unfinished. The device still checks each frame: some may be on their way.
    pub fn set_offloads(&self, offloads: Offloads) {
        let mut state = 0;
        for (on, bit) in [(offloads.checksum, CHECKSUM), (offloads.tcp4_segments, TCP4), (offloads.tcp6_segments, TCP6)]
        {
            state |= if on { bit } else { 0 };
        }
        self.0.state.store(state, Ordering::Release);
    }

    /// Borrows the stack to run it on this thread, if it is one that is lent.
    pub fn borrow_stack(&self) -> Option<LentStack> {
        self.0.seat.borrow()
    }

    /// The descriptor for `-netdev dgram,local.type=fd,local.str=N` of QEMU: one plain Ethernet frame per datagram,
    /// without a header, every checksum finished. It is close-on-exec and non-blocking.
    pub fn into_datagram_fd(self) -> OwnedFd {
        self.0.state.store(PLAIN, Ordering::Release);
        self.0.socket
    }
}

impl StackEnd {
    /// Sends one frame to the guest. `WouldBlock`: keep the frame and wait until the descriptor is writable.
    /// `header` must ask for nothing that [`StackEnd::offloads`] does not allow.
    pub fn send(&self, header: &FrameHeader, frame: &[u8]) -> io::Result<()> {
        self.0.send(header, frame)
    }

    /// Receives one frame into `buffer`; see [`DeviceEnd::recv`].
    pub fn recv(&self, buffer: &mut [u8]) -> io::Result<(FrameHeader, usize)> {
        self.0.recv(buffer)
    }

    /// What frames to the guest may leave unfinished right now.
    pub fn offloads(&self) -> Offloads {
        let state = self.0.state.load(Ordering::Acquire);
        Offloads { checksum: state & CHECKSUM != 0, tcp4_segments: state & TCP4 != 0, tcp6_segments: state & TCP6 != 0 }
    }

    /// Where this end's stack is lent from.
    pub fn seat(&self) -> StackSeat {
        self.0.seat.clone()
    }

    /// Whether the device end is QEMU's: frames come without headers, so nothing vouches for their checksums.
    pub fn is_plain(&self) -> bool {
        self.0.is_plain()
    }
}

impl End {
    fn is_plain(&self) -> bool {
        self.state.load(Ordering::Acquire) & PLAIN != 0
    }

    fn send(&self, header: &FrameHeader, frame: &[u8]) -> io::Result<()> {
        if frame.is_empty() || frame.len() > MAX_FRAME {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("Frame of {} bytes", frame.len())));
        }
        let header = header.to_bytes(1);
        let parts = [IoSlice::new(&header), IoSlice::new(frame)];
        let parts = if self.is_plain() { &parts[1..] } else { &parts[..] };
        sendmsg(&self.socket, parts, &mut SendAncillaryBuffer::default(), SendFlags::NOSIGNAL)?;
        Ok(())
    }

    fn recv(&self, buffer: &mut [u8]) -> io::Result<(FrameHeader, usize)> {
        let plain = self.is_plain();
        let mut header = [0; HEADER_LEN];
        let mut parts = [IoSliceMut::new(&mut header), IoSliceMut::new(buffer)];
        let parts = if plain { &mut parts[1..] } else { &mut parts[..] };
        let received = recvmsg(&self.socket, parts, &mut RecvAncillaryBuffer::default(), RecvFlags::empty())?;
        if received.bytes == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if received.flags.contains(ReturnFlags::TRUNC) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "Frame is longer than its buffer"));
        }
        if plain {
            return Ok((FrameHeader::default(), received.bytes));
        }
        let len = received.bytes.checked_sub(HEADER_LEN).ok_or(io::ErrorKind::InvalidData)?;
        let header = FrameHeader::parse(&header, len).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
        Ok((header, len))
    }
}

impl AsFd for DeviceEnd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.socket.as_fd()
    }
}

impl AsFd for StackEnd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.socket.as_fd()
    }
}

//! One stream between a port of the host and a port of the guest.
//!
//! The device asks it three things: to take what the guest sent, to fill the next packet to the guest, and which
//! readiness of its socket it waits for. It does no waiting of its own. What the guest sends is not trusted: more than
//! its credit is an [`Overrun`] and ends the connection.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use virtio::{Reader, Writer};
use vmm_sys_util::epoll::EventSet;

use super::account::{BUFFER, Inbound, Outbound, Overrun};
use super::header::{HEADER_LEN, HOST_CID, Halves, Header, Op, STREAM};
use super::host::Waiter;
use super::table::Key;

/// Most payload of one packet, as in Linux (VIRTIO_VSOCK_MAX_PKT_BUF_SIZE).
pub(super) const MAX_PAYLOAD: u32 = 64 << 10;

/// Where a connection is in its life.
#[derive(Debug)]
enum State {
    /// The guest was asked, or is about to be, and has not answered.
    Calling { waiter: Waiter, is_asked: bool },
    /// Both sides agreed; the guest's request may still have to be answered.
    Open { is_answered: bool },
    /// The guest is done with it; what it sent goes on to the host.
    Draining,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Connection {
    key: Key,
    stream: UnixStream,
    state: State,
    inbound: Inbound,
    outbound: Outbound,
    /// Received from the guest and not taken by the host: at most [`BUFFER`] bytes.
    backlog: VecDeque<u8>,
    /// What the guest said it is done with.
    guest_over: Halves,
    /// What the host is done with, and how much of that the guest was told.
    host_over: Halves,
    told_over: Halves,
    /// The socket may have bytes for the guest.
    is_readable: bool,
    /// The host closed its end altogether.
    is_hung_up: bool,
    /// The guest asked for credit since it was told.
    is_update_asked: bool,
    /// The guest was asked for credit since it last gave some.
    is_credit_asked: bool,
    /// What the worker waits for on the socket, if anything.
    pub(super) watched: Option<EventSet>,
    /// Whether the device's list of connections with packets to send has it.
    pub(super) is_queued: bool,
}

impl Connection {
    /// A connection the host asked for.
    pub(super) fn calling(key: Key, stream: UnixStream, waiter: Waiter) -> Self {
        Self::new(key, stream, State::Calling { waiter, is_asked: false })
    }

    /// A connection the guest asked for with `request` and the host took.
    pub(super) fn accepted(key: Key, stream: UnixStream, request: &Header) -> Self {
        let mut connection = Self::new(key, stream, State::Open { is_answered: false });
        connection.outbound.update(request.buf_alloc, request.fwd_cnt);
        connection
    }

    fn new(key: Key, stream: UnixStream, state: State) -> Self {
        Self {
            key,
            stream,
            state,
            inbound: Inbound::default(),
            outbound: Outbound::default(),
            backlog: VecDeque::new(),
            guest_over: Halves::default(),
            host_over: Halves::default(),
            told_over: Halves::default(),
            is_readable: false,
            is_hung_up: false,
            is_update_asked: false,
            is_credit_asked: false,
            watched: None,
            is_queued: false,
        }
    }

    pub(super) fn key(&self) -> Key {
        self.key
    }

    pub(super) fn socket(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    pub(super) fn is_open(&self) -> bool {
        matches!(self.state, State::Open { .. })
    }

    /// Nothing is left to do: the guest is done with it and the host has everything.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.state, State::Draining) && (self.backlog.is_empty() || self.host_over.receive)
    }

    /// Nobody on the host would miss it.
    pub(super) fn is_abandoned(&self) -> bool {
        match &self.state {
            State::Calling { waiter, .. } => !waiter.is_waiting(),
            State::Open { .. } => self.is_hung_up && self.told_over == Halves::BOTH,
            State::Draining => false,
        }
    }

    /// Every header of the guest carries its credit.
    pub(super) fn update_credit(&mut self, header: &Header) {
        self.outbound.update(header.buf_alloc, header.fwd_cnt);
        self.is_credit_asked &= self.outbound.free() == 0;
    }

    /// The guest accepted; false when it was not asked or nobody waits for it any more.
    pub(super) fn accept(&mut self) -> bool {
        let State::Calling { waiter, is_asked: true } = &self.state else { return false };
        let is_wanted = waiter.answer(Ok(()));
        self.state = State::Open { is_answered: true };
        is_wanted
    }

    /// The guest or the device is done with it; `reason` is for a host that still waits for it.
    pub(super) fn finish(&mut self, reason: ErrorKind) {
        if let State::Calling { waiter, .. } = &self.state {
            // Nobody may be waiting any more.
            let _ = waiter.answer(Err(reason.into()));
        }
        self.state = State::Draining;
        // Fails only for a host that hung up.
        let _ = self.stream.shutdown(Shutdown::Read);
    }

    /// The guest asked how much it may send.
    pub(super) fn owe_update(&mut self) {
        self.is_update_asked = true;
    }

    /// Takes `len` bytes of data, straight into the socket as far as it has room.
    pub(super) fn receive(&mut self, payload: &mut Reader<'_>, len: u32) -> Result<(), Overrun> {
        self.inbound.receive(len)?;
        let len = usize::try_from(len).map_err(|_| Overrun)?;
        let end = payload.bytes_read().saturating_add(len);
        while self.backlog.is_empty() && !self.host_over.receive && payload.bytes_read() < end {
            match payload.read_to(self.stream.as_fd(), end - payload.bytes_read()) {
                Ok(0) => break,
                Ok(count) => self.inbound.forward(count),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => self.stop_receiving(),
            }
        }
        let left = end.saturating_sub(payload.bytes_read());
        if self.host_over.receive {
            self.inbound.forward(left);
        } else if left > 0 {
            self.hold(payload, left);
        }
        Ok(())
    }

    /// Keeps `left` bytes, within the credit just checked, until the socket has room.
    fn hold(&mut self, payload: &mut Reader<'_>, left: usize) {
        let mut chunk = [0; 4096];
        let mut rest = payload.take(u64::try_from(left).unwrap_or(0));
        while let Ok(count @ 1..) = rest.read(&mut chunk) {
            self.backlog.extend(chunk.iter().take(count));
        }
    }

    /// The host takes no more: what waits for it is dropped and counts as passed on.
    fn stop_receiving(&mut self) {
        self.host_over.receive = true;
        self.inbound.forward(self.backlog.len());
        self.backlog = VecDeque::new();
    }

    fn flush(&mut self) {
        while !self.backlog.is_empty() {
            let (front, _) = self.backlog.as_slices();
            match self.stream.write(front) {
                Ok(count) => {
                    self.backlog.drain(..count);
                    self.inbound.forward(count);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => return self.stop_receiving(),
            }
        }
        self.backlog = VecDeque::new();
        self.end_output();
    }

    /// Passes the guest's end of data on, once everything before it is.
    fn end_output(&self) {
        if self.guest_over.send && self.backlog.is_empty() {
            // Fails only for a host that hung up.
            let _ = self.stream.shutdown(Shutdown::Write);
        }
    }

    /// The guest is done with some halves; true when it is with both.
    pub(super) fn guest_shut(&mut self, halves: Halves) -> bool {
        self.guest_over.receive |= halves.receive;
        self.guest_over.send |= halves.send;
        if self.guest_over.receive {
            // Fails only for a host that hung up.
            let _ = self.stream.shutdown(Shutdown::Read);
        }
        self.end_output();
        self.guest_over == Halves::BOTH
    }

    /// The worker saw the socket become ready for something.
    pub(super) fn on_ready(&mut self) {
        let wanted = PollFlags::IN | PollFlags::OUT;
        let mut fds = [PollFd::new(&self.stream, wanted)];
        // Never waits; an error here would mean that the descriptor is not open.
        let _ = poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
        let [fd] = &fds;
        let ready = fd.revents();
        if ready.intersects(PollFlags::HUP | PollFlags::ERR) {
            self.is_hung_up = true;
            self.stop_receiving();
        } else if ready.contains(PollFlags::OUT) {
            self.flush();
        }
        self.is_readable |= ready.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR);
    }

    /// What to wait for on the socket; `None` for nothing at all, not even its end. One that is queued waits for a
    /// receive buffer, not for its socket.
    pub(super) fn interest(&self) -> Option<EventSet> {
        let mut events = EventSet::empty();
        if self.is_open() && !self.is_queued && self.may_send() && self.outbound.free() > 0 {
            events |= EventSet::IN;
        }
        if !self.backlog.is_empty() {
            events |= EventSet::OUT;
        }
        let is_nothing_new = self.is_hung_up || matches!(self.state, State::Calling { .. });
        if events.is_empty() && is_nothing_new { None } else { Some(events) }
    }

    fn may_send(&self) -> bool {
        !self.host_over.send && !self.guest_over.receive
    }

    /// What the next packet to the guest is for.
    fn next_op(&self) -> Option<Op> {
        match &self.state {
            State::Calling { is_asked, .. } => (!is_asked).then_some(Op::Request),
            State::Open { is_answered: false } => Some(Op::Response),
            State::Open { .. } => {
                let has_data = self.is_readable && self.may_send();
                if has_data && self.outbound.free() > 0 {
                    Some(Op::Data)
                } else if self.told_over != self.host_over {
                    Some(Op::Shutdown)
                } else if self.is_update_asked || self.inbound.is_update_due() {
                    Some(Op::CreditUpdate)
                } else if has_data && !self.is_credit_asked {
                    Some(Op::CreditRequest)
                } else {
                    None
                }
            }
            State::Draining => None,
        }
    }

    pub(super) fn has_packet(&self) -> bool {
        self.next_op().is_some()
    }

    /// Writes the next packet into a receive buffer of at least a header; how long it became, `None` when there is
    /// nothing to say after all.
    pub(super) fn fill(&mut self, writer: &mut Writer<'_>, guest_cid: u64) -> io::Result<Option<u32>> {
        let Some(mut payload) = writer.split_at(HEADER_LEN) else { return Err(ErrorKind::WriteZero.into()) };
        let Some(mut op) = self.next_op() else { return Ok(None) };
        let mut len = 0;
        if op == Op::Data {
            match self.fill_data(&mut payload)? {
                0 => match self.next_op() {
                    Some(other) => op = other,
                    None => return Ok(None),
                },
                count => len = count,
            }
        }
        let flags = if op == Op::Shutdown { self.host_over.flags() } else { 0 };
        writer.write_all(&self.header(op, len, flags, guest_cid).bytes())?;
        match (op, &mut self.state) {
            (Op::Request, State::Calling { is_asked, .. }) => *is_asked = true,
            (Op::Response, State::Open { is_answered }) => *is_answered = true,
            (Op::Shutdown, _) => self.told_over = self.host_over,
            (Op::CreditRequest, _) => self.is_credit_asked = true,
            _ => {}
        }
        Ok(Some(len.saturating_add(u32::try_from(HEADER_LEN).unwrap_or(0))))
    }

    /// Moves bytes from the socket; 0 when there are none now, or no more.
    fn fill_data(&mut self, payload: &mut Writer<'_>) -> io::Result<u32> {
        let limit = self.outbound.free().min(usize::try_from(MAX_PAYLOAD).unwrap_or(0));
        let limit = limit.min(payload.available_bytes());
        if limit == 0 {
            return Err(ErrorKind::WriteZero.into());
        }
        let count = loop {
            match payload.write_from(self.stream.as_fd(), limit) {
                Ok(count) => break count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.is_readable = false;
                    return Ok(0);
                }
                // The host closed its end with bytes for it unread.
                Err(_) => break 0,
            }
        };
        if count == 0 {
            self.is_readable = false;
            self.host_over.send = true;
        }
        // Less than there was room for: the socket is empty, which saves finding out by another call.
        self.is_readable &= count == limit;
        let count = u32::try_from(count).unwrap_or(MAX_PAYLOAD);
        self.outbound.send(count);
        Ok(count)
    }

    /// A header of this connection to the guest.
    pub(super) fn header(&mut self, op: Op, len: u32, flags: u32, guest_cid: u64) -> Header {
        self.is_update_asked = false;
        Header {
            src_cid: HOST_CID,
            dst_cid: guest_cid,
            src_port: self.key.host_port,
            dst_port: self.key.guest_port,
            len,
            kind: STREAM,
            op: Some(op),
            flags,
            buf_alloc: BUFFER,
            fwd_cnt: self.inbound.tell(),
        }
    }
}

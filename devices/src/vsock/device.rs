//! The device: takes packets from the guest, gives it packets, and keeps the worker's poll in step.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::Receiver;

use rustix::event::{EventfdFlags, eventfd};
use virtio::{ConfigSpace, DeviceInfo, Fault, Ram, Request, Rings, VirtioDevice, Watch};
use virtio_bindings::virtio_ids::VIRTIO_ID_VSOCK;
use vmm_sys_util::epoll::EventSet;

use super::connection::{Connection, MAX_PAYLOAD};
use super::header::{HEADER_LEN, HOST_CID, Halves, Header, Op, STREAM};
use super::host::{Call, Ports, VsockHost, silence};
use super::table::{Key, Table};

/// Most connections at a time; with the buffer of each this bounds what a guest can make the host hold.
pub const MAX_CONNECTIONS: u16 = 256;
/// Answers that wait for a receive buffer; beyond them the guest's packets stay in the transmit queue.
pub(super) const MAX_REPLIES: usize = 64;
/// QEMU's vhost-user-vsock has queues of this size and takes no others.
const QUEUE_SIZE: u16 = 128;
/// Host ports given to connections the host opens: those from here on.
const FIRST_PORT: u32 = 1 << 30;
/// Token of the bell; connections have those from 0 on.
const BELL: u16 = u16::MAX;
const RX: u16 = 0;
const TX: u16 = 1;

/// A virtio-vsock device for stream sockets.
#[derive(Debug)]
pub struct Vsock {
    info: DeviceInfo,
    guest_cid: u64,
    bell: Arc<OwnedFd>,
    calls: Receiver<Call>,
    ports: Arc<Ports>,
    table: Table,
    /// Connections with packets for the guest, each at most once.
    queued: VecDeque<u16>,
    /// Resets for packets that belong to no connection.
    replies: VecDeque<Header>,
    next_port: u32,
}

impl Vsock {
    /// A device for the guest with that address (3 or more), and the host's way to it.
    pub fn new(guest_cid: u64) -> io::Result<(Self, VsockHost)> {
        let bell = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let ports = Arc::new(Ports::new());
        let (host, calls) = VsockHost::new(bell.clone(), ports.clone());
        let info =
            DeviceInfo { kind: VIRTIO_ID_VSOCK, label: "vsock".into(), queue_sizes: vec![QUEUE_SIZE; 3], features: 0 };
        let (table, queued, replies) = (Table::default(), VecDeque::new(), VecDeque::new());
        let device = Self { info, guest_cid, bell, calls, ports, table, queued, replies, next_port: FIRST_PORT };
        Ok((device, host))
    }

    /// Moves packets both ways until neither can go on.
    fn exchange(&mut self, rings: &mut dyn Rings, watch: &mut dyn Watch) -> Result<(), Fault> {
        loop {
            let is_held_up = self.transmit(rings, watch)?;
            self.deliver(rings, watch)?;
            if !is_held_up || !self.replies.is_empty() {
                return Ok(());
            }
        }
    }

    /// Takes the guest's packets; true when answers that find no receive buffer hold it up.
    fn transmit(&mut self, rings: &mut dyn Rings, watch: &mut dyn Watch) -> Result<bool, Fault> {
        loop {
            if self.replies.len() >= MAX_REPLIES {
                return Ok(true);
            }
            let Some(request) = rings.pop(TX)? else { return Ok(false) };
            self.take(&request, watch)?;
            rings.finish(TX, request.head(), 0)?;
        }
    }

    fn take(&mut self, request: &Request, watch: &mut dyn Watch) -> Result<(), Fault> {
        let mut reader = request.reader();
        let mut bytes = [0; HEADER_LEN];
        if reader.read_exact(&mut bytes).is_err() {
            tracing::debug!("Packet shorter than its header dropped");
            return Ok(());
        }
        let header = Header::parse(&bytes);
        if header.src_cid != self.guest_cid {
            tracing::debug!(src_cid = header.src_cid, "Packet from another address dropped");
            return Ok(());
        }
        if header.dst_cid != HOST_CID || header.kind != STREAM {
            self.refuse(&header);
            return Ok(());
        }
        let key = Key { host_port: header.dst_port, guest_port: header.src_port };
        let Some(token) = self.table.find(key) else {
            return self.take_unknown(key, &header, watch);
        };
        let Some(connection) = self.table.get(token) else { return Ok(()) };
        connection.update_credit(&header);
        match header.op {
            Some(Op::Response) if !connection.is_open() => {
                if !connection.accept() {
                    return self.abort(token, watch);
                }
            }
            Some(Op::Data) if connection.is_open() => {
                let is_whole = usize::try_from(header.len).is_ok_and(|len| len <= reader.available_bytes());
                if header.len > MAX_PAYLOAD || !is_whole || connection.receive(&mut reader, header.len).is_err() {
                    return self.abort(token, watch);
                }
            }
            Some(Op::Shutdown) if connection.is_open() => {
                if connection.guest_shut(Halves::from_flags(header.flags)) {
                    return self.abort(token, watch);
                }
            }
            Some(Op::CreditUpdate) => {}
            Some(Op::CreditRequest) if connection.is_open() => connection.owe_update(),
            Some(Op::Reset) => return self.close(token, ErrorKind::ConnectionRefused, watch),
            _ => return self.abort(token, watch),
        }
        self.settle(token, watch)
    }

    /// A packet that belongs to no connection: a request, or a mistake.
    fn take_unknown(&mut self, key: Key, header: &Header, watch: &mut dyn Watch) -> Result<(), Fault> {
        let stream = match header.op {
            Some(Op::Request) if self.has_room(watch)? => self.ports.accept(key.host_port),
            Some(Op::Reset) => return Ok(()),
            _ => None,
        };
        let token =
            stream.and_then(|stream| self.table.insert(Connection::accepted(key, stream, header), MAX_CONNECTIONS));
        match token {
            Some(token) => self.settle(token, watch),
            None => {
                self.refuse(header);
                Ok(())
            }
        }
    }

    /// Answers a packet with a Reset, unless it is one. The caller checked that there is room.
    fn refuse(&mut self, header: &Header) {
        if header.op != Some(Op::Reset) {
            self.replies.push_back(header.refusal());
        }
    }

    /// Ends a connection and tells the guest; what it sent still goes on to the host.
    fn abort(&mut self, token: u16, watch: &mut dyn Watch) -> Result<(), Fault> {
        let guest_cid = self.guest_cid;
        if let Some(connection) = self.table.get(token) {
            self.replies.push_back(connection.header(Op::Reset, 0, 0, guest_cid));
        }
        self.close(token, ErrorKind::ConnectionReset, watch)
    }

    /// Ends a connection that the guest is done with.
    fn close(&mut self, token: u16, reason: ErrorKind, watch: &mut dyn Watch) -> Result<(), Fault> {
        self.table.unname(token);
        if let Some(connection) = self.table.get(token) {
            connection.finish(reason);
        }
        self.settle(token, watch)
    }

    /// Whether one more connection fits, if need be in place of one that nobody on the host would miss.
    fn has_room(&mut self, watch: &mut dyn Watch) -> Result<bool, Fault> {
        if self.table.tokens().count() < usize::from(MAX_CONNECTIONS) {
            return Ok(true);
        }
        let mut tokens = self.table.tokens();
        let abandoned = tokens.find(|token| self.table.get(*token).is_some_and(|connection| connection.is_abandoned()));
        match abandoned {
            Some(token) => self.abort(token, watch).map(|()| true),
            None => Ok(false),
        }
    }

    /// Gives the guest what it has receive buffers for.
    fn deliver(&mut self, rings: &mut dyn Rings, watch: &mut dyn Watch) -> Result<(), Fault> {
        while !self.replies.is_empty() || !self.queued.is_empty() {
            let Some(request) = rings.pop(RX)? else {
                // The sockets of those that wait would wake the worker for nothing.
                for token in self.queued.clone() {
                    self.settle(token, watch)?;
                }
                return Ok(());
            };
            match self.fill(&request, watch)? {
                Some(written) => rings.finish(RX, request.head(), written)?,
                None => rings.undo_pop(RX),
            }
        }
        Ok(())
    }

    /// Fills one receive buffer; 0 for one too small for anything, `None` when nothing was left to say.
    fn fill(&mut self, request: &Request, watch: &mut dyn Watch) -> Result<Option<u32>, Fault> {
        if request.writer().available_bytes() <= HEADER_LEN {
            return Ok(Some(0));
        }
        if let Some(reply) = self.replies.pop_front() {
            request.writer().write_all(&reply.bytes())?;
            return Ok(u32::try_from(HEADER_LEN).ok());
        }
        while let Some(token) = self.queued.pop_front() {
            let Some(connection) = self.table.get(token) else { continue };
            connection.is_queued = false;
            let written = connection.fill(&mut request.writer(), self.guest_cid)?;
            self.settle(token, watch)?;
            if written.is_some() {
                return Ok(written);
            }
        }
        Ok(None)
    }

    /// Takes the host's wishes for connections.
    fn answer_bell(&mut self, watch: &mut dyn Watch) -> Result<(), Fault> {
        silence(&self.bell);
        while let Ok(Call { guest_port, stream, waiter }) = self.calls.try_recv() {
            if !self.has_room(watch)? {
                // Nobody may be waiting any more.
                let _ = waiter.answer(Err(io::Error::other("Too many vsock connections")));
                continue;
            }
            let key = self.free_key(guest_port);
            if let Some(token) = self.table.insert(Connection::calling(key, stream, waiter), MAX_CONNECTIONS) {
                self.settle(token, watch)?;
            }
        }
        Ok(())
    }

    /// A pair of ports no connection has; there are more ports than connections.
    fn free_key(&mut self, guest_port: u32) -> Key {
        loop {
            let key = Key { host_port: self.next_port, guest_port };
            self.next_port = self.next_port.checked_add(1).unwrap_or(FIRST_PORT);
            if self.table.find(key).is_none() {
                return key;
            }
        }
    }

    /// After anything happened to a connection: queues it, waits for its socket or lets it go, as it needs now.
    fn settle(&mut self, token: u16, watch: &mut dyn Watch) -> Result<(), Fault> {
        let Some(connection) = self.table.get(token) else { return Ok(()) };
        let is_over = connection.is_over();
        let wanted = if is_over { None } else { connection.interest() };
        match (connection.watched, wanted) {
            (None, Some(events)) => watch.add(connection.socket(), token, events)?,
            (Some(_), None) => watch.remove(connection.socket(), token)?,
            (Some(old), Some(new)) if old != new => watch.modify(connection.socket(), token, new)?,
            _ => {}
        }
        connection.watched = wanted;
        if connection.has_packet() && !connection.is_queued {
            connection.is_queued = true;
            self.queued.push_back(token);
        }
        if is_over {
            self.queued.retain(|queued| *queued != token);
            self.table.remove(token);
        }
        Ok(())
    }
}

impl VirtioDevice for Vsock {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn config(&self) -> Arc<dyn ConfigSpace> {
        Arc::new(GuestCid(self.guest_cid.to_le_bytes()))
    }

    fn start(&mut self, _features: u64, _ram: &Ram, watch: &mut dyn Watch) -> Result<(), Fault> {
        Ok(watch.add(self.bell.as_fd(), BELL, EventSet::IN)?)
    }

    fn on_queue(&mut self, _queue: u16, rings: &mut dyn Rings, watch: &mut dyn Watch) -> Result<(), Fault> {
        // Receive buffers let held-up transmissions go on and the other way round. The event queue is for migration.
        self.exchange(rings, watch)
    }

    fn on_event(&mut self, token: u16, rings: &mut dyn Rings, watch: &mut dyn Watch) -> Result<(), Fault> {
        if token == BELL {
            self.answer_bell(watch)?;
        } else if let Some(connection) = self.table.get(token) {
            connection.on_ready();
            self.settle(token, watch)?;
        }
        self.exchange(rings, watch)?;
        self.settle(token, watch)
    }

    fn reset(&mut self, watch: &mut dyn Watch) {
        for token in self.table.tokens() {
            let Some(mut connection) = self.table.remove(token) else { continue };
            if connection.watched.is_some() {
                // Fails only for a poll that forgot it already.
                let _ = watch.remove(connection.socket(), token);
            }
            connection.finish(ErrorKind::ConnectionReset);
        }
        // As above: not watched before the first start.
        let _ = watch.remove(self.bell.as_fd(), BELL);
        self.queued.clear();
        self.replies.clear();
    }
}

impl Drop for Vsock {
    fn drop(&mut self) {
        self.ports.close();
    }
}

/// Configuration space: the guest's address (virtio 1.2, section 5.10.4).
#[derive(Debug)]
struct GuestCid([u8; 8]);

impl ConfigSpace for GuestCid {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let rest = usize::try_from(offset).ok().and_then(|offset| self.0.get(offset..)).unwrap_or_default();
        for (index, byte) in data.iter_mut().enumerate() {
            *byte = rest.get(index).copied().unwrap_or(0);
        }
    }
}

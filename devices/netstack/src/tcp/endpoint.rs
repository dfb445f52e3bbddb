//! The guest's side of one flow: a smoltcp interface with one socket, and the device that joins it to the link.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::time::Instant;

use smoltcp::iface::{Config, Interface, PollResult, SocketHandle, SocketSet};
use smoltcp::phy::{Checksum, ChecksumCapabilities, Device, DeviceCapabilities, Medium, PacketMeta, RxToken, TxToken};
use smoltcp::socket::tcp::{Socket, SocketBuffer};
use smoltcp::time::Instant as Clock;
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr, IpEndpoint};

use crate::context::Context;
use crate::uplink::Uplink;

/// One connection as the guest sees it.
pub(crate) struct Endpoint {
    interface: Interface,
    sockets: SocketSet<'static>,
    handle: SocketHandle,
    epoch: Instant,
    mtu: usize,
    /// Bytes buffered in each direction.
    size: usize,
}

/// Endpoints of connections that are over. Most connections are short: what costs most about a new one is to make and
/// clear its buffers.
#[derive(Default)]
#[expect(clippy::vec_box, reason = "flows hold them boxed, and moving one costs more than the pointer")]
pub(crate) struct Spares(Vec<Box<Endpoint>>);

impl Spares {
    /// Keeps a closed endpoint, if it is of the size that the next connection gets anyway.
    pub(super) fn keep(&mut self, endpoint: Box<Endpoint>) {
        if self.0.len() < MAX_SPARES && endpoint.size == buffer_size(0) {
            self.0.push(endpoint);
        }
    }

    fn take(&mut self, size: usize) -> Option<Box<Endpoint>> {
        if size == buffer_size(0) { self.0.pop() } else { None }
    }
}

impl std::fmt::Debug for Spares {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Spares").field(&self.0.len()).finish()
    }
}

/// As many as connections overlap where programs open one per request.
const MAX_SPARES: usize = 16;

/// Bytes buffered in each direction, by how many flows there are: room for a few 64 KiB segments while flows are few,
/// a bounded total when they are many.
fn buffer_size(flows: usize) -> usize {
    match flows {
        0..=128 => 256 << 10,
        129..=2048 => 64 << 10,
        _ => 16 << 10,
    }
}

impl Endpoint {
    /// Waits for the guest's SYN.
    pub(super) fn listening(context: &mut Context, remote: SocketAddr, flows: usize) -> Option<Box<Self>> {
        let mut endpoint = Self::at(context, remote, flows)?;
        endpoint.socket().listen(IpEndpoint::from(remote)).ok()?;
        Some(endpoint)
    }

    /// Sends a SYN to the guest.
    pub(super) fn connecting(
        context: &mut Context,
        local: SocketAddr,
        guest: SocketAddr,
        flows: usize,
    ) -> Option<Box<Self>> {
        let mut endpoint = Self::at(context, local, flows)?;
        let Self { interface, sockets, handle, .. } = &mut *endpoint;
        let socket = sockets.get_mut::<Socket<'_>>(*handle);
        socket.connect(interface.context(), IpEndpoint::from(guest), IpEndpoint::from(local)).ok()?;
        Some(endpoint)
    }

    /// A closed endpoint with the address `local`.
    fn at(context: &mut Context, local: SocketAddr, flows: usize) -> Option<Box<Self>> {
        let size = buffer_size(flows);
        let mut endpoint = match context.spares.take(size) {
            Some(endpoint) => endpoint,
            None => Box::new(Self::new(context, size)?),
        };
        let address = IpAddress::from(local.ip());
        let prefix = if local.is_ipv4() { 32 } else { 128 };
        let mut fits = true;
        endpoint.interface.update_ip_addrs(|all| {
            all.clear();
            fits = all.push(IpCidr::new(address, prefix)).is_ok();
        });
        let routes = endpoint.interface.routes_mut();
        routes.update(|all| all.clear());
        match address {
            IpAddress::Ipv4(own) => routes.add_default_ipv4_route(own).ok()?,
            IpAddress::Ipv6(own) => routes.add_default_ipv6_route(own).ok()?,
        };
        fits.then_some(endpoint)
    }

    fn new(context: &mut Context, size: usize) -> Option<Self> {
        let mtu = usize::from(context.mtu);
        let mut config = Config::new(HardwareAddress::Ip);
        let mut seed = [0; 8];
        rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::empty()).ok()?;
        config.random_seed = u64::from_ne_bytes(seed);
        let now = clock(context.epoch, context.now);
        let mut wire = Wire { inbound: None, uplink: &mut context.uplink, mtu };
        let interface = Interface::new(config, &mut wire, now);
        let mut socket = Socket::new(SocketBuffer::new(vec![0; size]), SocketBuffer::new(vec![0; size]));
        // The link loses nothing and costs nothing: neither waiting for more to send nor for more to acknowledge pays.
        socket.set_nagle_enabled(false);
        socket.set_ack_delay(None);
        let mut sockets = SocketSet::new(Vec::with_capacity(1));
        let handle = sockets.add(socket);
        Some(Self { interface, sockets, handle, epoch: context.epoch, mtu, size })
    }

    pub(super) fn socket(&mut self) -> &mut Socket<'static> {
        self.sockets.get_mut(self.handle)
    }

    /// Takes a packet of the guest in, and sends what there is to send.
    pub(super) fn poll(&mut self, now: Instant, inbound: Option<&[u8]>, uplink: &mut Uplink) -> bool {
        let now = clock(self.epoch, now);
        let mut wire = Wire { inbound, uplink, mtu: self.mtu };
        self.interface.poll(now, &mut wire, &mut self.sockets) == PollResult::SocketStateChanged
    }

    /// When `poll` has something to do by itself.
    pub(super) fn poll_at(&mut self, now: Instant) -> Option<Instant> {
        let at = self.interface.poll_at(clock(self.epoch, now), &self.sockets)?;
        let micros = u64::try_from(at.total_micros()).unwrap_or(0);
        self.epoch.checked_add(std::time::Duration::from_micros(micros))
    }
}

fn clock(epoch: Instant, now: Instant) -> Clock {
    Clock::from_micros(i64::try_from(now.saturating_duration_since(epoch).as_micros()).unwrap_or(i64::MAX))
}

/// One packet in, any number out.
struct Wire<'a> {
    inbound: Option<&'a [u8]>,
    uplink: &'a mut Uplink,
    mtu: usize,
}

struct Inbound<'a>(&'a [u8]);

struct Outbound<'a> {
    uplink: &'a mut Uplink,
    segment: Option<u16>,
}

impl Device for Wire<'_> {
    type RxToken<'t>
        = Inbound<'t>
    where
        Self: 't;
    type TxToken<'t>
        = Outbound<'t>
    where
        Self: 't;

    fn receive(&mut self, _now: Clock) -> Option<(Self::RxToken<'_>, Self::TxToken<'_>)> {
        let packet = self.inbound.take()?;
        Some((Inbound(packet), Outbound { uplink: self.uplink, segment: None }))
    }

    fn transmit(&mut self, _now: Clock) -> Option<Self::TxToken<'_>> {
        (!self.uplink.is_blocked()).then_some(Outbound { uplink: self.uplink, segment: None })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = self.mtu;
        // Checked before smoltcp sees a packet, finished or left to the guest after it made one.
        capabilities.checksum = ChecksumCapabilities::ignored();
        capabilities.checksum.ipv4 = Checksum::Tx;
        if self.uplink.offloads().tcp4_segments {
            // A guest with a small MTU, or a container in it, gets large segments all the same. smoltcp 0.14 forgets
            // the segment size on its way to an IPv6 packet, so not there.
            capabilities.segmentation.tcpv4 = NonZeroUsize::new(self.mtu);
        }
        capabilities
    }
}

impl RxToken for Inbound<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, take: F) -> R {
        take(self.0)
    }
}

impl TxToken for Outbound<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, build: F) -> R {
        self.uplink.send_ip(len, self.segment, build)
    }

    fn set_meta(&mut self, meta: PacketMeta) {
        self.segment = meta.segmentation_offload_size.map(u16::from);
    }
}

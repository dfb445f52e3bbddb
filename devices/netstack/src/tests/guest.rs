//! A guest: smoltcp for well-behaved TCP, and raw packets for everything else.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{ChecksumCapabilities, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::time::Instant as Clock;
use smoltcp::wire::{HardwareAddress, IpCidr, IpEndpoint, TcpPacket};
use virtio::frame::FrameHeader;

use super::PATIENCE;
use super::card::Card;
use crate::Addresses;
use crate::wire::{ETHERNET, ICMP, ICMPV6, Packet, TCP, UDP, checksum, parse_ip, write_ip};

/// How long to wait for something that must not come.
const SILENCE: Duration = Duration::from_millis(100);
const BUFFER: usize = 1 << 20;

pub(crate) struct Guest {
    wire: Wire,
    interface: Interface,
    sockets: SocketSet<'static>,
    start: Instant,
    next_port: u16,
}

struct Wire {
    card: Card,
    addresses: Addresses,
    mtu: usize,
    /// Large segments that came, as their headers say.
    large: usize,
}

/// A connection of the guest.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Connection(SocketHandle);

impl Guest {
    pub(crate) fn new(card: Card, mtu: usize) -> Self {
        let addresses = Addresses::default();
        let mut wire = Wire { card, addresses, mtu, large: 0 };
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = 7;
        let mut interface = Interface::new(config, &mut wire, Clock::ZERO);
        interface.update_ip_addrs(|all| {
            all.push(IpCidr::new(addresses.guest_v4.into(), 30)).unwrap();
            all.push(IpCidr::new(addresses.guest_v6.into(), 64)).unwrap();
        });
        interface.routes_mut().add_default_ipv4_route(addresses.gateway_v4).unwrap();
        interface.routes_mut().add_default_ipv6_route(addresses.gateway_v6).unwrap();
        Self { wire, interface, sockets: SocketSet::new(vec![]), start: Instant::now(), next_port: 40_000 }
    }

    /// Moves packets once, waiting for some if none are there.
    fn turn(&mut self) {
        let now = Clock::from_micros(i64::try_from(self.start.elapsed().as_micros()).unwrap());
        self.interface.poll(now, &mut self.wire, &mut self.sockets);
        let delay = self.interface.poll_delay(now, &self.sockets).map_or(20_000, |delay| delay.total_micros());
        self.wire.card.wait(Duration::from_micros(delay.min(20_000)));
    }

    /// Moves packets until `done` says so.
    fn until<T>(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(result) = done(self) {
                return result;
            }
            assert!(Instant::now() < deadline, "gave up waiting: {what}");
            self.turn();
        }
    }

    /// Starts a connection.
    pub(crate) fn start_connect(&mut self, remote: &str) -> Connection {
        let buffer = || SocketBuffer::new(vec![0; BUFFER]);
        let mut socket = Socket::new(buffer(), buffer());
        socket.set_nagle_enabled(false);
        let handle = self.sockets.add(socket);
        let remote: SocketAddr = remote.parse().unwrap();
        self.next_port += 1;
        let socket = self.sockets.get_mut::<Socket<'_>>(handle);
        socket.connect(self.interface.context(), IpEndpoint::from(remote), self.next_port).unwrap();
        Connection(handle)
    }

    /// Connects; none when the connection was refused.
    pub(crate) fn connect(&mut self, remote: &str) -> Option<Connection> {
        let connection = self.start_connect(remote);
        self.wait_connected(connection)
    }

    pub(crate) fn wait_connected(&mut self, connection: Connection) -> Option<Connection> {
        self.until("connect", |guest| match guest.state(connection) {
            State::Established | State::CloseWait => Some(Some(connection)),
            State::Closed => Some(None),
            _ => None,
        })
    }

    /// Whether the other side has answered.
    pub(crate) fn is_connected(&mut self, connection: Connection) -> bool {
        self.state(connection) == State::Established
    }

    /// Waits for a connection from outside.
    pub(crate) fn listen(&mut self, port: u16) -> Connection {
        let buffer = || SocketBuffer::new(vec![0; BUFFER]);
        let mut socket = Socket::new(buffer(), buffer());
        socket.listen(port).unwrap();
        Connection(self.sockets.add(socket))
    }

    pub(crate) fn state(&mut self, connection: Connection) -> State {
        self.socket(connection).state()
    }

    pub(crate) fn peer(&mut self, connection: Connection) -> SocketAddr {
        self.socket(connection).remote_endpoint().unwrap().into()
    }

    /// The guest's own end.
    pub(crate) fn local(&mut self, connection: Connection) -> SocketAddr {
        self.socket(connection).local_endpoint().unwrap().into()
    }

    fn socket(&mut self, connection: Connection) -> &mut Socket<'static> {
        self.sockets.get_mut(connection.0)
    }

    pub(crate) fn write(&mut self, connection: Connection, data: &[u8]) {
        let mut rest = data;
        self.until("write", |guest| {
            let sent = guest.socket(connection).send_slice(rest).unwrap();
            rest = &rest[sent..];
            rest.is_empty().then_some(())
        });
    }

    /// Writes as much as the connection takes now, without waiting; nothing if it is over.
    pub(crate) fn offer(&mut self, connection: Connection, data: &[u8]) {
        let _ = self.socket(connection).send_slice(data);
    }

    /// Offers data for as long as anything of it is taken; gives how much was.
    pub(crate) fn write_until_stuck(&mut self, connection: Connection) -> usize {
        let data = vec![0x55; BUFFER];
        let mut total = 0;
        let mut quiet_since = Instant::now();
        while quiet_since.elapsed() < SILENCE * 3 {
            let sent = self.socket(connection).send_slice(&data).unwrap();
            if sent > 0 {
                quiet_since = Instant::now();
            }
            total += sent;
            self.turn();
        }
        total
    }

    /// Reads exactly so much.
    pub(crate) fn read(&mut self, connection: Connection, count: usize) -> Vec<u8> {
        let mut data = Vec::new();
        self.until("read", |guest| {
            if guest.socket(connection).can_recv() {
                let missing = count - data.len();
                let read = guest.socket(connection).recv(|bytes| {
                    let bytes = &bytes[..missing.min(bytes.len())];
                    (bytes.len(), data.extend_from_slice(bytes))
                });
                read.unwrap();
            }
            (data.len() == count).then_some(())
        });
        data
    }

    /// Reads to the end of the stream; none when it was broken off.
    pub(crate) fn read_to_end(&mut self, connection: Connection) -> Option<Vec<u8>> {
        let mut data = Vec::new();
        self.until("read to end", |guest| {
            let socket = guest.socket(connection);
            if socket.can_recv() {
                socket.recv(|bytes| (bytes.len(), data.extend_from_slice(bytes))).unwrap();
                return None;
            }
            match socket.state() {
                State::Closed => Some(false),
                _ if !socket.may_recv() => Some(true),
                _ => None,
            }
        })
        .then_some(data)
    }

    /// Says that nothing more will be sent.
    pub(crate) fn finish(&mut self, connection: Connection) {
        self.socket(connection).close();
        self.turn();
    }

    pub(crate) fn reset(&mut self, connection: Connection) {
        self.socket(connection).abort();
        self.turn();
    }

    pub(crate) fn wait_state(&mut self, connection: Connection, state: State) {
        self.until("state", |guest| (guest.state(connection) == state).then_some(()));
    }

    /// Sends what was written.
    pub(crate) fn flush(&mut self) {
        let now = Clock::from_micros(i64::try_from(self.start.elapsed().as_micros()).unwrap());
        self.interface.poll(now, &mut self.wire, &mut self.sockets);
    }

    /// Lets the guest live for a moment.
    pub(crate) fn idle(&mut self) {
        let until = Instant::now() + SILENCE;
        while Instant::now() < until {
            self.turn();
        }
    }

    pub(crate) fn large_segments(&self) -> usize {
        self.wire.large
    }

    /// Sends an Ethernet frame as it is, every checksum being the test's business.
    pub(crate) fn send_frame(&self, frame: &[u8]) {
        self.send_frame_with(&FrameHeader::default(), frame);
    }

    pub(crate) fn send_frame_with(&self, header: &FrameHeader, frame: &[u8]) {
        self.wire.card.send(header, frame);
    }

    pub(crate) fn send_ip(&self, packet: &[u8]) {
        self.send_frame(&ethernet(&self.wire.addresses, packet));
    }

    /// Sends a datagram from the guest's own address.
    pub(crate) fn send_udp(&self, from: u16, to: &str, data: &[u8]) {
        let to: SocketAddr = to.parse().unwrap();
        self.send_ip(&udp_packet(SocketAddr::new(self.own(to.ip()), from), to, data));
    }

    pub(crate) fn send_syn(&self, from: u16, to: &str) {
        let to: SocketAddr = to.parse().unwrap();
        self.send_ip(&tcp_packet(SocketAddr::new(self.own(to.ip()), from), to, SYN, &[]));
    }

    pub(crate) fn own(&self, like: IpAddr) -> IpAddr {
        let Addresses { guest_v4, guest_v6, .. } = self.wire.addresses;
        if like.is_ipv4() { guest_v4.into() } else { guest_v6.into() }
    }

    /// The next packet for the guest, or none after a while.
    pub(crate) fn receive(&mut self, within: Duration) -> Option<Received> {
        let packet = self.receive_packet(within)?;
        Some(Received::read(&parse_ip(&packet, false).expect("the gateway sent nonsense")))
    }

    /// Likewise, as it is.
    pub(crate) fn receive_packet(&mut self, within: Duration) -> Option<Vec<u8>> {
        let deadline = Instant::now() + within;
        loop {
            if let Some(packet) = self.wire.next() {
                return Some(packet);
            }
            let left = deadline.checked_duration_since(Instant::now())?;
            self.wire.card.wait(left);
        }
    }

    /// The next packet, which must come.
    pub(crate) fn expect(&mut self) -> Received {
        self.receive(PATIENCE).expect("an answer")
    }

    /// Asserts that nothing comes.
    pub(crate) fn expect_silence(&mut self) {
        assert_eq!(self.receive(SILENCE), None);
    }

    /// The next frame that is not IP.
    pub(crate) fn receive_frame(&mut self, within: Duration) -> Option<Vec<u8>> {
        let deadline = Instant::now() + within;
        loop {
            if let Some((_, frame)) = self.wire.card.receive() {
                return Some(frame);
            }
            self.wire.card.wait(deadline.checked_duration_since(Instant::now())?);
        }
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.wire.card.is_over()
    }
}

/// What a packet for the guest says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Received {
    Tcp { from: SocketAddr, to: u16, syn: bool, ack: bool, reset: bool },
    Udp { from: SocketAddr, to: u16, data: Vec<u8> },
    Icmp { from: IpAddr, kind: u8, code: u8, body: Vec<u8> },
}

impl Received {
    fn read(packet: &Packet<'_>) -> Self {
        match packet.protocol {
            TCP => {
                let tcp = TcpPacket::new_checked(packet.payload).unwrap();
                Self::Tcp {
                    from: SocketAddr::new(packet.source, tcp.src_port()),
                    to: tcp.dst_port(),
                    syn: tcp.syn(),
                    ack: tcp.ack(),
                    reset: tcp.rst(),
                }
            }
            UDP => {
                let port = |at: usize| u16::from_be_bytes([packet.payload[at], packet.payload[at + 1]]);
                Self::Udp {
                    from: SocketAddr::new(packet.source, port(0)),
                    to: port(2),
                    data: packet.payload[8..].to_vec(),
                }
            }
            ICMP | ICMPV6 => Self::Icmp {
                from: packet.source,
                kind: packet.payload[0],
                code: packet.payload[1],
                body: packet.payload[8..].to_vec(),
            },
            other => panic!("protocol {other} from the gateway"),
        }
    }

    pub(crate) fn is_reset(&self) -> bool {
        matches!(self, Self::Tcp { reset: true, .. })
    }

    pub(crate) fn is_prohibited(&self) -> bool {
        matches!(self, Self::Icmp { kind: 3, code: 13, .. } | Self::Icmp { kind: 1, code: 1, .. })
    }

    /// The guest's port.
    pub(crate) fn to(&self) -> u16 {
        match self {
            Self::Tcp { to, .. } | Self::Udp { to, .. } => *to,
            other => panic!("has no port: {other:?}"),
        }
    }

    pub(crate) fn data(self) -> Vec<u8> {
        match self {
            Self::Udp { data, .. } => data,
            other => panic!("not a datagram: {other:?}"),
        }
    }
}

pub(crate) const FIN: u8 = 1;
pub(crate) const SYN: u8 = 2;
pub(crate) const RST: u8 = 4;
pub(crate) const ACK: u8 = 16;

pub(crate) fn ethernet(addresses: &Addresses, packet: &[u8]) -> Vec<u8> {
    let kind: u16 = if packet[0] >> 4 == 4 { 0x0800 } else { 0x86dd };
    [&addresses.gateway_mac[..], &addresses.guest_mac, &kind.to_be_bytes(), packet].concat()
}

pub(crate) fn udp_packet(from: SocketAddr, to: SocketAddr, data: &[u8]) -> Vec<u8> {
    let len = u16::try_from(8 + data.len()).unwrap();
    let head = [from.port().to_be_bytes(), to.port().to_be_bytes(), len.to_be_bytes(), [0, 0]].concat();
    packet(from.ip(), to.ip(), UDP, &[&head, data].concat())
}

pub(crate) fn tcp_packet(from: SocketAddr, to: SocketAddr, flags: u8, data: &[u8]) -> Vec<u8> {
    let ports = [from.port().to_be_bytes(), to.port().to_be_bytes()].concat();
    let rest = [0, 0, 1, 0, 0, 0, 0, 0, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0];
    packet(from.ip(), to.ip(), TCP, &[&ports, &rest[..], data].concat())
}

/// An IP packet with a right checksum.
pub(crate) fn packet(from: IpAddr, to: IpAddr, protocol: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![0; if from.is_ipv4() { 20 } else { 40 } + body.len()];
    write_ip(&mut packet, from, to, protocol).copy_from_slice(body);
    let transport = checksum::transport(&packet).unwrap();
    checksum::fill(&mut packet, &transport);
    packet
}

impl Wire {
    fn next(&mut self) -> Option<Vec<u8>> {
        let (header, frame) = self.card.receive()?;
        self.large += usize::from(header.segmentation.is_some());
        assert_eq!(&frame[..6], &self.addresses.guest_mac);
        assert_eq!(&frame[6..12], &self.addresses.gateway_mac);
        let mut packet = frame[ETHERNET..].to_vec();
        if let Some(partial) = header.checksum {
            // As a driver does for its own use.
            let transport = checksum::transport(&packet).unwrap();
            assert_eq!(partial.start, u16::try_from(ETHERNET + transport.start).unwrap());
            checksum::fill(&mut packet, &transport);
        }
        Some(packet)
    }
}

struct Inbound(Vec<u8>);
struct Outbound<'a>(&'a Wire);

impl Device for Wire {
    type RxToken<'t> = Inbound;
    type TxToken<'t> = Outbound<'t>;

    fn receive(&mut self, _now: Clock) -> Option<(Inbound, Outbound<'_>)> {
        let packet = self.next()?;
        Some((Inbound(packet), Outbound(self)))
    }

    fn transmit(&mut self, _now: Clock) -> Option<Outbound<'_>> {
        Some(Outbound(self))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = self.mtu;
        capabilities.checksum = ChecksumCapabilities::default();
        capabilities
    }
}

impl RxToken for Inbound {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, take: F) -> R {
        take(&self.0)
    }
}

impl TxToken for Outbound<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, build: F) -> R {
        let mut packet = vec![0; len];
        let result = build(&mut packet);
        self.0.card.send(&FrameHeader::default(), &ethernet(&self.0.addresses, &packet));
        result
    }
}

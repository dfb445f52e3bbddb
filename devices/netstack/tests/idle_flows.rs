//! What ten thousand connections cost that nothing happens on. Alone in its process, whose memory it looks at.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;

use netstack::{Addresses, Dialer, HostDialer, NetConfig, Netstack};
use policy::{Policy, Preset};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use virtio::frame::{FrameHeader, FrameLink, Offloads, PartialChecksum};
use virtio::test_kit::FakeCard;

const COUNT: u16 = 10_000;
/// Descriptors that are not of connections.
const OTHERS: u64 = 100;
/// The goal is 16 KiB; a connection is a few hundred bytes, and the tables that find it.
const MAX_BYTES: usize = 2048;

const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

/// Whoever is dialed is here.
#[derive(Debug)]
struct Here(SocketAddr);

impl Dialer for Here {
    fn tcp(&mut self, _: SocketAddr) -> io::Result<OwnedFd> {
        HostDialer.tcp(self.0)
    }

    fn udp(&mut self, _: SocketAddr) -> io::Result<OwnedFd> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// A segment of the guest to 93.184.216.34:443, vouched for by its card.
fn send(card: &mut FakeCard, port: u16, flags: u8, sequence: u32, acknowledgment: u32, data: &[u8]) {
    let addresses = Addresses::default();
    let len = u16::try_from(40 + data.len()).unwrap();
    let mut frame = [&addresses.gateway_mac[..], &addresses.guest_mac, &[8, 0, 0x45, 0], &len.to_be_bytes()].concat();
    frame.extend_from_slice(&[0, 0, 0x40, 0, 64, 6, 0, 0]);
    frame.extend_from_slice(&addresses.guest_v4.octets());
    frame.extend_from_slice(&[93, 184, 216, 34]);
    let sum = frame[14..34].chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum::<u32>();
    let folded = (sum & 0xffff) + (sum >> 16);
    frame[24..26].copy_from_slice(&(!u16::try_from(folded).unwrap()).to_be_bytes());
    frame.extend_from_slice(&port.to_be_bytes());
    frame.extend_from_slice(&[1, 0xbb]);
    frame.extend_from_slice(&sequence.to_be_bytes());
    frame.extend_from_slice(&acknowledgment.to_be_bytes());
    frame.extend_from_slice(&[0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    frame.extend_from_slice(data);
    let header = FrameHeader { checksum: Some(PartialChecksum { start: 34, offset: 16 }), ..FrameHeader::default() };
    assert!(card.send(&header, &frame), "the queue is full");
    card.turn();
}

/// Flags, sequence number and payload length of the next segment for the guest.
fn receive(card: &mut FakeCard) -> (u8, u32, usize) {
    loop {
        if let Some((_, frame)) = card.receive() {
            return (frame[47], u32::from_be_bytes(frame[38..42].try_into().unwrap()), frame.len() - 54);
        }
        poll(&mut [PollFd::from_borrowed_fd(card.descriptor(), PollFlags::IN)], None).unwrap();
        card.turn();
    }
}

/// Bytes of anonymous memory of this process.
fn memory() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<usize>().unwrap() * 1024
}

#[test]
fn ten_thousand_idle_connections_cost_little_memory() {
    let limit = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: limit, maximum: limit }).unwrap();
    // Both ends are here. Where there are not enough descriptors, a few connections fewer show the same.
    let count = limit.map_or(COUNT, |limit| u16::try_from((limit - OTHERS) / 2).unwrap_or(COUNT).min(COUNT));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    rustix::net::listen(&listener, 4096).unwrap();
    let FrameLink { device, stack } = FrameLink::new().unwrap();
    let mut config = NetConfig::new(Policy::new(Preset::Public));
    config.dialer = Box::new(Here(listener.local_addr().unwrap()));
    let handle = Netstack::start(stack, config).unwrap();
    let mut card = FakeCard::plug(device, Offloads { checksum: true, tcp4_segments: true, tcp6_segments: true });
    // Descriptors of the other end; kept in memory that is there from the start.
    let mut peers: Vec<TcpStream> = Vec::with_capacity(usize::from(count) + 1);
    let open = |port: u16, card: &mut FakeCard, peers: &mut Vec<TcpStream>| {
        send(card, port, SYN, 99, 0, &[]);
        let (flags, sequence, _) = receive(card);
        assert_eq!(flags, SYN | ACK);
        // A request and its answer, as most idle connections have seen.
        send(card, port, ACK, 100, sequence.wrapping_add(1), b"request");
        let (mut peer, _) = listener.accept().unwrap();
        io::Read::read_exact(&mut peer, &mut [0; 7]).unwrap();
        io::Write::write_all(&mut peer, &[7; 500]).unwrap();
        peers.push(peer);
        let mut received = 0;
        while received < 500 {
            let (flags, _, len) = receive(card);
            assert_eq!(flags & RST, 0);
            received += len;
        }
        send(card, port, ACK, 107, sequence.wrapping_add(501), &[]);
    };
    // What the first connection brings with it is there once and for all.
    open(1000, &mut card, &mut peers);
    let before = memory();
    for port in 0..count {
        open(2000 + port, &mut card, &mut peers);
    }
    let per_flow = memory().saturating_sub(before) / usize::from(count);
    // Only a gateway that is run by somebody answers.
    drop(card);
    assert_eq!(handle.report().unwrap().tcp_flows, usize::from(count) + 1);
    println!("{per_flow} bytes per connection with {count} of them");
    assert!(per_flow < MAX_BYTES, "{per_flow} bytes per idle connection");
    drop(peers);
}

//! Frames of a hostile guest, with virtio-net headers that lie as far as the card lets them, through the whole gateway.
//! Nothing leaves the process: what is dialed is a socket pair that echoes, resolvers included. The gateway is run on
//! this thread, so that a script always does the same; a panic is a finding although the gateway survives it.
//!
//! A script is a sequence of `shape, length (16 bits, little endian), virtio-net header (12 bytes), content`.
#![no_main]

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::sync::{Arc, Mutex};

use libfuzzer_sys::fuzz_target;
use netstack::{Addresses, Dialer, NetConfig, Netstack, Resolvers};
use policy::{Policy, Preset};
use virtio::frame::{FrameHeader, FrameLink, MAX_FRAME, Offloads, PartialChecksum, Turn};
use virtio::test_kit::FakeCard;

/// Shape: how much of the frame is put right before it is sent.
const KIND: u8 = 3;
const RAW: u8 = 0;
const IPV4: u8 = 1;
const IPV6: u8 = 2;
/// The card vouches for the checksum of the transport.
const VERIFIED: u8 = 4;
const TO_ALL: u8 = 8;
/// The source address is the guest's.
const OWN_SOURCE: u8 = 16;
const MAX_FRAMES: usize = 64;
const MAX_TURNS: usize = 32;

#[derive(Debug, Default)]
struct Peers {
    streams: Vec<UnixStream>,
    datagrams: Vec<UnixDatagram>,
}

#[derive(Debug)]
struct Echoing(Arc<Mutex<Peers>>);

impl Dialer for Echoing {
    fn tcp(&mut self, remote: SocketAddr) -> io::Result<OwnedFd> {
        if remote.port() % 4 == 1 {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let (near, far) = UnixStream::pair()?;
        near.set_nonblocking(true)?;
        far.set_nonblocking(true)?;
        self.0.lock().expect("one thread").streams.push(far);
        Ok(near.into())
    }

    fn udp(&mut self, _remote: SocketAddr) -> io::Result<OwnedFd> {
        let (near, far) = UnixDatagram::pair()?;
        near.set_nonblocking(true)?;
        far.set_nonblocking(true)?;
        self.0.lock().expect("one thread").datagrams.push(far);
        Ok(near.into())
    }

    fn echo(&mut self, remote: IpAddr) -> io::Result<OwnedFd> {
        self.udp(SocketAddr::new(remote, 0))
    }
}

impl Peers {
    fn echo(&mut self, buffer: &mut [u8]) {
        for stream in &mut self.streams {
            if let Ok(count) = stream.read(buffer) {
                let _ = stream.write(&buffer[..count]);
            }
        }
        for datagram in &self.datagrams {
            if let Ok(count) = datagram.recv(buffer) {
                // The answer to an echo request.
                if let Some(first) = buffer.first_mut() {
                    *first = match *first {
                        8 => 0,
                        128 => 129,
                        other => other,
                    };
                }
                let _ = datagram.send(&buffer[..count]);
            }
        }
    }
}

/// The frame that a step of the script asks for.
fn frame(shape: u8, content: &[u8]) -> Vec<u8> {
    let addresses = Addresses::default();
    if shape & KIND == RAW {
        return content.to_vec();
    }
    let to = if shape & TO_ALL != 0 { [0xff; 6] } else { addresses.gateway_mac };
    let mut frame = [&to[..], &addresses.guest_mac].concat();
    match shape & KIND {
        IPV4 => frame.extend_from_slice(&[8, 0]),
        IPV6 => frame.extend_from_slice(&[0x86, 0xdd]),
        _ => {}
    }
    frame.extend_from_slice(content);
    let packet = &mut frame[14.min(12 + content.len())..];
    match shape & KIND {
        IPV4 if packet.len() >= 20 => put_ipv4_right(packet, shape & OWN_SOURCE != 0, &addresses),
        IPV6 if packet.len() >= 40 => {
            let len = u16::try_from(packet.len() - 40).unwrap_or(u16::MAX);
            packet[4..6].copy_from_slice(&len.to_be_bytes());
            if shape & OWN_SOURCE != 0 {
                packet[8..24].copy_from_slice(&addresses.guest_v6.octets());
            }
        }
        _ => {}
    }
    frame
}

fn put_ipv4_right(packet: &mut [u8], own_source: bool, addresses: &Addresses) {
    let len = u16::try_from(packet.len()).unwrap_or(u16::MAX);
    packet[2..4].copy_from_slice(&len.to_be_bytes());
    if own_source {
        packet[12..16].copy_from_slice(&addresses.guest_v4.octets());
    }
    let header_len = (usize::from(packet[0] & 15) * 4).clamp(20, packet.len());
    packet[10..12].fill(0);
    let words =
        packet[..header_len].chunks(2).map(|word| u32::from(word[0]) << 8 | word.get(1).map_or(0, |b| u32::from(*b)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let sum = !u16::try_from(sum).unwrap_or(0);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
}

fuzz_target!(|script: &[u8]| {
    let FrameLink { device, stack } = FrameLink::new().expect("a socket pair");
    let mut policy = Policy::new(Preset::Public);
    policy.push("api.example.com:443".parse().expect("a rule"));
    let peers = Arc::new(Mutex::new(Peers::default()));
    let mut config = NetConfig::new(policy);
    config.dialer = Box::new(Echoing(Arc::clone(&peers)));
    config.resolvers = Resolvers::Fixed(vec!["192.0.2.53:53".parse().expect("an address")]);
    let handle = Netstack::start(stack, config).expect("a gateway");
    let mut card = FakeCard::plug(device, Offloads { checksum: true, tcp4_segments: true, tcp6_segments: true });
    let mut buffer = vec![0; MAX_FRAME];
    let mut rest = script;
    for _ in 0..MAX_FRAMES {
        let Some((&[shape, low, high, ref header @ ..], after)) = rest.split_first_chunk::<15>() else { break };
        let (content, after) = after.split_at(usize::from(u16::from_le_bytes([low, high])).min(after.len()));
        rest = after;
        let frame = frame(shape, content);
        if frame.is_empty() || frame.len() > MAX_FRAME {
            continue;
        }
        let header: &[u8; 12] = header;
        let header = match shape & VERIFIED {
            0 => FrameHeader::parse(header, frame.len()).unwrap_or_default(),
            _ if frame.len() < 64 => FrameHeader::default(),
            _ => FrameHeader { checksum: Some(PartialChecksum { start: 34, offset: 6 }), ..FrameHeader::default() },
        };
        card.send(&header, &frame);
        take_turns(&mut card);
        while card.receive().is_some() {}
        peers.lock().expect("one thread").echo(&mut buffer);
    }
    take_turns(&mut card);
    drop(card);
    drop(handle);
});

fn take_turns(card: &mut FakeCard) {
    for _ in 0..MAX_TURNS {
        if card.turn() != Turn::Again {
            break;
        }
    }
}

//! Fragments, IPv4 options and IPv6 extension headers: whatever a packet is wrapped in, what is judged is what it
//! means.

use std::net::{IpAddr, SocketAddr};

use super::guest::{SYN, tcp_packet, udp_packet};
use super::*;
use crate::wire::{UDP, checksum, fragments};

const SERVERS: [&str; 2] = ["93.184.216.34:9999", "[2606:4700::1111]:9999"];
/// Largest fragments of these tests.
const MTU: usize = 1280;

fn from_guest(to: &str) -> (SocketAddr, SocketAddr) {
    let to: SocketAddr = to.parse().unwrap();
    let own = if to.is_ipv4() { "100.96.0.2:5000" } else { "[fd76:6d6d::2]:5000" };
    (own.parse().unwrap(), to)
}

/// A datagram of the guest in three pieces.
fn pieces(to: &str, data: &[u8]) -> Vec<Vec<u8>> {
    let (from, to) = from_guest(to);
    fragments(&udp_packet(from, to, data), MTU)
}

/// Content that is different everywhere.
fn content(len: u32) -> Vec<u8> {
    (0..len).flat_map(u32::to_be_bytes).collect()
}

/// Changes the header of an IPv4 packet and makes its checksum right again.
fn with_header(packet: &[u8], change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut packet = packet.to_vec();
    change(&mut packet);
    let len = usize::from(packet[0] & 15) * 4;
    packet[10..12].fill(0);
    let sum = checksum::internet(&packet[..len]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// An IPv4 datagram with options.
fn with_options(to: &str, options: &[u8]) -> Vec<u8> {
    let (from, to) = from_guest(to);
    with_header(&udp_packet(from, to, b"x"), |packet| {
        packet.splice(20..20, options.iter().copied());
        packet[0] = 0x45 + u8::try_from(options.len() / 4).unwrap();
        let len = u16::try_from(packet.len()).unwrap();
        packet[2..4].copy_from_slice(&len.to_be_bytes());
    })
}

/// An IPv6 datagram with extension headers, which name their successors but for the last.
fn with_extensions(to: &str, first: u8, extensions: &[u8]) -> Vec<u8> {
    let (from, to) = from_guest(to);
    let mut packet = udp_packet(from, to, b"x");
    packet.splice(40..40, extensions.iter().copied());
    packet[6] = first;
    let len = u16::try_from(packet.len() - 40).unwrap();
    packet[4..6].copy_from_slice(&len.to_be_bytes());
    packet
}

#[test]
fn fragments_arrive_as_one_datagram_in_whatever_order() {
    for server in SERVERS {
        let Bench { guest, internet, handle: _handle } = bench(public());
        let socket = internet.udp(server);
        let data = content(700);
        let mut pieces = pieces(server, &data);
        assert_eq!(pieces.len(), 3);
        pieces.reverse();
        // Repeated exactly, as after a retransmission that was not needed.
        pieces.insert(1, pieces[0].clone());

        pieces.iter().for_each(|piece| guest.send_ip(piece));

        let mut buffer = vec![0; 65_536];
        let count = socket.recv(&mut buffer).unwrap();
        assert!(buffer[..count] == data);
        assert_eq!(internet.dialed().len(), 1);
    }
}

#[test]
fn a_wrong_checksum_is_noticed_when_the_datagram_is_whole() {
    for server in SERVERS {
        let Bench { mut guest, internet, handle } = bench(public());
        let mut pieces = pieces(server, &content(700));
        *pieces[1].last_mut().unwrap() ^= 1;
        pieces.iter().for_each(|piece| guest.send_ip(piece));
        guest.expect_silence();
        assert_eq!(internet.dialed(), []);
        assert!(handle.report().unwrap().dropped.contains(&("wrong checksum", 1)));
    }
}

/// Ports that lie in the second of two fragments, which a filter that looks only at the first never sees.
#[test]
fn a_tiny_first_fragment_hides_nothing() {
    for denied in ["10.0.0.1:443", "[fc00::1]:443"] {
        let Bench { mut guest, internet, handle: _handle } = bench(public());
        let (from, to) = from_guest(denied);
        let header_len = if to.is_ipv4() { 20 } else { 48 };
        let pieces = fragments(&tcp_packet(from, to, SYN, &[]), header_len + 8);
        assert_eq!(pieces.len(), 3);
        for piece in &pieces[..2] {
            guest.send_ip(piece);
        }
        guest.expect_silence();
        guest.send_ip(&pieces[2]);
        assert!(guest.expect().is_reset());
        assert_eq!(internet.dialed(), []);
    }
}

/// Teardrop, and first fragments written over by later ones.
#[test]
fn overlapping_fragments_end_the_whole_datagram() {
    for server in SERVERS {
        let Bench { mut guest, internet, handle } = bench(public());
        let pieces = pieces(server, &content(700));
        // The second says that it begins eight bytes earlier than the first ends.
        let overlapping = if pieces[1][0] >> 4 == 4 {
            with_header(&pieces[1], |packet| packet[7] -= 1)
        } else {
            let mut piece = pieces[1].clone();
            piece[43] -= 8;
            piece
        };
        guest.send_ip(&pieces[0]);
        guest.send_ip(&overlapping);
        // What would have completed it comes too late, however often.
        for _ in 0..2 {
            pieces.iter().for_each(|piece| guest.send_ip(piece));
        }
        guest.expect_silence();
        assert_eq!(internet.dialed(), []);
        let dropped = handle.report().unwrap().dropped;
        assert!(dropped.contains(&("overlapping fragments", 1)), "{dropped:?}");
    }
}

#[test]
fn impossible_fragments_are_dropped() {
    let Bench { mut guest, internet, handle } = bench(public());
    for server in SERVERS {
        let pieces = pieces(server, &content(700));
        let is_v4 = pieces[0][0] >> 4 == 4;
        // Beyond the longest packet; behind the end; of a length that leaves a hole.
        let beyond = match is_v4 {
            true => with_header(&pieces[1], |packet| packet[6..8].copy_from_slice(&[0x3f, 0xff])),
            false => {
                let mut piece = pieces[1].clone();
                piece[42..44].copy_from_slice(&[0xff, 0xf9]);
                piece
            }
        };
        guest.send_ip(&beyond);
        let short = match is_v4 {
            true => with_header(&pieces[0], |packet| {
                packet.pop();
                let len = u16::try_from(packet.len()).unwrap();
                packet[2..4].copy_from_slice(&len.to_be_bytes());
                packet[4] ^= 1;
            }),
            false => {
                let mut piece = pieces[0].clone();
                piece.pop();
                let len = u16::try_from(piece.len() - 40).unwrap();
                piece[4..6].copy_from_slice(&len.to_be_bytes());
                piece[44] ^= 1;
                piece
            }
        };
        guest.send_ip(&short);
    }
    guest.expect_silence();
    assert_eq!(internet.dialed(), []);
    assert!(handle.report().unwrap().dropped.contains(&("impossible fragment", 4)));
}

#[test]
fn fragments_without_end_cost_nothing_but_themselves() {
    let Bench { mut guest, internet, handle } = bench(public());
    let socket = internet.udp(SERVERS[0]);
    let first = &pieces(SERVERS[0], &content(700))[0];
    for number in 0..20_000u16 {
        guest.send_ip(&with_header(first, |packet| packet[4..6].copy_from_slice(&number.to_be_bytes())));
    }
    guest.expect_silence();
    let data = content(700);
    pieces(SERVERS[0], &data).iter().for_each(|piece| guest.send_ip(piece));
    let mut buffer = vec![0; 65_536];
    let count = socket.recv(&mut buffer).unwrap();
    assert!(buffer[..count] == data);
    assert_eq!(handle.report().unwrap().udp_mappings, 1);
}

#[test]
fn harmless_options_are_taken_off() {
    let Bench { guest, internet, handle: _handle } = bench(public());
    let socket = internet.udp(SERVERS[0]);
    // No operation and end; router alert; record route; time stamps.
    for options in [[1, 1, 1, 0], [148, 4, 0, 0], [7, 3, 4, 0], [68, 4, 5, 0]] {
        guest.send_ip(&with_options(SERVERS[0], &options));
        assert_eq!(socket.recv(&mut [0; 8]).unwrap(), 1, "{options:?}");
    }
    let socket = internet.udp(SERVERS[1]);
    let next = UDP;
    // Destination options and hop-by-hop options of padding, one behind the other, an option that says to skip it, an
    // atomic fragment.
    let chains: [(u8, &[u8]); 4] = [
        (60, &[next, 0, 1, 4, 0, 0, 0, 0]),
        (0, &[60, 0, 1, 4, 0, 0, 0, 0, next, 0, 0, 0, 0, 0, 0, 0]),
        (60, &[next, 0, 0x1e, 4, 1, 2, 3, 4]),
        (44, &[next, 0, 0, 0, 1, 2, 3, 4]),
    ];
    for (first, chain) in chains {
        guest.send_ip(&with_extensions(SERVERS[1], first, chain));
        assert_eq!(socket.recv(&mut [0; 8]).unwrap(), 1, "{chain:?}");
    }
}

#[test]
fn options_that_lead_elsewhere_are_dropped() {
    let Bench { mut guest, internet, handle } = bench(public());
    // Source routes, loose and strict; a security label; one that ends beyond the header; one of length 0.
    for options in [[131, 4, 4, 0], [137, 4, 4, 0], [130, 4, 0, 0], [7, 12, 4, 0], [7, 0, 0, 0]] {
        guest.send_ip(&with_options(SERVERS[0], &options));
    }
    let next = UDP;
    let chains: [(u8, &[u8]); 8] = [
        // Routing headers: of the type that is forbidden, used up, and of segment routing.
        (43, &[next, 0, 0, 1, 0, 0, 0, 0]),
        (43, &[next, 0, 0, 0, 0, 0, 0, 0]),
        (43, &[next, 0, 4, 0, 0, 0, 0, 0]),
        // A jumbogram, a home address, an option that must not be skipped.
        (0, &[next, 0, 0xc2, 4, 0, 1, 0, 0]),
        (60, &[next, 0, 0xc9, 4, 0, 0, 0, 0]),
        (60, &[next, 0, 0x80, 4, 0, 0, 0, 0]),
        // Hop-by-hop options that do not come first; a header that is longer than the packet.
        (60, &[0, 0, 1, 4, 0, 0, 0, 0, next, 0, 1, 4, 0, 0, 0, 0]),
        (60, &[next, 255, 1, 4, 0, 0, 0, 0]),
    ];
    for (first, chain) in chains {
        guest.send_ip(&with_extensions(SERVERS[1], first, chain));
    }
    // And a chain of headers without end.
    guest.send_ip(&with_extensions(SERVERS[1], 60, &[60, 0, 1, 4, 0, 0, 0, 0].repeat(50)));
    guest.expect_silence();
    assert_eq!(internet.dialed(), []);
    let dropped: u64 = handle.report().unwrap().dropped.iter().map(|(_, count)| count).sum();
    assert_eq!(dropped, 14);
}

#[test]
fn a_fragment_in_a_fragment_is_dropped() {
    let Bench { mut guest, internet, handle: _handle } = bench(public());
    let (from, to) = from_guest(SERVERS[1]);
    let inner = &fragments(&udp_packet(from, to, &content(400)), MTU)[0];
    // The inner packet's fragment header becomes the content of an outer one.
    let mut whole = inner.clone();
    whole[6] = 44;
    let outer = fragments(&whole, 640);
    outer.iter().for_each(|piece| guest.send_ip(piece));
    guest.expect_silence();
    assert_eq!(internet.dialed(), []);
}

/// What remote servers send may be longer than the guest's link takes.
#[test]
fn an_answer_longer_than_the_links_mtu_comes_in_fragments() {
    for server in SERVERS {
        let Bench { mut guest, internet, handle: _handle } =
            Setup::new(public()).start_with(|config| config.mtu = 1500);
        let socket = internet.udp(server);
        guest.send_udp(5000, server, b"ask");
        let (_, peer) = socket.recv_from(&mut [0; 8]).unwrap();
        let data = content(1000);
        socket.send_to(&data, peer).unwrap();

        let mut reassembly = crate::reassembly::Reassembly::default();
        let mirrored = crate::Addresses {
            guest_v4: "93.184.216.34".parse().unwrap(),
            guest_v6: PUBLIC_V6.parse().unwrap(),
            ..crate::Addresses::default()
        };
        let whole = (0..3).find_map(|_| {
            let frame = guest.receive_frame(PATIENCE).unwrap();
            assert!(frame.len() <= 14 + 1500);
            reassembly.take(std::time::Instant::now(), &frame[14..], &mirrored).unwrap()
        });
        let whole = whole.unwrap().bytes;
        let packet = crate::wire::parse_ip(&whole, false).unwrap();
        assert_eq!(packet.source, server.parse::<SocketAddr>().unwrap().ip());
        assert_eq!(packet.destination, guest.own(packet.source));
        assert!(packet.payload[8..] == data);
    }
}

#[test]
fn only_the_guests_own_fragments_are_kept() {
    let Bench { mut guest, internet, handle } = bench(public());
    let stranger: IpAddr = "100.96.0.3".parse().unwrap();
    let packet = udp_packet(SocketAddr::new(stranger, 5000), SERVERS[0].parse().unwrap(), &content(700));
    fragments(&packet, MTU).iter().for_each(|piece| guest.send_ip(piece));
    guest.expect_silence();
    assert_eq!(internet.dialed(), []);
    assert!(handle.report().unwrap().dropped.contains(&("foreign source address", 3)));
}

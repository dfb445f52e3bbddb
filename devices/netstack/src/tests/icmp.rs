//! ICMP: echo that is relayed and never made up, and errors that tell the guest what the host knows.

use std::net::{IpAddr, SocketAddr};

use policy::Protocol;

use super::guest::{Received, packet};
use super::*;
use crate::wire::{ICMP, ICMPV6, checksum, fragments};

/// An echo request of the guest with a right checksum.
fn echo(to: &str, identifier: u16, data: &[u8]) -> Vec<u8> {
    message(to, if to.contains(':') { 128 } else { 8 }, identifier, data)
}

fn message(to: &str, kind: u8, identifier: u16, data: &[u8]) -> Vec<u8> {
    let to: IpAddr = to.parse().unwrap();
    let [id0, id1] = identifier.to_be_bytes();
    let mut body = [&[kind, 0, 0, 0, id0, id1, 0, 7], data].concat();
    let addresses = crate::Addresses::default();
    if to.is_ipv4() {
        let sum = checksum::internet(&body);
        body[2..4].copy_from_slice(&sum.to_be_bytes());
        return packet(addresses.guest_v4.into(), to, ICMP, &body);
    }
    let mut packet = packet(addresses.guest_v6.into(), to, ICMPV6, &body);
    let ends: [u8; 32] = packet[8..40].try_into().unwrap();
    let sum = checksum::icmpv6(&ends, &packet[40..]);
    packet[42..44].copy_from_slice(&sum.to_be_bytes());
    packet
}

#[test]
fn echo_is_relayed_with_the_guests_own_identifier() {
    for (address, request, reply) in [(PUBLIC, 8, 0), (PUBLIC_V6, 128, 129)] {
        let Bench { mut guest, internet, handle: _handle } = bench(public());
        let host = internet.echo(address);
        guest.send_ip(&echo(address, 0x1234, b"are you there"));
        let mut buffer = [0; 64];
        let count = host.recv(&mut buffer).unwrap();
        assert_eq!((buffer[0], &buffer[6..count]), (request, &b"\x00\x07are you there"[..]));
        // The kernel's identifier is another one.
        buffer[..6].copy_from_slice(&[reply, 0, 0xab, 0xcd, 0x99, 0x99]);
        host.send(&buffer[..count]).unwrap();

        let frame = guest.receive_frame(PATIENCE).unwrap();
        let answer = crate::wire::parse_ip(&frame[14..], false).unwrap();
        assert_eq!(answer.source, address.parse::<IpAddr>().unwrap());
        assert_eq!(answer.payload[0], reply);
        assert_eq!(&answer.payload[4..], b"\x12\x34\x00\x07are you there");
        if answer.source.is_ipv4() {
            assert_eq!(checksum::internet(answer.payload), 0);
        }
        assert!(internet.events().iter().any(|event| event.contains("Icmp") && event.contains("allow: true")));
    }
}

#[test]
fn echo_to_a_denied_address_is_refused_and_reaches_nobody() {
    for denied in ["10.0.0.1", "169.254.169.254", "fc00::1", "::ffff:10.0.0.1"] {
        let Bench { mut guest, internet, handle: _handle } = bench(public());
        guest.send_ip(&echo(denied, 1, b"x"));
        assert!(guest.expect().is_prohibited(), "{denied}");
        assert_eq!(internet.dialed(), []);
    }
    // An allowed name opens its port, not the rest of its host.
    let Bench { mut guest, internet, handle: _handle } = bench(names());
    internet.name("api.example.com", &[PUBLIC]);
    dns::resolve(&mut guest, "api.example.com", 1);
    guest.send_ip(&echo(PUBLIC, 1, b"tunnel"));
    assert!(guest.expect().is_prohibited());
    assert_eq!(internet.dialed(), []);
}

#[test]
fn no_reply_is_made_up_where_the_host_cannot_ping() {
    let Bench { mut guest, internet: _internet, handle } = bench(public());
    for address in [PUBLIC, PUBLIC_V6] {
        guest.send_ip(&echo(address, 1, b"x"));
    }
    guest.expect_silence();
    let dropped = handle.report().unwrap().dropped;
    assert!(dropped.contains(&("echo that the host has no socket for", 2)), "{dropped:?}");
}

#[test]
fn only_replies_reach_the_guest() {
    let Bench { mut guest, internet, handle: _handle } = bench(public());
    let host = internet.echo(PUBLIC);
    guest.send_ip(&echo(PUBLIC, 1, b"x"));
    host.recv(&mut [0; 64]).unwrap();
    // An empty message, a short one, a request, a redirect, a reply with a code.
    for message in
        [&[][..], &[0, 0, 0], &[8, 0, 0, 0, 0, 1, 0, 7], &[5, 1, 0, 0, 10, 0, 0, 1], &[0, 1, 0, 0, 0, 1, 0, 7]]
    {
        host.send(message).unwrap();
    }
    guest.expect_silence();
}

#[test]
fn other_icmp_of_the_guest_goes_nowhere() {
    let Bench { mut guest, internet, handle: _handle } = bench(public());
    for address in [PUBLIC, "100.96.0.1", "224.0.0.1"] {
        // Reply, unreachable, redirect, router advertisement, time stamp, address mask.
        for kind in [0, 3, 5, 9, 13, 17] {
            guest.send_ip(&message(address, kind, 1, b"tunnel"));
        }
    }
    for address in [PUBLIC_V6, "fd76:6d6d::1", "ff02::1"] {
        // Reply, unreachable, too big, redirect, node information.
        for kind in [129, 1, 2, 137, 139] {
            guest.send_ip(&message(address, kind, 1, b"tunnel"));
        }
    }
    guest.expect_silence();
    assert_eq!(internet.dialed(), []);
}

#[test]
fn hosts_being_pinged_are_bounded() {
    let Bench { mut guest, internet, handle: _handle } = bench(public());
    let hosts: Vec<_> = (1..200u8).map(|last| format!("93.184.216.{last}")).collect();
    let hosts: Vec<_> = hosts.iter().map(|address| (internet.echo(address), address)).collect();
    for (host, address) in &hosts {
        guest.send_ip(&echo(address, 1, b"x"));
        host.recv(&mut [0; 64]).unwrap();
    }
    guest.expect_silence();
    assert!(internet.events().iter().any(|event| event.contains("hosts being pinged")));
    assert!(internet.events().iter().any(|event| event.contains("outcome: Evicted")));
}

#[test]
fn a_narrower_policy_ends_pings() {
    let Bench { mut guest, internet, handle } = bench(public());
    let host = internet.echo(PUBLIC);
    guest.send_ip(&echo(PUBLIC, 1, b"x"));
    host.recv(&mut [0; 64]).unwrap();
    handle.set_policy(nothing()).unwrap();
    handle.report().unwrap();
    let _ = host.send(&[0, 0, 0, 0, 0, 1, 0, 7]);
    guest.expect_silence();
    guest.send_ip(&echo(PUBLIC, 1, b"x"));
    assert!(guest.expect().is_prohibited());
}

/// Pings longer than any link's MTU go in fragments, there and back.
#[test]
fn the_gateway_answers_long_echo_too() {
    for gateway in ["100.96.0.1", "fd76:6d6d::1"] {
        let Bench { mut guest, internet: _internet, handle: _handle } =
            Setup::new(nothing()).start_with(|config| config.mtu = 1500);
        fragments(&echo(gateway, 1, &[0x5a; 4000]), 1500).iter().for_each(|piece| guest.send_ip(piece));
        let frames: Vec<_> = (0..3).map(|_| guest.receive_frame(PATIENCE).unwrap()).collect();
        assert!(frames.iter().all(|frame| frame.len() <= 14 + 1500));
        let data: usize = frames.iter().flat_map(|frame| frame.iter().filter(|byte| **byte == 0x5a)).count();
        assert!(data >= 4000, "{data}");
    }
}

#[test]
fn a_datagram_too_long_for_the_host_is_answered_with_the_mtu() {
    for (server, answer) in [("93.184.216.34:9", (3, 4)), ("[2606:4700::1111]:9", (2, 0))] {
        let Bench { mut guest, internet, handle: _handle } = bench(public());
        let place: SocketAddr = server.parse().unwrap();
        let _socket = internet.socket(Protocol::Udp, place);
        internet.shrink(Protocol::Udp, place);
        guest.send_udp(5000, server, &[1; 60_000]);
        let frame = guest.receive_frame(PATIENCE).unwrap();
        let packet = crate::wire::parse_ip(&frame[14..], false).unwrap();
        assert_eq!((packet.payload[0], packet.payload[1]), answer);
        assert_eq!(u16::from_be_bytes([packet.payload[6], packet.payload[7]]), 1280);
        // The offending packet is quoted, for the guest to know whose it was.
        let quoted = &packet.payload[8..];
        let ports = if packet.source.is_ipv4() { 20 } else { 40 };
        assert_eq!(&quoted[ports..ports + 2], &5000u16.to_be_bytes());
        assert_ne!(guest.receive(Duration::ZERO).map(|other| matches!(other, Received::Udp { .. })), Some(true));
    }
}

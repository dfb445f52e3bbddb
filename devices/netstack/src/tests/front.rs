//! What the gateway makes of frames, before any flow.

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use virtio::frame::{FrameHeader, PartialChecksum};

use super::guest::{Received, ethernet, packet, tcp_packet, udp_packet};
use super::*;
use crate::Addresses;
use crate::wire::{ICMP, ICMPV6};

const SERVER: &str = "93.184.216.34:9999";

fn arp(addresses: &Addresses, target: [u8; 4]) -> Vec<u8> {
    let head = [&[0xff; 6][..], &addresses.guest_mac, &[8, 6]].concat();
    let body = [&[0, 1, 8, 0, 6, 4, 0, 1][..], &addresses.guest_mac, &addresses.guest_v4.octets(), &[0; 6], &target];
    [head, body.concat()].concat()
}

#[test]
fn arp_is_answered_for_the_gateway_only() {
    let Bench { mut guest, internet: _internet, handle: _handle } = bench(public());
    let addresses = Addresses::default();
    guest.send_frame(&arp(&addresses, addresses.gateway_v4.octets()));
    let answer = guest.receive_frame(PATIENCE).unwrap();
    assert_eq!(&answer[20..22], &[0, 2]);
    assert_eq!(&answer[22..28], &addresses.gateway_mac);
    guest.send_frame(&arp(&addresses, [100, 96, 0, 3]));
    guest.send_frame(&arp(&addresses, addresses.guest_v4.octets()));
    guest.expect_silence();
}

#[test]
fn a_neighbour_solicitation_is_answered_for_the_gateway_only() {
    let Bench { mut guest, internet: _internet, handle: _handle } = bench(public());
    let addresses = Addresses::default();
    let solicit = |target: std::net::Ipv6Addr| {
        let body = [&[135, 0, 0, 0, 0, 0, 0, 0][..], &target.octets(), &[1, 1], &addresses.guest_mac].concat();
        let mut packet = packet(addresses.guest_v6.into(), "ff02::1:ff00:1".parse().unwrap(), ICMPV6, &body);
        packet[7] = 255;
        let all: [u8; 32] = packet[8..40].try_into().unwrap();
        let sum = crate::wire::checksum::icmpv6(&all, &packet[40..]);
        packet[42..44].copy_from_slice(&sum.to_be_bytes());
        let mut frame = ethernet(&addresses, &packet);
        frame[..6].copy_from_slice(&[0x33, 0x33, 0xff, 0, 0, 1]);
        frame
    };
    guest.send_frame(&solicit(addresses.gateway_v6));
    let answer = guest.expect();
    assert!(matches!(&answer, Received::Icmp { kind: 136, body, .. } if body[..16] == addresses.gateway_v6.octets()));
    guest.send_frame(&solicit("fd76:6d6d::3".parse().unwrap()));
    guest.expect_silence();
}

#[test]
fn echo_is_answered_by_the_gateway_and_faked_for_nobody() {
    let Bench { mut guest, internet: _internet, handle: _handle } = bench(public());
    let addresses = Addresses::default();
    let echo = |to: std::net::IpAddr| {
        let mut body = [8, 0, 0, 0, 0x12, 0x34, 0, 1, b'h', b'i'];
        let sum = crate::wire::checksum::internet(&body);
        body[2..4].copy_from_slice(&sum.to_be_bytes());
        packet(addresses.guest_v4.into(), to, ICMP, &body)
    };
    guest.send_ip(&echo(addresses.gateway_v4.into()));
    let reply = Received::Icmp { from: addresses.gateway_v4.into(), kind: 0, code: 0, body: b"hi".to_vec() };
    assert_eq!(guest.expect(), reply);
    guest.send_ip(&echo(PUBLIC.parse().unwrap()));
    guest.expect_silence();
}

#[test]
fn packets_that_are_not_the_guests_own_go_nowhere() {
    let Bench { mut guest, internet, handle: _handle } = bench(public());
    let addresses = Addresses::default();
    let to = SERVER.parse().unwrap();
    let good = udp_packet("100.96.0.2:5000".parse().unwrap(), to, b"x");
    let frame = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut frame = ethernet(&addresses, &good);
        change(&mut frame);
        frame
    };
    // Another source address, another second address, another card, another receiver, a VLAN tag.
    guest.send_ip(&udp_packet("100.96.0.3:5000".parse().unwrap(), to, b"x"));
    guest.send_ip(&udp_packet("[fd76:6d6d::3]:5000".parse().unwrap(), "[2606:4700::1111]:9".parse().unwrap(), b"x"));
    guest.send_frame(&frame(&|frame| frame[11] ^= 1));
    guest.send_frame(&frame(&|frame| frame[5] ^= 2));
    guest.send_frame(&frame(&|frame| {
        frame.splice(12..12, [0x81, 0, 0, 5]);
    }));
    // Wrong checksums, an exhausted hop limit, a fragment, options.
    guest.send_frame(&frame(&|frame| frame[24] ^= 1));
    guest.send_frame(&frame(&|frame| *frame.last_mut().unwrap() ^= 1));
    let header = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut packet = good.clone();
        change(&mut packet);
        packet[10..12].fill(0);
        let sum = crate::wire::checksum::internet(&packet[..20]);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        packet
    };
    guest.send_ip(&header(&|packet| packet[8] = 0));
    guest.send_ip(&header(&|packet| packet[6] = 0x20));
    guest.send_ip(&header(&|packet| packet[7] = 1));
    guest.send_ip(&header(&|packet| packet[0] = 0x46));
    guest.send_ip(&header(&|packet| packet[3] = 255));
    guest.expect_silence();
    assert_eq!(internet.dialed(), []);
    // The one they were all made from passes.
    let _server = internet.udp(SERVER);
    guest.send_ip(&header(&|_| {}));
    guest.expect_silence();
    assert_eq!(internet.dialed().len(), 1);
}

#[test]
fn other_protocols_go_nowhere() {
    let Bench { mut guest, internet, handle: _handle } = bench(public());
    let addresses = Addresses::default();
    // IGMP, IPIP, 6in4, GRE, ESP, SCTP, UDP-Lite.
    for protocol in [2, 4, 41, 47, 50, 132, 136] {
        guest.send_ip(&packet(addresses.guest_v4.into(), PUBLIC.parse().unwrap(), protocol, &[0; 40]));
        guest.send_ip(&packet(addresses.guest_v6.into(), PUBLIC_V6.parse().unwrap(), protocol, &[0; 40]));
    }
    guest.expect_silence();
    assert_eq!(internet.dialed(), []);
}

#[test]
fn a_partial_checksum_is_taken_on_trust_and_a_finished_one_is_not() {
    let Bench { mut guest, internet, handle: _handle } = bench(public());
    let server = internet.udp(SERVER);
    let mut frame =
        ethernet(&Addresses::default(), &udp_packet("100.96.0.2:5000".parse().unwrap(), SERVER.parse().unwrap(), b"x"));
    frame[40] ^= 0x55;
    guest.send_frame(&frame);
    guest.expect_silence();
    assert_eq!(internet.dialed(), []);
    let header = FrameHeader { checksum: Some(PartialChecksum { start: 34, offset: 6 }), ..FrameHeader::default() };
    guest.send_frame_with(&header, &frame);
    assert_eq!(server.recv_from(&mut [0; 8]).unwrap().0, 1);
}

#[test]
fn any_frames_leave_the_gateway_alive() {
    let Bench { mut guest, internet: _internet, handle } = bench(public());
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let strategy = (any::<u8>(), proptest::collection::vec(any::<u8>(), 0..200), any::<[u8; 12]>(), any::<bool>());
    let addresses = Addresses::default();
    for _ in 0..4000 {
        let (shape, noise, header, denied) = strategy.new_tree(&mut runner).unwrap().current();
        let (from, to) = ("100.96.0.2:5000".parse().unwrap(), "10.0.0.1:443".parse().unwrap());
        let gateway = "100.96.0.1:53".parse().unwrap();
        let flags = noise.first().copied().unwrap_or(0);
        let mut packet = match shape % 8 {
            0 => noise.clone(),
            1 => [&[0x45], &noise[..]].concat(),
            2 => [&[0x60], &noise[..]].concat(),
            3 => tcp_packet(from, if denied { to } else { gateway }, flags, &noise),
            4 => udp_packet(from, gateway, &noise),
            5 => packet(addresses.guest_v4.into(), addresses.gateway_v4.into(), ICMP, &noise),
            6 => packet(addresses.guest_v6.into(), addresses.gateway_v6.into(), ICMPV6, &noise),
            _ => packet(addresses.guest_v4.into(), addresses.gateway_v4.into(), 6, &noise),
        };
        if packet.is_empty() {
            packet.push(0x45);
        }
        let frame = ethernet(&addresses, &packet);
        let header = FrameHeader::parse(&header, frame.len()).unwrap_or_default();
        guest.send_frame_with(&header, &frame);
        while guest.receive_frame(Duration::ZERO).is_some() {}
    }
    assert_eq!(handle.report().unwrap().mtu, 65_520);
    guest.idle();
}

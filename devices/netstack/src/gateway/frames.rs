//! Frames of the guest, and to whom in the gateway each of them goes.

use std::net::IpAddr;

use super::Gateway;
use crate::dns::Origin;
use crate::wire::{
    ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Frame, ICMP, ICMPV6, Packet, TCP, UDP, Unusable, answer_arp,
    answer_echo, parse_ethernet, parse_ip,
};

/// Frames taken from the guest before sockets and timers get their turn.
const MAX_FRAMES: usize = 128;

impl Gateway {
    pub(super) fn take_frames(&mut self) {
        for _ in 0..MAX_FRAMES {
            if self.context.uplink.is_blocked() {
                return;
            }
            let Some((header, len)) = self.context.uplink.recv(&mut self.frame) else { return };
            // Taken out for the moment, since packets borrow from it while the rest of the gateway works on them.
            let frame = std::mem::take(&mut self.frame);
            let verified = header.checksum.is_some();
            self.guarded("A frame", |gateway| gateway.on_frame(frame.get(..len).unwrap_or_default(), verified));
            self.frame = frame;
        }
    }

    fn on_frame(&mut self, frame: &[u8], verified: bool) {
        let addresses = self.context.addresses;
        let drops = &mut self.context.drops;
        let Some(Frame { destination, source, ethertype, payload }) = parse_ethernet(frame) else {
            return drops.hostile("frame that is too short");
        };
        let for_us = destination == addresses.gateway_mac;
        let for_all = destination[0] & 1 != 0;
        if source != addresses.guest_mac {
            return drops.hostile("foreign MAC address");
        }
        if !for_us && !for_all {
            return drops.harmless("frame for somebody else");
        }
        match ethertype {
            ETHERTYPE_ARP => match answer_arp(payload, &addresses) {
                Some(answer) => self.context.uplink.send_other(ETHERTYPE_ARP, &answer),
                None => drops.harmless("ARP about others than the gateway"),
            },
            ETHERTYPE_IPV4 | ETHERTYPE_IPV6 => {
                let version = if ethertype == ETHERTYPE_IPV4 { 4 } else { 6 };
                if payload.first().is_none_or(|first| first >> 4 != version) {
                    return drops.hostile("malformed IP header");
                }
                self.on_ip(payload, verified, for_us);
            }
            // Above all: VLAN tags.
            _ => drops.harmless("frame that is neither ARP nor IP"),
        }
    }

    fn on_ip(&mut self, bytes: &[u8], verified: bool, for_us: bool) {
        let unusable = match parse_ip(bytes, verified) {
            Ok(packet) => return self.on_packet(&packet, for_us),
            Err(Unusable::Special) => match self.reassembly.take(self.context.now, bytes, &self.context.addresses) {
                Ok(None) => return,
                Ok(Some(plain)) => match parse_ip(&plain.bytes, verified && !plain.was_cut) {
                    Ok(packet) => return self.on_packet(&packet, for_us),
                    Err(unusable) => unusable,
                },
                Err(unusable) => unusable,
            },
            Err(unusable) => unusable,
        };
        self.context.drops.hostile(unusable.reason());
    }

    fn on_packet(&mut self, packet: &Packet<'_>, for_us: bool) {
        let context = &mut self.context;
        if let Some(answer) = self.router.answer(context, packet) {
            return context.uplink.send_packet(&answer, context.mtu);
        }
        if !context.addresses.is_guest(packet.source) {
            return match is_multicast(packet.destination) {
                // What a system says while it has no address yet.
                true => context.drops.harmless("multicast or broadcast"),
                false => context.drops.hostile("foreign source address"),
            };
        }
        if !for_us {
            return context.drops.harmless("multicast or broadcast");
        }
        match packet.protocol {
            TCP => self.tcp.on_packet(context, packet),
            UDP => {
                if let Some(question) = self.udp.on_packet(context, packet) {
                    let origin = Origin::Udp { guest: question.guest, server: question.server };
                    self.resolver.ask(context, origin, question.message);
                }
            }
            ICMP | ICMPV6 if !context.addresses.is_gateway(packet.destination) => self.echo.on_packet(context, packet),
            ICMP | ICMPV6 => match answer_echo(packet) {
                Some(answer) => context.uplink.send_packet(&answer, context.mtu),
                None => context.drops.harmless("ICMP other than echo requests"),
            },
            _ => context.drops.harmless("protocol other than TCP, UDP and ICMP"),
        }
    }
}

/// Whether an address means more than one receiver, on this link or wherever.
fn is_multicast(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_multicast() || address.is_broadcast(),
        IpAddr::V6(address) => address.is_multicast(),
    }
}

//! Images with a network setup of their own, and guests that pretend to be the network.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use super::guest::{Received, ethernet, packet, udp_packet};
use super::*;
use crate::Addresses;
use crate::wire::{ICMPV6, checksum};

const LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0x76, 0x6dff, 0xfe6d, 2);
const GATEWAY_LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0x76, 0x6dff, 0xfe6d, 1);
const OWN: Ipv4Addr = Ipv4Addr::new(100, 96, 0, 2);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(100, 96, 0, 1);

/// A message of a DHCP client, without its end.
fn dhcp(kind: u8, client: Ipv4Addr, options: &[u8]) -> Vec<u8> {
    let addresses = Addresses::default();
    let head = [&[1, 1, 6, 0, 9, 8, 7, 6, 0, 0, 0, 0][..], &client.octets(), &[0; 12], &addresses.guest_mac].concat();
    let mut message = head;
    message.resize(236, 0);
    message.extend_from_slice(&[0x63, 0x82, 0x53, 0x63, 53, 1, kind]);
    message.extend_from_slice(options);
    message
}

/// A frame to everybody, as clients without an address send it.
fn broadcast(message: &[u8]) -> Vec<u8> {
    let packet = udp_packet("0.0.0.0:68".parse().unwrap(), "255.255.255.255:67".parse().unwrap(), message);
    let mut frame = ethernet(&Addresses::default(), &packet);
    frame[..6].fill(0xff);
    frame
}

/// The value of an option in a DHCP message.
fn option(message: &[u8], wanted: u8) -> Option<&[u8]> {
    let mut rest = &message[240..];
    while let [kind, len, ..] = *rest {
        if kind == 255 {
            return None;
        }
        let value = &rest[2..2 + usize::from(len)];
        if kind == wanted {
            return Some(value);
        }
        rest = &rest[2 + usize::from(len)..];
    }
    None
}

fn expect_dhcp(guest: &mut Guest) -> Vec<u8> {
    let Received::Udp { from, to: 68, data } = guest.expect() else { panic!("no answer to a DHCP client") };
    assert_eq!(from, SocketAddr::from((GATEWAY, 67)));
    assert_eq!((data[0], &data[4..8], &data[28..34]), (2, &[9, 8, 7, 6][..], &Addresses::default().guest_mac[..]));
    data
}

#[test]
fn a_dhcp_client_gets_the_one_lease_and_renews_it() {
    let Bench { mut guest, internet, handle: _handle } = bench(nothing());
    guest.send_frame(&broadcast(&dhcp(1, Ipv4Addr::UNSPECIFIED, &[255])));
    let offer = expect_dhcp(&mut guest);
    assert_eq!((option(&offer, 53), &offer[16..20]), (Some(&[2][..]), &OWN.octets()[..]));
    assert_eq!(option(&offer, 1), Some(&[255, 255, 255, 252][..]));
    for own in [3, 6, 54] {
        assert_eq!(option(&offer, own), Some(&GATEWAY.octets()[..]));
    }
    assert_eq!(option(&offer, 26), Some(&65_520u16.to_be_bytes()[..]));

    let ask = [&[50, 4][..], &OWN.octets(), &[54, 4], &GATEWAY.octets(), &[12, 200], &[b'h'; 200], &[255]].concat();
    guest.send_frame(&broadcast(&dhcp(3, Ipv4Addr::UNSPECIFIED, &ask)));
    let ack = expect_dhcp(&mut guest);
    assert_eq!((option(&ack, 53), &ack[16..20]), (Some(&[5][..]), &OWN.octets()[..]));
    assert!(option(&ack, 51).is_some());

    // Renewal, from one address to the other; then questions without a lease.
    for (kind, leased) in [(3, OWN), (8, Ipv4Addr::UNSPECIFIED)] {
        guest.send_ip(&udp_packet((OWN, 68).into(), (GATEWAY, 67).into(), &dhcp(kind, OWN, &[255])));
        let ack = expect_dhcp(&mut guest);
        assert_eq!((option(&ack, 53), &ack[16..20]), (Some(&[5][..]), &leased.octets()[..]));
        assert_eq!(option(&ack, 51).is_some(), leased == OWN);
        assert_eq!(option(&ack, 6), Some(&GATEWAY.octets()[..]));
    }
    assert_eq!(internet.dialed(), []);
}

#[test]
fn another_address_is_refused_to_a_dhcp_client() {
    let Bench { mut guest, internet: _internet, handle: _handle } = bench(nothing());
    guest.send_frame(&broadcast(&dhcp(3, Ipv4Addr::UNSPECIFIED, &[50, 4, 192, 168, 1, 7, 255])));
    let nak = expect_dhcp(&mut guest);
    assert_eq!((option(&nak, 53), &nak[16..20]), (Some(&[6][..]), &[0; 4][..]));
}

/// Starvation: a lease is for the guest's card, whatever cards a client makes up, and declining it takes nothing away.
#[test]
fn leases_cannot_run_out() {
    let Bench { mut guest, internet: _internet, handle: _handle } = bench(nothing());
    for number in 0..2000u16 {
        let mut message = dhcp(1, Ipv4Addr::UNSPECIFIED, &[255]);
        message[32..34].copy_from_slice(&(0x8000 | number).to_be_bytes());
        guest.send_frame(&broadcast(&message));
    }
    for kind in [4, 7] {
        guest.send_frame(&broadcast(&dhcp(kind, OWN, &[50, 4, 100, 96, 0, 2, 255])));
    }
    guest.expect_silence();
    guest.send_frame(&broadcast(&dhcp(1, Ipv4Addr::UNSPECIFIED, &[255])));
    expect_dhcp(&mut guest);
}

#[test]
fn malformed_dhcp_is_not_answered() {
    let Bench { mut guest, internet: _internet, handle: _handle } = bench(nothing());
    let good = dhcp(1, Ipv4Addr::UNSPECIFIED, &[255]);
    let change = |at: usize, value: u8| {
        let mut message = good.clone();
        message[at] = value;
        message
    };
    // A reply, another kind of hardware, another length of addresses, another cookie, another kind of message.
    for message in [change(0, 2), change(1, 6), change(2, 16), change(239, 0), change(242, 99)] {
        guest.send_frame(&broadcast(&message));
    }
    // Cut off anywhere, options of wrong lengths, nothing but padding, the message's kind behind too many options.
    for len in [0, 1, 100, 235, 239, 240, 241] {
        guest.send_frame(&broadcast(&good[..len]));
    }
    for options in [&[50, 3, 1, 2, 3][..], &[54, 0], &[53, 0]] {
        guest.send_frame(&broadcast(&dhcp(3, Ipv4Addr::UNSPECIFIED, options)));
    }
    let mut hidden = dhcp(1, Ipv4Addr::UNSPECIFIED, &[]);
    hidden.truncate(240);
    hidden.extend([200, 1, 0].repeat(100));
    hidden.extend([53, 1, 1, 255]);
    guest.send_frame(&broadcast(&hidden));
    guest.expect_silence();
}

/// A frame of neighbour or router discovery.
fn discovery(from: Ipv6Addr, to: Ipv6Addr, body: &[u8]) -> Vec<u8> {
    let mut packet = packet(from.into(), to.into(), ICMPV6, body);
    packet[7] = 255;
    let ends: [u8; 32] = packet[8..40].try_into().unwrap();
    let sum = checksum::icmpv6(&ends, &packet[40..]);
    packet[42..44].copy_from_slice(&sum.to_be_bytes());
    let mut frame = ethernet(&Addresses::default(), &packet);
    let [.., t0, t1, t2, t3] = to.octets();
    frame[..6].copy_from_slice(&[0x33, 0x33, t0, t1, t2, t3]);
    frame
}

fn solicit_router(from: Ipv6Addr) -> Vec<u8> {
    discovery(from, "ff02::2".parse().unwrap(), &[133, 0, 0, 0, 0, 0, 0, 0])
}

#[test]
fn a_router_solicitation_is_answered_with_prefix_resolver_and_mtu() {
    let Bench { mut guest, internet: _internet, handle: _handle } = bench(nothing());
    let addresses = Addresses::default();
    for (from, to) in [(LINK_LOCAL, LINK_LOCAL), (Ipv6Addr::UNSPECIFIED, "ff02::1".parse().unwrap())] {
        guest.send_frame(&solicit_router(from));
        let frame = guest.receive_frame(PATIENCE).unwrap();
        let packet = crate::wire::parse_ip(&frame[14..], false).unwrap();
        assert_eq!((packet.source, packet.destination), (GATEWAY_LINK_LOCAL.into(), to.into()));
        assert!(packet.is_from_link());
        let [134, 0, _, _, 64, flags, lifetime0, lifetime1, _, _, _, _, _, _, _, _, options @ ..] = packet.payload
        else {
            panic!("no router advertisement: {:?}", packet.payload);
        };
        // Addresses come from DHCPv6; the router is one for as long as can be said.
        assert_eq!((flags & 0xc0, [*lifetime0, *lifetime1]), (0xc0, [0xff; 2]));
        let mut found = Vec::new();
        let mut rest = options;
        while let [kind, len, ..] = *rest {
            let (option, after) = rest.split_at(usize::from(len) * 8);
            found.push((kind, option.to_vec()));
            rest = after;
        }
        let get = |wanted| found.iter().find(|(kind, _)| *kind == wanted).unwrap().1.clone();
        assert_eq!(get(1)[2..], addresses.gateway_mac);
        assert_eq!(get(5)[4..], 65_520u32.to_be_bytes());
        // On the link, but not to make addresses from.
        assert_eq!(get(3)[2..4], [64, 0x80]);
        assert_eq!(get(3)[16..], "fd76:6d6d::".parse::<Ipv6Addr>().unwrap().octets());
        assert_eq!(get(25)[8..], addresses.gateway_v6.octets());
    }
}

/// Duplicate address detection: the guest's addresses are its own, the gateway's are not to be had.
#[test]
fn nobody_contests_the_guests_addresses_and_the_gateway_defends_its_own() {
    let Bench { mut guest, internet: _internet, handle: _handle } = bench(nothing());
    let addresses = Addresses::default();
    let probe = |target: Ipv6Addr| {
        let body = [&[135, 0, 0, 0, 0, 0, 0, 0][..], &target.octets()].concat();
        discovery(Ipv6Addr::UNSPECIFIED, "ff02::1:ff00:2".parse().unwrap(), &body)
    };
    for own in [addresses.guest_v6, LINK_LOCAL, "fd76:6d6d::3".parse().unwrap()] {
        guest.send_frame(&probe(own));
    }
    guest.expect_silence();
    for gateway in [addresses.gateway_v6, GATEWAY_LINK_LOCAL] {
        guest.send_frame(&probe(gateway));
        let answer = guest.expect();
        assert!(
            matches!(&answer, Received::Icmp { kind: 136, body, .. } if body[..16] == gateway.octets()),
            "{answer:?}"
        );
    }
}

#[test]
fn discovery_that_crossed_a_router_is_not_answered() {
    let Bench { mut guest, internet: _internet, handle: _handle } = bench(nothing());
    let mut frame = solicit_router(LINK_LOCAL);
    frame[14 + 7] = 254;
    guest.send_frame(&frame);
    // From an address of nobody on the link.
    guest.send_frame(&solicit_router(PUBLIC_V6.parse().unwrap()));
    guest.expect_silence();
}

#[test]
fn a_dhcpv6_client_gets_the_one_address_and_the_resolver() {
    let Bench { mut guest, internet, handle: _handle } = bench(nothing());
    let addresses = Addresses::default();
    let client = [0, 1, 0, 10, 0, 3, 0, 1, 2, 0x76, 0x6d, 0x6d, 0, 2];
    let association = [0, 3, 0, 12, 0xaa, 0xbb, 0xcc, 0xdd, 0, 0, 0, 0, 0, 0, 0, 0];
    let mut ask = |kind: u8, options: &[u8]| {
        let message = [&[kind, 1, 2, 3][..], options].concat();
        let to = SocketAddr::new("ff02::1:2".parse().unwrap(), 547);
        let packet = udp_packet(SocketAddr::new(LINK_LOCAL.into(), 546), to, &message);
        let mut frame = ethernet(&addresses, &packet);
        frame[..6].copy_from_slice(&[0x33, 0x33, 0, 1, 0, 2]);
        guest.send_frame(&frame);
        guest.receive(Duration::from_millis(200)).map(Received::data)
    };
    let contains = |message: &[u8], wanted: &[u8]| message.windows(wanted.len()).any(|window| window == wanted);
    let leased = [&[0, 5, 0, 24][..], &addresses.guest_v6.octets()].concat();
    let resolver = [&[0, 23, 0, 16][..], &addresses.gateway_v6.octets()].concat();

    let advertise = ask(1, &[&client[..], &association].concat()).unwrap();
    assert_eq!(advertise[..4], [2, 1, 2, 3]);
    for wanted in [&leased, &resolver, &client.to_vec(), &vec![0xaa, 0xbb, 0xcc, 0xdd]] {
        assert!(contains(&advertise, wanted), "{wanted:?} in {advertise:?}");
    }
    let server = [&[0, 2, 0, 10, 0, 3, 0, 1][..], &addresses.gateway_mac].concat();
    for kind in [3, 5, 6] {
        let reply = ask(kind, &[&client[..], &server, &association].concat()).unwrap();
        assert!(reply[0] == 7 && contains(&reply, &leased), "{reply:?}");
    }
    // Configuration without an address, an address without a second message.
    let information = ask(11, &[]).unwrap();
    assert!(information[0] == 7 && contains(&information, &resolver) && !contains(&information, &leased));
    assert_eq!(ask(1, &[&client[..], &association, &[0, 14, 0, 0]].concat()).unwrap()[0], 7);

    // For another server, from nobody, cut off, of a client with an endless name.
    let other = [&[0, 2, 0, 10, 0, 3, 0, 1][..], &[9; 6]].concat();
    assert_eq!(ask(3, &[&client[..], &other, &association].concat()), None);
    assert_eq!(ask(3, &association), None);
    assert_eq!(ask(1, &[0, 1, 0, 200, 1]), None);
    assert_eq!(ask(1, &[&[0, 1, 0, 200][..], &[1; 200]].concat()), None);
    assert_eq!(ask(2, &client), None);
    assert_eq!(internet.dialed(), []);
}

/// Rogue DHCP servers, router advertisements and ARP storms: nobody else is on the link to believe them.
#[test]
fn a_guest_that_plays_the_network_changes_nothing() {
    let Bench { mut guest, internet, handle } = bench(public());
    let addresses = Addresses::default();
    let before = handle.report().unwrap();
    let mut offer = dhcp(2, Ipv4Addr::UNSPECIFIED, &[54, 4, 100, 96, 0, 2, 255]);
    offer[0] = 2;
    let advertisement = [&[134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1][..], &addresses.guest_mac].concat();
    let claim = [&[136, 0, 0, 0, 0x60, 0, 0, 0][..], &addresses.gateway_v6.octets(), &[2, 1], &addresses.guest_mac];
    let announce = |target: Ipv4Addr| {
        let head = [&[0xff; 6][..], &addresses.guest_mac, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 2], &addresses.guest_mac];
        [&head.concat()[..], &target.octets(), &[0xff; 6], &target.octets()].concat()
    };
    let all: Ipv6Addr = "ff02::1".parse().unwrap();
    for round in 0..2000u16 {
        guest.send_frame(&broadcast(&offer));
        guest.send_frame(&discovery(LINK_LOCAL, all, &advertisement));
        guest.send_frame(&discovery(addresses.guest_v6, all, &claim.concat()));
        // It says that it is the gateway, and that it is everybody else.
        guest.send_frame(&announce(GATEWAY));
        let [high, low] = round.to_be_bytes();
        guest.send_frame(&announce(Ipv4Addr::new(10, 9, high, low)));
    }
    guest.expect_silence();
    let after = handle.report().unwrap();
    assert_eq!((after.addresses, after.resolvers, after.udp_mappings), (before.addresses, before.resolvers, 0));
    assert_eq!(internet.dialed(), []);
    let _server = internet.tcp("93.184.216.34:443");
    assert!(guest.connect("93.184.216.34:443").is_some());
}

/// A way to IPv6 that leads nowhere costs every connection a moment.
#[test]
fn without_ipv6_there_is_no_router_and_no_address() {
    let Bench { mut guest, internet: _internet, handle: _handle } =
        Setup::new(nothing()).start_with(|config| config.ipv6 = false);
    guest.send_frame(&solicit_router(LINK_LOCAL));
    guest.expect_silence();
}

//! The gateway's resolver, as a guest sees it.

use super::guest::{Guest, Received};
use super::*;

const GATEWAY: &str = "100.96.0.1:53";
const A: u16 = 1;
const AAAA: u16 = 28;

pub(crate) const NOERROR: u8 = 0;
const FORMERR: u8 = 1;
const SERVFAIL: u8 = 2;
const NXDOMAIN: u8 = 3;
const NOTIMP: u8 = 4;
const REFUSED: u8 = 5;

fn query(name: &str, kind: u16) -> Vec<u8> {
    let mut message = vec![0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        message.push(u8::try_from(label.len()).unwrap());
        message.extend_from_slice(label.as_bytes());
    }
    message.push(0);
    message.extend_from_slice(&kind.to_be_bytes());
    message.extend_from_slice(&[0, 1]);
    message
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Response {
    pub(crate) rcode: u8,
    pub(crate) answers: u16,
    pub(crate) truncated: bool,
    pub(crate) message: Vec<u8>,
}

fn read(message: Vec<u8>) -> Response {
    assert_eq!(message[..2], [0xab, 0xcd], "the guest's own ID");
    assert_eq!(message[2] & 0x80, 0x80);
    Response {
        rcode: message[3] & 15,
        answers: u16::from_be_bytes([message[6], message[7]]),
        truncated: message[2] & 2 != 0,
        message,
    }
}

fn ask(guest: &mut Guest, server: &str, message: &[u8]) -> Response {
    guest.send_udp(5353, server, message);
    let answer = guest.expect();
    assert!(matches!(&answer, Received::Udp { from, to: 5353, .. } if *from == server.parse().unwrap()), "{answer:?}");
    read(answer.data())
}

pub(crate) fn resolve(guest: &mut Guest, name: &str, kind: u16) -> Response {
    ask(guest, GATEWAY, &query(name, kind))
}

fn ask_over_tcp(guest: &mut Guest, message: &[u8]) -> Response {
    let connection = guest.connect(GATEWAY).unwrap();
    guest.write(connection, &u16::try_from(message.len()).unwrap().to_be_bytes());
    guest.write(connection, message);
    let len = guest.read(connection, 2);
    let answer = guest.read(connection, u16::from_be_bytes([len[0], len[1]]).into());
    read(answer)
}

#[test]
fn names_are_resolved_over_udp_and_tcp() {
    let Bench { mut guest, internet, handle: _handle } = bench(public());
    internet.name("example.com", &[PUBLIC, PUBLIC_V6]);
    for kind in [A, AAAA] {
        let response = resolve(&mut guest, "Example.COM", kind);
        assert_eq!((response.rcode, response.answers), (NOERROR, 1));
        assert!(response.message.windows(7).any(|bytes| bytes == b"Example"), "the guest's spelling");
    }
    let response = ask_over_tcp(&mut guest, &query("example.com", A));
    assert_eq!((response.rcode, response.answers), (NOERROR, 1));
    assert_eq!(internet.asked(), ["example.com"; 2], "the third is known already");
}

#[test]
fn a_name_that_is_not_allowed_is_refused_and_never_asked() {
    for (policy, name) in [
        (nothing(), "secret.evil.test"),
        (names(), "data.evil.test"),
        (names(), "evilpkg.example"),
        (names(), "pkg.example.evil.test"),
        (names(), "pkg.example"),
        (public(), "metadata.google.internal"),
    ] {
        let Bench { mut guest, internet, handle: _handle } = bench(policy);
        assert_eq!(resolve(&mut guest, name, A).rcode, REFUSED, "{name}");
        assert_eq!(ask_over_tcp(&mut guest, &query(name, A)).rcode, REFUSED, "{name}");
        assert_eq!(internet.asked(), Vec::<String>::new());
    }
}

#[test]
fn names_below_an_allowed_suffix_are_asked() {
    let Bench { mut guest, internet, handle: _handle } = bench(names());
    internet.name("cdn.pkg.example", &[PUBLIC]);
    assert_eq!(resolve(&mut guest, "cdn.pkg.example", A).answers, 1);
}

#[test]
fn answers_cannot_be_rebound_to_the_inside() {
    let Bench { mut guest, internet, handle: _handle } = bench(public());
    for (index, address) in
        ["127.0.0.1", "10.0.0.5", "169.254.169.254", "192.168.1.1", "0.0.0.0", "100.64.0.1"].iter().enumerate()
    {
        let name = format!("rebind{index}.test");
        internet.name(&name, &[address]);
        let response = resolve(&mut guest, &name, A);
        assert_eq!((response.rcode, response.answers), (NOERROR, 0), "{address}");
        guest.send_syn(5000, &format!("{address}:80"));
        while guest.receive(Duration::from_millis(20)).is_some() {}
    }
    for (index, address) in ["::1", "fe80::1", "fd00:ec2::254", "::ffff:10.0.0.1", "64:ff9b::7f00:1"].iter().enumerate()
    {
        let name = format!("rebind6{index}.test");
        internet.name(&name, &[address]);
        let response = resolve(&mut guest, &name, AAAA);
        assert_eq!((response.rcode, response.answers), (NOERROR, 0), "{address}");
    }
    assert_eq!(internet.dialed(), []);
}

#[test]
fn of_a_mixed_answer_the_public_part_is_left() {
    let Bench { mut guest, internet, handle: _handle } = bench(public());
    internet.name("mixed.test", &["10.0.0.5", PUBLIC, "127.0.0.1"]);
    let response = resolve(&mut guest, "mixed.test", A);
    assert_eq!(response.answers, 1);
    assert!(response.message.ends_with(&[93, 184, 216, 34]));
    assert!(internet.events().iter().any(|event| event.starts_with("Withheld") && event.contains("count: 2")));
}

#[test]
fn other_servers_are_answered_for_by_the_gateway() {
    let Bench { mut guest, internet, handle: _handle } = bench(public());
    internet.name("example.com", &[PUBLIC]);
    for server in ["8.8.8.8:53", "10.0.0.1:53"] {
        assert_eq!(ask(&mut guest, server, &query("example.com", A)).answers, 1);
    }
    let connection = guest.connect("8.8.8.8:53").unwrap();
    guest.write(connection, b"\x00\x05not a message of five bytes");
    guest.idle();
    assert_eq!(internet.dialed(), [], "no server but the host's own was talked to");
}

#[test]
fn failures_are_told_as_such() {
    let Bench { mut guest, internet: _internet, handle: _handle } = bench(public());
    assert_eq!(resolve(&mut guest, "servfail.test", A).rcode, SERVFAIL);
    assert_eq!(resolve(&mut guest, "absent.test", A).rcode, NXDOMAIN);

    let setup = Setup::new(public());
    let Bench { mut guest, internet: _internet, handle: _handle } =
        setup.start_with(|config| config.resolvers = Resolvers::Fixed(Vec::new()));
    assert_eq!(resolve(&mut guest, "example.com", A).rcode, SERVFAIL);
}

#[test]
fn an_answer_too_long_for_a_datagram_comes_over_tcp() {
    let Bench { mut guest, internet, handle: _handle } = bench(public());
    let many: Vec<String> = (0..200).map(|index| format!("93.184.216.{index}")).collect();
    internet.name("many.test", &many.iter().map(String::as_str).collect::<Vec<_>>());
    let response = resolve(&mut guest, "many.test", A);
    assert_eq!((response.truncated, response.answers), (true, 0));
    assert_eq!(ask_over_tcp(&mut guest, &query("many.test", A)).answers, 200);

    // Fits what the gateway asked for, but not a guest without EDNS.
    internet.name("some.test", &many.iter().take(40).map(String::as_str).collect::<Vec<_>>());
    assert!(resolve(&mut guest, "some.test", A).truncated);
}

#[test]
fn malformed_questions_are_refused_or_ignored() {
    let Bench { mut guest, internet, handle: _handle } = bench(public());
    let good = query("example.com", A);
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut message = good.clone();
        change(&mut message);
        message
    };
    for (message, rcode) in [
        (with(&|m| m[5] = 2), FORMERR),
        (with(&|m| m[5] = 0), FORMERR),
        (with(&|m| m[7] = 1), FORMERR),
        (with(&|m| m[2] = 0x28), NOTIMP),
        (with(&|m| m.truncate(20)), FORMERR),
        (with(&|m| m[12] = 0xc0), FORMERR),
        (with(&|m| m[12] = 0x40), FORMERR),
        (with(&|m| m[14] = b'.'), REFUSED),
        (with(&|m| m[14] = 0), REFUSED),
        (with(&|m| m[14] = 0xff), REFUSED),
        (with(&|m| *m.last_mut().unwrap() = 3), REFUSED),
        (query("example.com", 252), REFUSED),
        (query("example.com", 255), NOTIMP),
        (query(&"a".repeat(63), 1)[..40].to_vec(), FORMERR),
    ] {
        assert_eq!(ask(&mut guest, GATEWAY, &message).rcode, rcode, "{message:?}");
    }
    guest.send_udp(5353, GATEWAY, &with(&|m| m[2] = 0x81));
    guest.send_udp(5353, GATEWAY, b"not DNS");
    guest.send_udp(5353, GATEWAY, b"");
    guest.expect_silence();
    assert_eq!(internet.asked(), Vec::<String>::new());
}

#[test]
fn an_answer_is_given_again_while_it_holds() {
    let Bench { mut guest, internet, handle } = bench(public());
    internet.name("example.com", &[PUBLIC]);
    for _ in 0..3 {
        assert_eq!(resolve(&mut guest, "example.com", A).answers, 1);
        assert_eq!(resolve(&mut guest, "nothing.example.com", A).rcode, NXDOMAIN);
    }
    let asked = internet.asked().into_iter().filter(|name| name == "example.com").count();
    assert_eq!(asked, 1);
    // What was judged under one policy is not given under another.
    handle.set_policy(rules(&["example.com"])).unwrap();
    assert_eq!(resolve(&mut guest, "example.com", A).answers, 1);
    assert_eq!(internet.asked().into_iter().filter(|name| name == "example.com").count(), 2);
}

#[test]
fn a_long_name_below_an_allowed_suffix_is_asked_but_a_tunnel_runs_dry() {
    let Bench { mut guest, internet, handle: _handle } = bench(names());
    let name = |index: usize| format!("{index:060}.pkg.example");
    internet.name(&name(0), &[PUBLIC]);
    assert_eq!(resolve(&mut guest, &name(0), A).answers, 1);
    let rcodes: Vec<u8> = (1..200).map(|index| resolve(&mut guest, &name(index), A).rcode).collect();
    assert!(rcodes.starts_with(&[NXDOMAIN; 20]) && rcodes.ends_with(&[REFUSED; 20]), "{rcodes:?}");
    assert!(internet.asked().len() < 100);
    assert!(internet.events().iter().any(|event| event.contains("below an allowed suffix")));
    internet.name("api.example.com", &[PUBLIC]);
    assert_eq!(resolve(&mut guest, "api.example.com", A).answers, 1, "names in rules are not rationed");
}

#[test]
fn names_of_the_neighbourhood_are_asked_of_nobody() {
    let Bench { mut guest, internet, handle: _handle } = bench(public());
    for name in [
        "localhost",
        "x.localhost",
        "printer.local",
        "wpad",
        "nas.home.arpa",
        "1.0.0.10.in-addr.arpa",
        "254.169.254.169.in-addr.arpa",
        "1.0.96.100.in-addr.arpa",
        "10.in-addr.arpa",
        "d.f.ip6.arpa",
    ] {
        internet.name(name, &[PUBLIC]);
        assert_eq!(resolve(&mut guest, name, 12).rcode, NXDOMAIN, "{name}");
        assert_eq!(resolve(&mut guest, name, A).rcode, NXDOMAIN, "{name}");
    }
    assert_eq!(internet.asked(), Vec::<String>::new());
    resolve(&mut guest, "8.8.8.8.in-addr.arpa", 12);
    assert_eq!(internet.asked(), ["8.8.8.8.in-addr.arpa"]);
}

#[test]
fn without_ipv6_nothing_has_an_ipv6_address() {
    let setup = Setup::new(public());
    let Bench { mut guest, internet, handle: _handle } = setup.start_with(|config| config.ipv6 = false);
    internet.name("example.com", &[PUBLIC, PUBLIC_V6]);
    let response = resolve(&mut guest, "example.com", AAAA);
    assert_eq!((response.rcode, response.answers), (NOERROR, 0));
    assert_eq!(resolve(&mut guest, "example.com", A).answers, 1);
    assert_eq!(internet.asked(), ["example.com"]);
}

#[test]
fn aliases_lead_on_but_not_to_a_denied_name() {
    let Bench { mut guest, internet, handle: _handle } = bench(rules(&["api.example.com"]));
    internet.alias("api.example.com", "cdn.evil.test", PUBLIC);
    assert_eq!(resolve(&mut guest, "api.example.com", A).answers, 2);
    assert!(guest.connect("93.184.216.34:443").is_none(), "nobody listens");
    assert_eq!(internet.dialed().len(), 1, "the pin belongs to the name asked for");
    assert_eq!(resolve(&mut guest, "cdn.evil.test", A).rcode, REFUSED);

    let mut policy = public();
    policy.push(policy::Rule::parse(policy::Action::Deny, "*.evil.test").unwrap());
    let Bench { mut guest, internet, handle: _handle } = bench(policy);
    internet.alias("api.example.com", "cdn.evil.test", PUBLIC);
    let response = resolve(&mut guest, "api.example.com", A);
    assert_eq!((response.rcode, response.answers), (NXDOMAIN, 0));
}

#[test]
fn the_longest_message_over_tcp_is_answered_and_harms_nobody() {
    let Bench { mut guest, internet, handle: _handle } = bench(public());
    let mut message = query("example.com", A);
    // As many empty additional records as fit.
    message[10..12].copy_from_slice(&5000u16.to_be_bytes());
    message.extend([0, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0].repeat(5000));
    message.resize(65_535, 0);
    internet.name("example.com", &[PUBLIC]);
    assert_eq!(ask_over_tcp(&mut guest, &message).rcode, NOERROR);
    message[12..].fill(0xc0);
    assert_eq!(ask_over_tcp(&mut guest, &message).rcode, FORMERR);
    assert_eq!(resolve(&mut guest, "example.com", A).answers, 1);
}

#[test]
fn questions_in_flight_are_bounded() {
    let limits = Limits { dns_in_flight: 4, ..Limits::default() };
    let setup = Setup { limits, ..Setup::new(public()) };
    let server = "192.0.2.53:53";
    let resolvers = Resolvers::Fixed(vec![server.parse().unwrap()]);
    let Bench { mut guest, internet, handle: _handle } = setup.start_with(|config| config.resolvers = resolvers);
    let _silent = internet.udp(server);
    for port in 0..4 {
        guest.send_udp(6000 + port, GATEWAY, &query("example.com", A));
    }
    guest.send_udp(6004, GATEWAY, &query("example.com", A));
    let answers: Vec<Received> = std::iter::from_fn(|| guest.receive(Duration::from_millis(200))).collect();
    assert!(
        answers.iter().any(|answer| matches!(answer, Received::Udp { to: 6004, data, .. } if data[3] & 15 == SERVFAIL))
    );
    assert!(internet.events().iter().any(|event| event.contains("DNS questions in flight")));
}

#[test]
fn whoever_guesses_answers_gets_few_tries() {
    const GUESSES: u8 = 17;
    let server = "192.0.2.53:53";
    let resolvers = Resolvers::Fixed(vec![server.parse().unwrap()]);
    let Bench { mut guest, internet, handle: _handle } =
        Setup::new(public()).start_with(|config| config.resolvers = resolvers);
    let server = internet.udp(server);
    guest.send_udp(6000, GATEWAY, &query("example.com", A));
    let mut question = [0; 512];
    let answer = |question: &[u8], address: [u8; 4]| {
        let record = [&[0xc0, 12, 0, 1, 0, 1, 0, 0, 1, 0, 0, 4][..], &address].concat();
        [&question[..2], &[0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0], &question[12..29], &record].concat()
    };
    let (_, first) = server.recv_from(&mut question).unwrap();
    for guess in 1..=GUESSES {
        let mut wrong = answer(&question, [93, 184, 216, 66]);
        wrong[1] ^= guess;
        let _refused = server.send_to(&wrong, first);
    }
    // The right guess at last, too late.
    let _refused = server.send_to(&answer(&question, [93, 184, 216, 66]), first);

    let (_, second) = std::iter::from_fn(|| Some(server.recv_from(&mut question)))
        .find_map(|heard| heard.ok().filter(|(_, from)| *from != first))
        .unwrap();
    server.send_to(&answer(&question, [93, 184, 216, 35]), second).unwrap();
    let answered = guest.expect().data();
    assert!(answered.ends_with(&[93, 184, 216, 35]), "{answered:?}");
}

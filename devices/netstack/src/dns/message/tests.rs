//! Questions and answers, right and wrong.

use std::net::IpAddr;
use std::time::Duration;

use proptest::prelude::*;

use super::answer::{Answer, MAX_ALIASES, MAX_NEGATIVE, MAX_TTL};
use super::numbers::*;
use super::query::{Query, parse_query};

const ID: u16 = 0x1234;
const PUBLIC: [u8; 4] = [93, 184, 216, 34];
const PRIVATE: [u8; 4] = [10, 0, 0, 5];
/// The name of the question, by pointer.
const OWNER: &[u8] = &[0xc0, 12];

fn question(kind: u16) -> Vec<u8> {
    let mut message = header(0xabcd, RD, [1, 0, 0, 0]);
    message.extend_from_slice(b"\x03api\x07example\x03com\0");
    message.extend_from_slice(&kind.to_be_bytes());
    message.extend_from_slice(&CLASS_IN.to_be_bytes());
    message
}

fn query(kind: u16) -> Query {
    parse_query(&question(kind)).unwrap().unwrap()
}

fn record(owner: &[u8], kind: u16, data: &[u8]) -> Vec<u8> {
    let mut record = owner.to_vec();
    record.extend_from_slice(&kind.to_be_bytes());
    record.extend_from_slice(&CLASS_IN.to_be_bytes());
    record.extend_from_slice(&300u32.to_be_bytes());
    record.extend_from_slice(&u16::try_from(data.len()).unwrap().to_be_bytes());
    record.extend_from_slice(data);
    record
}

/// A resolver's answer to `question(kind)`.
fn response(kind: u16, answers: &[Vec<u8>], authorities: &[Vec<u8>], additional: &[Vec<u8>]) -> Vec<u8> {
    let count = |records: &[Vec<u8>]| u16::try_from(records.len()).unwrap();
    let counts = [1, count(answers), count(authorities), count(additional)];
    let mut message = header(ID, QR | RD | RA, counts);
    message.extend_from_slice(&question(kind)[HEADER..]);
    [answers, authorities, additional].concat().iter().for_each(|record| message.extend_from_slice(record));
    message
}

fn is_public(address: IpAddr) -> bool {
    address != IpAddr::from(PRIVATE) && !address.is_loopback()
}

fn accept(kind: u16, message: &[u8]) -> Result<Answer, Malformed> {
    query(kind).accept(message, ID, false, is_public)
}

#[test]
fn an_answer_to_another_question_is_not_ours() {
    let good = response(TYPE_A, &[record(OWNER, TYPE_A, &PUBLIC)], &[], &[]);
    assert_eq!(accept(TYPE_A, &good).unwrap().addresses, [(PUBLIC.into(), Duration::from_secs(300))]);
    for (at, bits) in [(0, 1), (1, 1), (2, 0x80), (2, 0x08), (5, 2), (14, 1), (27, 1), (29, 2)] {
        let mut other = good.clone();
        other[at] ^= bits;
        assert_eq!(accept(TYPE_A, &other), Err(Malformed), "byte {at}");
    }
    let mut upper_case = good;
    upper_case[13..16].make_ascii_uppercase();
    assert!(accept(TYPE_A, &upper_case).is_ok());
}

#[test]
fn aliases_are_kept_and_the_address_belongs_to_the_name_asked_for() {
    let alias = b"\x03cdn\x04evil\x04test\0";
    let answers = [record(OWNER, TYPE_CNAME, alias), record(alias, TYPE_A, &PUBLIC)];
    let answer = accept(TYPE_A, &response(TYPE_A, &answers, &[], &[])).unwrap();
    assert_eq!((answer.counts, answer.addresses.len()), ([2, 0], 1));
}

#[test]
fn what_comes_beside_the_answer_is_dropped() {
    let glue = record(b"\x02ns\x04evil\x04test\0", TYPE_A, &PUBLIC);
    let soa = [&b"\x02ns\xc0\x10\0"[..], &[0; 20]].concat();
    let message =
        response(TYPE_A, &[], &[record(OWNER, TYPE_SOA, &soa)], &[glue, record(&[0], TYPE_OPT, &[0, 10, 0, 0])]);
    let answer = accept(TYPE_A, &message).unwrap();
    assert_eq!((answer.counts, answer.addresses.as_slice()), ([0, 1], &[][..]));
    // The name in the record was compressed against the question; now it stands for itself.
    let bytes = query(TYPE_A).answer(&answer, true);
    assert!(bytes.windows(16).any(|window| window == b"\x02ns\x07example\x03com\0"[..16].as_ref()));
}

#[test]
fn a_service_binding_with_a_forbidden_hint_is_left_out_whole() {
    let binding = |hint: [u8; 4]| record(OWNER, TYPE_HTTPS, &[&[0, 1, 0, 0, 4, 0, 4][..], &hint].concat());
    let with = |hint| accept(TYPE_HTTPS, &response(TYPE_HTTPS, &[binding(hint)], &[], &[])).unwrap();
    let (good, bad) = (with(PUBLIC), with(PRIVATE));
    assert_eq!((good.counts, good.addresses.len(), good.withheld), ([1, 0], 1, 0));
    assert_eq!((bad.counts, bad.addresses.len(), bad.withheld), ([0, 0], 0, 1));
}

#[test]
fn keys_for_encrypted_hellos_are_left_out_where_names_are_checked() {
    let params = [&[0, 1, 0][..], &[0, 1, 0, 3, 2, b'h', b'2'], &[0, 4, 0, 4], &PUBLIC, &[0, 5, 0, 2, 9, 9]].concat();
    let insisting = [&[0, 1, 0][..], &[0, 0, 0, 2, 0, 5], &[0, 5, 0, 2, 9, 9]].concat();
    let with = |params: &[u8], plain| {
        let message = response(TYPE_HTTPS, &[record(OWNER, TYPE_HTTPS, params)], &[], &[]);
        query(TYPE_HTTPS).accept(&message, ID, plain, is_public).unwrap()
    };
    assert!(with(&params, false).records.ends_with(&[0, 5, 0, 2, 9, 9]));
    let plain = with(&params, true);
    assert!(plain.records.ends_with(&PUBLIC));
    assert_eq!((plain.counts, plain.addresses.len()), ([1, 0], 1));
    assert_eq!(with(&insisting, true).counts, [0, 0]);
}

#[test]
fn lifetimes_are_bounded_and_run_down() {
    let with_ttl = |ttl: u32| {
        let mut record = record(OWNER, TYPE_A, &PUBLIC);
        record[6..10].copy_from_slice(&ttl.to_be_bytes());
        accept(TYPE_A, &response(TYPE_A, &[record], &[], &[])).unwrap()
    };
    for (ttl, told) in [(300, 300), (0, 0), (u32::MAX, 0), (0x7fff_ffff, MAX_TTL)] {
        let answer = with_ttl(ttl);
        assert_eq!(answer.records[6..10], u32::to_be_bytes(told));
        assert_eq!(answer.lifetime(), Some(Duration::from_secs(told.into())));
    }
    let aged = with_ttl(300).aged(Duration::from_secs(100));
    assert_eq!(aged.records[6..10], 200u32.to_be_bytes());
    assert_eq!(aged.addresses, [(PUBLIC.into(), Duration::from_secs(200))]);
}

#[test]
fn a_negative_answer_holds_as_long_as_its_zone_says() {
    let soa = |minimum: u32| [&b"\x02ns\xc0\x10\0"[..], &[0; 16], &minimum.to_be_bytes()].concat();
    let lifetime =
        |authorities: &[Vec<u8>]| accept(TYPE_A, &response(TYPE_A, &[], authorities, &[])).unwrap().lifetime();
    assert_eq!(lifetime(&[record(OWNER, TYPE_SOA, &soa(7))]), Some(Duration::from_secs(7)));
    assert_eq!(lifetime(&[record(OWNER, TYPE_SOA, &soa(99_999))]), Some(Duration::from_secs(MAX_NEGATIVE.into())));
    assert_eq!(lifetime(&[]), None);
}

#[test]
fn addresses_among_the_authorities_are_no_answer() {
    let answer = accept(TYPE_A, &response(TYPE_A, &[], &[record(OWNER, TYPE_A, &PUBLIC)], &[])).unwrap();
    assert_eq!((answer.counts, answer.addresses.as_slice()), ([0, 0], &[][..]));
}

#[test]
fn a_chain_of_aliases_is_named_and_bounded() {
    let chain = |count: usize| {
        let alias = record(OWNER, TYPE_CNAME, b"\x03cdn\x04evil\x04test\0");
        accept(TYPE_A, &response(TYPE_A, &vec![alias; count], &[], &[]))
    };
    assert_eq!(chain(2).unwrap().aliases, vec!["cdn.evil.test".parse().unwrap(); 2]);
    assert_eq!(chain(MAX_ALIASES + 1), Err(Malformed));
}

#[test]
fn the_guests_spelling_stays_with_the_gateway() {
    let mut message = question(TYPE_A);
    message[13..16].copy_from_slice(b"ApI");
    let query = parse_query(&message).unwrap().unwrap();
    assert!(query.to_upstream(ID).windows(4).any(|bytes| bytes == b"\x03api"));
    assert!(query.fail(Rcode::ServFail).windows(4).any(|bytes| bytes == b"\x03ApI"));
}

#[test]
fn compression_that_does_not_go_backwards_is_malformed() {
    let at = u8::try_from(question(TYPE_A).len()).unwrap();
    for pointer in [[0xc0, at], [0xc0, at + 2], [0xff, 0xff], [0x80, 0], [0x40, 0]] {
        let message = response(TYPE_A, &[record(&pointer, TYPE_A, &PUBLIC)], &[], &[]);
        assert_eq!(accept(TYPE_A, &message), Err(Malformed), "{pointer:?}");
    }
    // A label, then a pointer to that label: for ever.
    let message = response(TYPE_A, &[record(&[1, b'a', 0xc0, at], TYPE_A, &PUBLIC)], &[], &[]);
    assert_eq!(accept(TYPE_A, &message), Err(Malformed));
}

#[test]
fn records_that_lie_about_their_length_are_malformed() {
    for (kind, data) in [
        (TYPE_A, &[1, 2, 3][..]),
        (TYPE_A, &[1, 2, 3, 4, 5]),
        (TYPE_AAAA, &[0; 15]),
        (TYPE_CNAME, &[0, 0]),
        (TYPE_CNAME, &[3, b'a']),
        (TYPE_MX, &[0]),
        (TYPE_SOA, &[0, 0, 1]),
        (TYPE_HTTPS, &[0, 1, 0, 0, 4, 0, 3, 1, 2, 3]),
        (TYPE_HTTPS, &[0, 1, 0, 0, 4, 0]),
    ] {
        let message = response(TYPE_A, &[record(OWNER, kind, data)], &[], &[]);
        assert_eq!(accept(TYPE_A, &message), Err(Malformed), "type {kind}: {data:?}");
    }
    let mut cut = response(TYPE_A, &[record(OWNER, TYPE_A, &PUBLIC)], &[], &[]);
    cut.pop();
    assert_eq!(accept(TYPE_A, &cut), Err(Malformed));
}

#[test]
fn the_guests_edns_is_answered_and_its_options_are_not_passed_on() {
    let mut message = question(TYPE_A);
    message[11] = 1;
    message.extend_from_slice(&[0, 0, 41, 16, 0, 0, 0, 0x80, 0, 0, 6, 0, 10, 0, 2, b'h', b'i']);
    let query = parse_query(&message).unwrap().unwrap();
    let upstream = query.to_upstream(ID);
    assert!(upstream.ends_with(&[0, 0, 41, 0x04, 0xd0, 0, 0, 0x80, 0, 0, 0]));
    assert_eq!(query.fail(Rcode::ServFail)[10..12], [0, 1]);
}

fn noise() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any::<u8>(), 0..120)
}

fn some_record() -> impl Strategy<Value = Vec<u8>> {
    let owner = prop_oneof![Just(OWNER.to_vec()), Just(vec![0]), Just(b"\x01a\xc0\x10".to_vec()), noise()];
    let kind = prop_oneof![
        Just(TYPE_A),
        Just(TYPE_AAAA),
        Just(TYPE_CNAME),
        Just(TYPE_SOA),
        Just(TYPE_MX),
        Just(TYPE_SVCB),
        any::<u16>()
    ];
    let data = prop_oneof![Just(PRIVATE.to_vec()), Just(PUBLIC.to_vec()), Just(vec![0; 16]), noise()];
    (owner, kind, data).prop_map(|(owner, kind, data)| record(&owner, kind, &data))
}

proptest! {
    #[test]
    fn any_bytes_are_a_question_or_not(bytes in noise(), tail in noise()) {
        let _ = parse_query(&bytes);
        let _ = parse_query(&[question(TYPE_A), tail].concat());
    }

    #[test]
    fn no_answer_smuggles_a_forbidden_address(
        answers in proptest::collection::vec(some_record(), 0..5),
        authorities in proptest::collection::vec(some_record(), 0..3),
    ) {
        let query = query(TYPE_A);
        if let Ok(answer) = accept(TYPE_A, &response(TYPE_A, &answers, &authorities, &[])) {
            let mut bytes = query.answer(&answer, false);
            bytes[..2].copy_from_slice(&ID.to_be_bytes());
            let mut seen = Vec::new();
            let again = query.accept(&bytes, ID, false, |address| {
                seen.push(address);
                true
            });
            prop_assert!(again.is_ok());
            prop_assert!(seen.into_iter().all(is_public));
        }
    }

    #[test]
    fn any_bytes_are_an_answer_or_not(head in any::<[u8; 12]>(), body in noise()) {
        let _ = accept(TYPE_A, &[&head[..], &body].concat());
        let mut ours = response(TYPE_A, &[], &[], &[]);
        ours[6..12].copy_from_slice(&head[6..]);
        let _ = accept(TYPE_A, &[ours, body].concat());
    }
}

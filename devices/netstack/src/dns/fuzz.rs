//! Messages of a guest and of a resolver, for the fuzz target.

use std::net::IpAddr;

use super::message::{Query, Rcode, parse_query};

const ID: u16 = 0x1234;
/// An A question for `api.example.com`, and the same for HTTPS.
const QUESTIONS: [&[u8]; 2] = [
    b"\xab\xcd\x01\0\0\x01\0\0\0\0\0\0\x03api\x07example\x03com\0\0\x01\0\x01",
    b"\xab\xcd\x01\0\0\x01\0\0\0\0\0\0\x03api\x07example\x03com\0\0\x41\0\x01",
];

/// A question is understood, refused or ignored; what is asked on in its place can be understood too.
pub(crate) fn question(bytes: &[u8]) {
    match parse_query(bytes) {
        Some(Ok(query)) => {
            let upstream = query.to_upstream(ID);
            let again = parse_query(&upstream);
            assert!(again.is_some_and(|again| again.is_ok_and(|again| again.name == query.name)), "another name");
            assert!(query.fail(Rcode::ServFail).len() <= bytes.len() + 11, "an answer that amplifies");
        }
        Some(Err(refusal)) => assert!(refusal.to_bytes().len() <= bytes.len() + 11, "a refusal that amplifies"),
        None => {}
    }
}

/// An answer is taken or not; what the guest gets of it holds no address that it may not see, and no key for an
/// encrypted hello where there may be none.
pub(crate) fn answer(bytes: &[u8], allows: impl Fn(IpAddr) -> bool) {
    for question in QUESTIONS {
        let Some(Ok(query)) = parse_query(question) else { continue };
        for plain in [false, true] {
            // As it is, and as the body of an answer that has the right head.
            let mut headed = query.to_upstream(ID);
            let question_len = question.len();
            headed.truncate(question_len);
            if let Some((counts, body)) = bytes.split_at_checked(4) {
                headed[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, counts[0], 0, counts[1], 0, counts[2]]);
                headed.extend_from_slice(body);
            }
            for message in [bytes, &headed] {
                check(&query, message, plain, &allows);
            }
        }
    }
}

fn check(query: &Query, message: &[u8], plain: bool, allows: &impl Fn(IpAddr) -> bool) {
    let Ok(answer) = query.accept(message, ID, plain, allows) else { return };
    assert!(answer.addresses.iter().all(|(address, _)| allows(*address)));
    let mut told = query.answer(&answer, false);
    told[..2].copy_from_slice(&ID.to_be_bytes());
    let mut seen = Vec::new();
    let again = query.accept(&told, ID, plain, |address| {
        seen.push(address);
        true
    });
    assert!(again.is_ok(), "the guest is told something malformed");
    assert!(seen.into_iter().all(allows), "an address came through");
    assert!(query.answer(&answer, true).len() <= 512, "longer than a guest without EDNS takes");
}

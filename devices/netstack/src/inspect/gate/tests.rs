use super::*;
use crate::inspect::sample::{client_hello, extension, hello, records, sni};

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: api.example.com\r\n\r\n";

fn terms(port: Option<u16>) -> Terms {
    Terms { names: vec!["api.example.com".parse().unwrap()], bound: true, port, watched: false }
}

fn gate(port: Option<u16>) -> Gate {
    Gate::new(terms(port), StreamChecks::default(), Budget::default())
}

fn push(gate: &mut Gate, bytes: &[u8]) -> Result<usize, Denial> {
    gate.push(bytes, Instant::now())?;
    Ok(gate.released().len())
}

/// The verdict on a stream that is all there.
fn verdict(port: Option<u16>, stream: &[u8]) -> Result<bool, Denial> {
    let mut gate = gate(port);
    Ok(push(&mut gate, stream)? == stream.len())
}

#[test]
fn nothing_is_released_before_the_name_is_known() {
    let stream = client_hello("api.example.com");
    let mut gate = gate(Some(443));
    for byte in &stream[..stream.len() - 1] {
        assert_eq!(push(&mut gate, &[*byte]), Ok(0));
    }
    assert_eq!(push(&mut gate, &stream[stream.len() - 1..]), Ok(stream.len()));
    assert_eq!(gate.released(), stream);
    gate.sent(stream.len());
    assert!(gate.is_open());
    assert_eq!(gate.take_finding().unwrap().host.unwrap().as_str(), "api.example.com");
}

#[test]
fn tls_must_name_a_host_of_the_address() {
    let encrypted = records(&hello(&[sni("api.example.com"), extension(0xfe0d, &[0; 99])]), 999);
    assert_eq!(verdict(Some(443), &client_hello("api.example.com")), Ok(true));
    let evil = "evil.test".parse().unwrap();
    assert_eq!(verdict(Some(443), &client_hello("evil.test")), Err(Denial::Elsewhere(evil)));
    assert_eq!(verdict(Some(443), &records(&hello(&[]), 999)), Err(Denial::Nameless));
    assert_eq!(verdict(Some(443), &encrypted), Err(Denial::Encrypted));
    assert_eq!(verdict(Some(443), b"\x16\x03\x01 not TLS at all"), Err(BadHello::Malformed.into()));
    for port in [None, Some(8443)] {
        assert!(verdict(port, &client_hello("evil.test")).is_err(), "TLS is checked at every port");
    }
}

#[test]
fn switches_let_unnamed_and_encrypted_hellos_through() {
    let checks = StreamChecks { allow_unnamed_tls: true, allow_encrypted_hello: true, ..StreamChecks::default() };
    for stream in
        [records(&hello(&[]), 999), records(&hello(&[sni("api.example.com"), extension(0xfe0d, &[0; 99])]), 999)]
    {
        let mut gate = Gate::new(terms(Some(443)), checks, Budget::default());
        assert_eq!(push(&mut gate, &stream), Ok(stream.len()));
    }
    let mut gate = Gate::new(terms(Some(443)), checks, Budget::default());
    assert!(push(&mut gate, &client_hello("evil.test")).is_err());
}

#[test]
fn every_request_is_judged() {
    let mut gate = gate(Some(80));
    assert_eq!(push(&mut gate, REQUEST), Ok(REQUEST.len()));
    gate.sent(REQUEST.len());
    assert!(!gate.is_open());
    let evil = b"GET / HTTP/1.1\r\nHost: evil.test\r\n\r\n";
    assert!(matches!(push(&mut gate, evil), Err(Denial::Request(BadRequest::Elsewhere(_)))));
    assert_eq!(gate.released(), b"");
}

#[test]
fn what_is_neither_tls_nor_http_needs_a_rule_for_its_port() {
    let streams: [&[u8]; 4] = [b"SSH-2.0-x\r\n", b"\0\0\0\x08\x04\xd2\x16\x2f", b"EHLO me\r\n", b"<stream to='x'>"];
    for stream in streams {
        assert_eq!(verdict(Some(22), stream), Ok(true), "{stream:?}");
        for port in [None, Some(80), Some(443)] {
            assert_eq!(verdict(port, stream), Err(Denial::Opaque), "{stream:?}");
        }
    }
    for stream in [&b"FOO / HTTP/1.1\r\nHost: evil.test\r\n\r\n"[..], b"\r\nGET / HTTP/1.1\r\nHost: evil.test\r\n\r\n"]
    {
        assert!(matches!(verdict(Some(8080), stream), Err(Denial::Request(_))), "{stream:?}");
    }
}

#[test]
fn a_stream_that_ends_or_dawdles_is_not_let_through() {
    let start = Instant::now();
    let late = start + StreamChecks::default().patience;
    for stream in [&client_hello("api.example.com")[..20], &REQUEST[..20], &[22]] {
        let mut gate = gate(Some(443));
        gate.push(stream, start).unwrap();
        assert_eq!(gate.deadline(), Some(late));
        assert_eq!(gate.expire(start), Ok(()));
        assert_eq!(gate.expire(late), Err(Denial::TooSlow));
    }
    for stream in [&client_hello("api.example.com")[..20], &REQUEST[..20], b"GET"] {
        let mut gate = gate(Some(443));
        gate.push(stream, start).unwrap();
        assert!(gate.finish().is_err());
        assert_eq!(gate.released(), b"");
    }
    let mut silent = gate(Some(443));
    assert_eq!((silent.deadline(), silent.finish()), (None, Ok(())));
    let mut word = gate(Some(22));
    assert_eq!(push(&mut word, b"PING"), Ok(0));
    assert_eq!((word.finish(), word.released()), (Ok(()), &b"PING"[..]));
}

#[test]
fn bytes_held_back_are_bounded_over_all_streams() {
    let budget = Budget::default();
    let part = &records(&hello(&[extension(21, &[0; 60_000])]), 16_384)[..60_000];
    let mut gates = Vec::new();
    let refused = (0..1000).any(|_| {
        let mut gate = Gate::new(terms(Some(443)), StreamChecks::default(), budget.clone());
        let result = gate.push(part, Instant::now());
        gates.push(gate);
        result == Err(Denial::Crowded)
    });
    assert!(refused && gates.len() > 100);
    gates.clear();
    let mut gate = Gate::new(terms(Some(443)), StreamChecks::default(), budget);
    assert_eq!(gate.push(part, Instant::now()), Ok(()));
}

#[test]
fn a_flow_that_rests_on_no_name_is_only_watched() {
    let watched = || Gate::new(Terms { watched: true, ..Terms::default() }, StreamChecks::default(), Budget::default());
    for stream in [&b"SSH-2.0-x\r\n"[..], b"\x16\x03\x01 not TLS at all", REQUEST] {
        assert_eq!(push(&mut watched(), stream), Ok(stream.len()), "{stream:?}");
    }
    let stream = client_hello("evil.test");
    let mut gate = watched();
    assert_eq!(push(&mut gate, &stream), Ok(0));
    assert_eq!(gate.question().unwrap().server_name.as_ref().unwrap().as_str(), "evil.test");
    assert_eq!(gate.room(), 0);
    gate.open();
    assert_eq!(gate.released(), stream);
}

use proptest::prelude::*;

use super::*;

const GET: &[u8] = b"GET /index HTTP/1.1\r\nHost: api.example.com\r\n\r\n";

fn allows(name: &Name) -> bool {
    name.as_str() == "api.example.com"
}

fn push(stream: &[u8]) -> Result<Option<usize>, BadRequest> {
    RequestReader::default().push(stream, &mut allows)
}

#[test]
fn a_request_for_the_host_goes_on_once_its_head_is_whole() {
    assert_eq!(push(GET), Ok(Some(GET.len())));
    let mut reader = RequestReader::default();
    let results: Vec<_> = GET.iter().map(|byte| reader.push(&[*byte], &mut allows).unwrap()).collect();
    let (last, before) = results.split_last().unwrap();
    assert!(before.iter().all(Option::is_none));
    assert_eq!(*last, Some(1));
}

#[test]
fn every_form_of_the_same_host_is_the_same() {
    for (target, host) in [
        ("/", "API.example.com"),
        ("/", "api.example.com:8080"),
        ("*", "api.example.com."),
        ("http://api.example.com/x", "api.example.com"),
        ("HTTP://api.example.com:80?q", "api.example.com"),
    ] {
        let request = format!("OPTIONS {target} HTTP/1.1\r\nHost:{host}\t\r\n\r\n");
        assert_eq!(push(request.as_bytes()), Ok(Some(request.len())), "{target} {host}");
    }
}

#[test]
fn another_host_is_refused_however_it_is_named() {
    for (target, host) in [
        ("/", "evil.test"),
        ("/", "api.example.com.evil.test"),
        ("/", "api.example.com@evil.test"),
        ("/", "api.example.com:80@evil.test"),
        ("/", "api.example.com, evil.test"),
        ("/", "api.example.com:"),
        ("/", "93.184.216.34"),
        ("/", ""),
        ("http://evil.test/", "api.example.com"),
        ("http://api.example.com@evil.test/", "api.example.com"),
        ("http://evil.test?/api.example.com", "api.example.com"),
        ("http:///", "api.example.com"),
        ("http://api.example.com/", "evil.test"),
    ] {
        let request = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n");
        assert!(matches!(push(request.as_bytes()), Err(BadRequest::Elsewhere(_))), "{target} {host}");
    }
    assert_eq!(push(b"GET / HTTP/1.0\r\n\r\n"), Err(BadRequest::Nameless));
}

#[test]
fn every_request_of_a_connection_is_judged() {
    let evil = b"GET / HTTP/1.1\r\nHost: evil.test\r\n\r\n";
    let post = b"POST / HTTP/1.1\r\nHost: api.example.com\r\nContent-Length: 5\r\n\r\nGET /";
    let chunks = b"POST / HTTP/1.1\r\nHost: api.example.com\r\nTransfer-Encoding: chunked\r\n\r\n\
                   3;x=y\r\nabc\r\n0a\r\n0123456789\r\n0\r\nX: y\r\n\r\n";
    for first in [GET, post, chunks] {
        assert_eq!(push(&[first, GET, first].concat()), Ok(Some(first.len() * 2 + GET.len())));
        assert!(matches!(push(&[first, evil].concat()), Err(BadRequest::Elsewhere(_))));
    }
    assert_eq!(push(&[post, &GET[..10]].concat()), Ok(Some(post.len())), "the next head waits");
}

#[test]
fn what_turns_into_something_else_is_refused() {
    for (request, what) in [
        ("CONNECT evil.test:443 HTTP/1.1\r\nHost: api.example.com\r\n\r\n", "CONNECT"),
        ("connect api.example.com:443 HTTP/1.1\r\nHost: api.example.com\r\n\r\n", "CONNECT"),
        ("GET / HTTP/1.1\r\nHost: api.example.com\r\nUpgrade: websocket\r\n\r\n", "Upgrade"),
    ] {
        assert_eq!(push(request.as_bytes()), Err(BadRequest::Tunnel(what)));
    }
}

#[test]
fn what_can_be_read_in_two_ways_is_refused() {
    let fields = |text: &str| format!("GET / HTTP/1.1\r\nHost: api.example.com\r\n{text}\r\n\r\n");
    let requests = [
        "GET / HTTP/1.1\nHost: api.example.com\n\n".to_owned(),
        "GET / HTTP/1.1\r\nHost: api.example.com\r\n\n".to_owned(),
        "GET  / HTTP/1.1\r\nHost: api.example.com\r\n\r\n".to_owned(),
        "GET / HTTP/1.1 \r\nHost: api.example.com\r\n\r\n".to_owned(),
        "GET / HTTP/2.0\r\nHost: api.example.com\r\n\r\n".to_owned(),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
        "GET /\r\n".to_owned(),
        "GET evil.test HTTP/1.1\r\nHost: api.example.com\r\n\r\n".to_owned(),
        "\r\nGET / HTTP/1.1\r\nHost: api.example.com\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\n Host: api.example.com\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nHost : api.example.com\r\n\r\n".to_owned(),
        fields("Host: evil.test"),
        fields("hOST: api.example.com"),
        fields("X: y\r\n Host: evil.test"),
        fields("X: a\rHost: evil.test"),
        fields("X: a\0b"),
        fields("nonsense"),
        fields("Content-Length: 5\r\nContent-Length: 5"),
        fields("Content-Length: +5"),
        fields("Content-Length: 5, 5"),
        fields("Content-Length: 99999999999999999999"),
        fields("Content-Length: 5\r\nTransfer-Encoding: chunked"),
        fields("Transfer-Encoding: gzip, chunked"),
        fields("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"),
        fields("Transfer-Encoding: \u{b}chunked"),
        fields("Transfer-Encoding: chunked") + "xyz\r\n",
        fields("Transfer-Encoding: chunked") + "-5\r\n",
        fields("Transfer-Encoding: chunked") + "5 \r\n",
        fields("Transfer-Encoding: chunked") + "5\nabcde\r\n",
        fields("Transfer-Encoding: chunked") + "fffffffff\r\n",
        fields("Transfer-Encoding: chunked") + "3\r\nabcd\r\n",
        "GET / HTTP/1.0\r\nHost: api.example.com\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned(),
    ];
    for request in requests {
        assert!(matches!(push(request.as_bytes()), Err(BadRequest::Malformed(_))), "{request:?}");
    }
}

#[test]
fn heads_and_lines_are_bounded() {
    let mut reader = RequestReader::default();
    reader.push(b"GET / HTTP/1.1\r\n", &mut allows).unwrap();
    let line = [b"X: ".to_vec(), vec![b'a'; 1000], b"\r\n".to_vec()].concat();
    assert!((0..70).any(|_| reader.push(&line, &mut allows) == Err(BadRequest::TooLong)));
    let mut reader = RequestReader::default();
    assert!((0..70).any(|_| reader.push(&[b'a'; 1000], &mut allows) == Err(BadRequest::TooLong)));
}

proptest! {
    #[test]
    fn the_split_of_a_stream_changes_nothing(
        pieces in proptest::collection::vec(prop_oneof![
            Just(GET.to_vec()),
            Just(b"POST / HTTP/1.1\r\nHost: api.example.com\r\nContent-Length: 3\r\n\r\nabc".to_vec()),
            Just(b"GET / HTTP/1.1\r\nHost: evil.test\r\n\r\n".to_vec()),
            proptest::collection::vec(any::<u8>(), 0..20),
        ], 0..5),
        size in 1usize..40,
    ) {
        let stream = pieces.concat();
        let whole = push(&stream);
        let mut reader = RequestReader::default();
        let mut approved = None;
        let mut at = 0;
        let mut failed = None;
        for chunk in stream.chunks(size) {
            match reader.push(chunk, &mut allows) {
                Ok(part) => approved = part.map(|part| at + part).or(approved),
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
            at += chunk.len();
        }
        match whole {
            Ok(count) => prop_assert_eq!((approved, failed), (count, None)),
            Err(error) => prop_assert_eq!(failed, Some(error)),
        }
    }
}

use proptest::prelude::*;

use super::*;
use crate::inspect::sample::{extension, hello, records, sni};

fn read(stream: &[u8]) -> Result<Option<ClientHello>, BadHello> {
    HelloReader::default().push(stream)
}

fn named(name: &str) -> Vec<u8> {
    hello(&[sni(name)])
}

#[test]
fn the_name_is_read_whatever_the_split() {
    let message = hello(&[sni("API.example.com"), extension(16, b"\0\x0c\x02h2\x08http/1.1")]);
    let expected = ClientHello {
        server_name: Some("api.example.com".parse().unwrap()),
        encrypted: false,
        protocols: vec![b"h2".to_vec(), b"http/1.1".to_vec()],
    };
    for record in [1, 2, 5, 100, 16_384] {
        let stream = records(&message, record);
        assert_eq!(read(&stream), Ok(Some(expected.clone())), "records of {record}");
        let mut reader = HelloReader::default();
        let results: Vec<_> = stream.iter().map(|byte| reader.push(&[*byte])).collect();
        let (last, before) = results.split_last().unwrap();
        assert!(before.iter().all(|result| *result == Ok(None)));
        assert_eq!(*last, Ok(Some(expected.clone())));
    }
}

#[test]
fn a_hello_may_be_long_but_not_longer() {
    let padded = |len: usize| hello(&[sni("api.example.com"), extension(21, &vec![0; len])]);
    assert!(read(&records(&padded(2000), 1200)).unwrap().is_some());
    assert!(read(&records(&padded(65_000), 16_384)).unwrap().is_some());
    let mut message = padded(2000);
    message[1..4].copy_from_slice(&[1, 0, 1]);
    assert_eq!(read(&records(&message, 16_384)), Err(BadHello::TooLong));
    let crumbs = records(&padded(60_000), 1);
    assert_eq!(read(&crumbs), Err(BadHello::TooLong), "a flood of tiny records");
}

#[test]
fn an_encrypted_hello_is_seen() {
    for kind in [0xfe0d, 0xffce] {
        let hello = read(&records(&hello(&[sni("api.example.com"), extension(kind, &[0; 40])]), 999)).unwrap().unwrap();
        assert!(hello.encrypted);
    }
}

#[test]
fn no_name_is_no_error() {
    assert_eq!(read(&records(&hello(&[]), 999)).unwrap().unwrap().server_name, None);
}

#[test]
fn a_hello_that_could_be_read_in_two_ways_is_refused() {
    let good = named("api.example.com");
    let list = |bytes: &[u8]| hello(&[extension(0, bytes)]);
    let two_in_list = [&[0, 14, 0, 0, 4][..], b"a.ex", &[0, 0, 4], b"b.ex"].concat();
    for (what, stream) in [
        ("two extensions", records(&hello(&[sni("a.example"), sni("b.example")]), 999)),
        ("two names", records(&list(&two_in_list), 999)),
        ("another kind of name", records(&list(&[0, 7, 1, 0, 4, b'a', b'.', b'e', b'x']), 999)),
        ("nothing in the list", records(&list(&[0, 0]), 999)),
        ("another message", records(&[&[2][..], &good[1..]].concat(), 999)),
        ("more in the record", records(&[&good[..], b"x"].concat(), 9999)),
        ("an empty record", [&[22, 3, 1, 0, 0][..], &records(&good, 999)].concat()),
        ("a long record", [&[22, 3, 1, 0x40, 1][..], &good].concat()),
        ("another record between", [&records(&good, 20)[..25], &[20, 3, 3, 0, 1, 1][..]].concat()),
        ("another version", [&[22, 2, 1][..], &records(&good, 999)[3..]].concat()),
        ("application data", [&[23][..], &records(&good, 999)[1..]].concat()),
    ] {
        assert_eq!(read(&stream), Err(BadHello::Malformed), "{what}");
    }
    for name in ["api.example.com\0.evil.test", "1.2.3.4", "", "a b"] {
        let result = read(&records(&named(name), 999));
        assert!(matches!(result, Err(BadHello::Name(_))), "{name:?}: {result:?}");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_a_hello_or_not(bytes in proptest::collection::vec(any::<u8>(), 0..300), tail: bool) {
        let stream = if tail { [&[22, 3, 1, 1, 0, 1, 0, 0, 252, 3, 3][..], &bytes].concat() } else { bytes };
        let whole = read(&stream);
        let mut reader = HelloReader::default();
        let pieces = stream.iter().map(|byte| reader.push(&[*byte])).find(|result| *result != Ok(None));
        // What one read says of bytes that came at once, the other says as soon as it can.
        prop_assert_eq!(whole.is_ok_and(|hello| hello.is_some()), matches!(pieces, Some(Ok(Some(_)))));
    }

    #[test]
    fn damage_never_changes_the_name_unnoticed(at in 0usize..200, bits in 1u8..) {
        let mut stream = records(&named("api.example.com"), 9999);
        let at = at % stream.len();
        stream[at] ^= bits;
        if let Ok(Some(ClientHello { server_name: Some(name), .. })) = read(&stream) {
            let original = named("api.example.com");
            let inside_name = stream.len() - at <= 15 && original.len() > 15;
            prop_assert!(inside_name || name.as_str() == "api.example.com", "{}", name);
        }
    }
}

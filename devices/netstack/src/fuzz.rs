//! What the fuzz targets drive: each function takes any bytes and panics when a promise is broken.

use std::net::IpAddr;
use std::time::Instant;

use policy::{Class, Name};

use crate::dns::fuzz as dns;
use crate::inspect::{Budget, Gate, StreamChecks, Terms};

/// The name that flows rest on.
const NAME: &str = "api.example.com";

/// A DNS message as a guest and as a resolver could send it.
pub fn dns_message(bytes: &[u8]) {
    let public = |address: IpAddr| Class::of(address) == Class::Public;
    dns::question(bytes);
    dns::answer(bytes, public);
}

/// The first bytes of a stream, in pieces whose size the first byte gives: however they are cut, the verdict is the
/// same, and what is let through is what was sent.
pub fn client_hello(bytes: &[u8]) {
    let Some((&size, stream)) = bytes.split_first() else { return };
    for port in [None, Some(443), Some(22)] {
        let whole = through_gate(stream, stream.len().max(1), port);
        let pieces = through_gate(stream, usize::from(size).max(1), port);
        assert_eq!(whole.is_some(), pieces.is_some(), "the split changed the verdict");
        for passed in [&whole, &pieces].into_iter().flatten() {
            assert!(stream.starts_with(passed), "bytes were changed");
        }
        assert_eq!(whole, pieces, "the split changed what passed");
    }
}

/// What the gate lets through of a stream that it does not deny.
fn through_gate(stream: &[u8], size: usize, port: Option<u16>) -> Option<Vec<u8>> {
    let names: Vec<Name> = NAME.parse().into_iter().collect();
    let terms = Terms { names, bound: true, port, watched: false };
    let mut gate = Gate::new(terms, StreamChecks::default(), Budget::default());
    let now = Instant::now();
    let mut passed = Vec::new();
    for piece in stream.chunks(size) {
        gate.push(piece, now).ok()?;
        passed.extend_from_slice(gate.released());
        let count = gate.released().len();
        gate.sent(count);
    }
    Some(passed)
}

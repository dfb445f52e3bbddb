//! Streams as clients send them, for tests.

pub(crate) fn extension(kind: u16, data: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &len(data), data].concat()
}

pub(crate) fn sni(name: &str) -> Vec<u8> {
    let entry = [&[0][..], &len(name.as_bytes()), name.as_bytes()].concat();
    extension(0, &[&len(&entry)[..], &entry].concat())
}

/// The handshake message.
pub(crate) fn hello(extensions: &[Vec<u8>]) -> Vec<u8> {
    let extensions = extensions.concat();
    let head = [&[3, 3][..], &[7; 32], &[32], &[9; 32], &[0, 4, 0x13, 1, 0x13, 2], &[1, 0]].concat();
    let body = [&head[..], &len(&extensions), &extensions].concat();
    let size = u32::try_from(body.len()).unwrap().to_be_bytes();
    [&[1][..], &size[1..], &body].concat()
}

/// A message in records of at most so many bytes.
pub(crate) fn records(message: &[u8], size: usize) -> Vec<u8> {
    message.chunks(size).flat_map(|part| [&[22, 3, 1][..], &len(part), part].concat()).collect()
}

/// The first flight of a client that names `name`.
pub(crate) fn client_hello(name: &str) -> Vec<u8> {
    records(&hello(&[sni(name)]), 16_384)
}

fn len(data: &[u8]) -> [u8; 2] {
    u16::try_from(data.len()).unwrap().to_be_bytes()
}

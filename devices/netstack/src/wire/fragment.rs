//! Packets that are longer than the link takes, cut up for the guest.

const IPV4: usize = 20;
const IPV6: usize = 40;
const FRAGMENT_HEADER: usize = 8;
const FRAGMENT: u8 = 44;
const MORE_FRAGMENTS: u16 = 0x2000;

/// Cuts a finished packet without options or extension headers into packets of at most `mtu` bytes.
pub(crate) fn fragments(packet: &[u8], mtu: usize) -> Vec<Vec<u8>> {
    let is_ipv4 = packet.first().is_some_and(|first| first >> 4 == 4);
    let header_len = if is_ipv4 { IPV4 } else { IPV6 };
    let Some((header, body)) = packet.split_at_checked(header_len) else { return Vec::new() };
    let room = mtu.saturating_sub(header_len + if is_ipv4 { 0 } else { FRAGMENT_HEADER }) / 8 * 8;
    let mut identification = [0; 4];
    // Guessable ones would let a remote server forge the rest of another's datagram (RFC 7739).
    let random = rustix::rand::getrandom(&mut identification, rustix::rand::GetRandomFlags::empty());
    if room == 0 || random.is_err() {
        return Vec::new();
    }
    let count = body.len().div_ceil(room);
    let cut = |(index, piece): (usize, &[u8])| {
        let offset = u16::try_from(index * room).unwrap_or(u16::MAX);
        let more = index + 1 < count;
        if is_ipv4 {
            ipv4(header, identification, offset, more, piece)
        } else {
            ipv6(header, identification, offset, more, piece)
        }
    };
    body.chunks(room).enumerate().map(cut).collect()
}

fn ipv4(header: &[u8], identification: [u8; 4], offset: u16, more: bool, piece: &[u8]) -> Vec<u8> {
    let mut packet = [header, piece].concat();
    let len = u16::try_from(packet.len()).unwrap_or(0).to_be_bytes();
    let position = ((offset / 8) | if more { MORE_FRAGMENTS } else { 0 }).to_be_bytes();
    if let Some(header) = packet.first_chunk_mut::<IPV4>() {
        header[2..4].copy_from_slice(&len);
        header[4..6].copy_from_slice(&identification[..2]);
        header[6..8].copy_from_slice(&position);
        header[10..12].fill(0);
        let sum = super::checksum::internet(header).to_be_bytes();
        header[10..12].copy_from_slice(&sum);
    }
    packet
}

fn ipv6(header: &[u8], identification: [u8; 4], offset: u16, more: bool, piece: &[u8]) -> Vec<u8> {
    let protocol = header.get(6).copied().unwrap_or(0);
    let [at0, at1] = (offset | u16::from(more)).to_be_bytes();
    let [i0, i1, i2, i3] = identification;
    let fragment = [protocol, 0, at0, at1, i0, i1, i2, i3];
    let mut packet = [header, &fragment, piece].concat();
    let len = u16::try_from(FRAGMENT_HEADER + piece.len()).unwrap_or(0).to_be_bytes();
    if let Some(header) = packet.first_chunk_mut::<IPV6>() {
        header[4..6].copy_from_slice(&len);
        header[6] = FRAGMENT;
    }
    packet
}

//! UDP datagrams for the guest.

use std::net::SocketAddr;

use super::{UDP, checksum, header_len, write_ip};

pub(crate) const UDP_HEADER: usize = 8;

/// A finished packet with `message`.
pub(crate) fn datagram(from: SocketAddr, to: SocketAddr, message: &[u8]) -> Vec<u8> {
    let mut packet = vec![0; header_len(to.ip()) + UDP_HEADER + message.len()];
    write_datagram(&mut packet, from, to, message);
    if let Some(transport) = checksum::transport(&packet) {
        checksum::fill(&mut packet, &transport);
    }
    packet
}

/// Writes a packet with `message`, all but its checksum.
pub(crate) fn write_datagram(packet: &mut [u8], from: SocketAddr, to: SocketAddr, message: &[u8]) {
    let body = write_ip(packet, from.ip(), to.ip(), UDP);
    let len = u16::try_from(body.len()).unwrap_or(0).to_be_bytes();
    if let Some((head, rest)) = body.split_first_chunk_mut::<UDP_HEADER>()
        && rest.len() == message.len()
    {
        let ([f0, f1], [t0, t1], [l0, l1]) = (from.port().to_be_bytes(), to.port().to_be_bytes(), len);
        *head = [f0, f1, t0, t1, l0, l1, 0, 0];
        rest.copy_from_slice(message);
    }
}

//! TCP, UDP and ICMPv6 checksums over a whole IP packet.

use smoltcp::wire::checksum as sum;

use super::{ICMPV6, TCP, UDP};

/// Where the transport header of an IP packet lies, and its checksum in it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Transport {
    pub(crate) version: u8,
    pub(crate) protocol: u8,
    /// Offset of the transport header in the packet.
    pub(crate) start: usize,
    /// Offset of the checksum in the transport header.
    pub(crate) field: usize,
}

/// Finds the transport header of a packet without options or extension headers of ours to care about; protocols whose
/// checksum needs no help have `field` 0 and are left alone.
pub(crate) fn transport(packet: &[u8]) -> Option<Transport> {
    let first = *packet.first()?;
    let (version, start, protocol) = match first >> 4 {
        4 => (4, usize::from(first & 0x0f) * 4, *packet.get(9)?),
        6 => (6, 40, *packet.get(6)?),
        _ => return None,
    };
    let field = match protocol {
        TCP => 16,
        UDP => 6,
        _ => 0,
    };
    Some(Transport { version, protocol, start, field })
}

/// The sum of the pseudo-header of a packet of `len` bytes that begins with `packet` (RFC 9293, 3.1; RFC 8200, 8.1).
fn pseudo_header(packet: &[u8], len: usize, transport: &Transport) -> u16 {
    let addresses = match transport.version {
        4 => packet.get(12..20),
        _ => packet.get(8..40),
    };
    let len = len.saturating_sub(transport.start);
    let len = u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes();
    sum::combine(&[sum::data(addresses.unwrap_or_default()), sum::data(&len), u16::from(transport.protocol)])
}

fn write(packet: &mut [u8], transport: &Transport, value: u16) {
    let at = transport.start + transport.field;
    if let Some(field) = packet.get_mut(at..at + 2) {
        field.copy_from_slice(&value.to_be_bytes());
    }
}

/// Leaves the rest of the work to whoever has the frame next. `packet` is the beginning of a packet of `len` bytes.
pub(crate) fn write_pseudo_header(packet: &mut [u8], len: usize, transport: &Transport) {
    if transport.field != 0 {
        let value = pseudo_header(packet, len, transport);
        write(packet, transport, value);
    }
}

/// Writes the finished checksum.
pub(crate) fn fill(packet: &mut [u8], transport: &Transport) {
    if transport.field == 0 {
        return;
    }
    write(packet, transport, 0);
    let body = sum::data(packet.get(transport.start..).unwrap_or_default());
    let value = !sum::combine(&[pseudo_header(packet, packet.len(), transport), body]);
    // Zero would mean that there is none (RFC 768).
    let value = if transport.protocol == UDP && value == 0 { 0xffff } else { value };
    write(packet, transport, value);
}

/// Whether the checksum of a TCP, UDP or ICMPv6 packet is right.
pub(crate) fn is_right(packet: &[u8], transport: &Transport) -> bool {
    let body = packet.get(transport.start..).unwrap_or_default();
    match transport.protocol {
        // UDP over IPv4 may go without.
        UDP if transport.version == 4 && body.get(6..8) == Some(&[0, 0]) => true,
        TCP | UDP | ICMPV6 => {
            sum::combine(&[pseudo_header(packet, packet.len(), transport), sum::data(body)]) == 0xffff
        }
        _ => true,
    }
}

/// The ICMPv6 checksum of `body` between two addresses, its own field being zero.
pub(crate) fn icmpv6(addresses: &[u8; 32], body: &[u8]) -> u16 {
    let len = u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes();
    !sum::combine(&[sum::data(addresses), sum::data(&len), u16::from(ICMPV6), sum::data(body)])
}

/// The plain Internet checksum.
pub(crate) fn internet(data: &[u8]) -> u16 {
    !sum::data(data)
}

/// Length of the TCP header, options included.
pub(crate) fn tcp_header_len(packet: &[u8], transport: &Transport) -> usize {
    packet.get(transport.start + 12).map_or(0, |offset| usize::from(offset >> 4) * 4)
}

//! Frames to the guest.

use std::io;

use virtio::Writer;
use virtio::frame::{FrameHeader, MAX_FRAME, Offloads, PartialChecksum, Port, SegmentKind, Segmentation, Unsent};

use crate::config::Addresses;
use crate::wire::{ETHERNET, ETHERTYPE_IPV4, ETHERTYPE_IPV6, checksum, fragments};

/// The guest's card, with the place where frames for it are built.
///
/// While any of them wait for the guest, the gateway takes nothing from it and asks no flow for data, so that the
/// backlog stays at what one frame from the guest can cause.
#[derive(Debug)]
pub(crate) struct Uplink {
    /// The card's, during a turn.
    port: Port,
    /// Where frames are built: Ethernet header first, the rest over and over.
    frame: Box<[u8]>,
}

/// An IP packet where frames are built.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Built {
    /// Its length.
    pub(crate) len: usize,
    /// For a large segment: the size of the pieces that it is to be cut into.
    pub(crate) segment: Option<u16>,
}

impl Uplink {
    pub(crate) fn new(addresses: &Addresses) -> Self {
        let mut frame = vec![0; MAX_FRAME].into_boxed_slice();
        if let Some((ethernet, _)) = frame.split_first_chunk_mut::<ETHERNET>() {
            let (destination, rest) = ethernet.split_at_mut(6);
            destination.copy_from_slice(&addresses.guest_mac);
            if let Some((source, _)) = rest.split_first_chunk_mut::<6>() {
                *source = addresses.gateway_mac;
            }
        }
        Self { port: Port::default(), frame }
    }

    /// Takes the card's port for a turn, or gives it back after one.
    pub(crate) fn swap(&mut self, port: &mut Port) {
        std::mem::swap(&mut self.port, port);
    }

    /// What the guest takes unfinished.
    pub(crate) fn offloads(&self) -> Offloads {
        self.port.offloads()
    }

    /// Whether frames wait for the guest.
    pub(crate) fn is_blocked(&self) -> bool {
        self.port.is_blocked()
    }

    /// Whether the guest sent frames that were not looked at yet.
    pub(crate) fn has_frames(&self) -> bool {
        self.port.has_frames()
    }

    /// The next frame from the guest.
    pub(crate) fn recv(&mut self, buffer: &mut [u8]) -> Option<(FrameHeader, usize)> {
        self.port.recv(buffer)
    }

    /// Sends a frame that is finished but for its Ethernet header.
    pub(crate) fn send_other(&mut self, ethertype: u16, payload: &[u8]) {
        let Some(space) = self.frame.get_mut(ETHERNET..ETHERNET + payload.len()) else { return };
        space.copy_from_slice(payload);
        self.send_frame(ethertype, payload.len(), FrameHeader::default());
    }

    /// Sends a finished IP packet, in fragments if it is longer than `mtu`.
    pub(crate) fn send_packet(&mut self, packet: &[u8], mtu: u16) {
        let ethertype =
            if packet.first().is_some_and(|first| first >> 4 == 4) { ETHERTYPE_IPV4 } else { ETHERTYPE_IPV6 };
        if packet.len() <= usize::from(mtu) {
            return self.send_other(ethertype, packet);
        }
        for fragment in fragments(packet, mtu.into()) {
            self.send_other(ethertype, &fragment);
        }
    }

    /// Sends an IP packet of `len` bytes that `build` writes, all but its TCP or UDP checksum. With `segment` it is a
    /// large segment to be cut into pieces of that size.
    pub(crate) fn send_ip<R>(&mut self, len: usize, segment: Option<u16>, build: impl FnOnce(&mut [u8]) -> R) -> R {
        // Callers are bounded by the MTU; should one not be, its packet is built where it harms nobody.
        let Some(packet) = self.frame.get_mut(ETHERNET..ETHERNET.saturating_add(len)) else {
            return build(&mut vec![0; len]);
        };
        let result = build(packet);
        self.send_built(Built { len, segment });
        result
    }

    /// Sends the IP packet that `build` writes, all but its TCP or UDP checksum, into a space of `space` bytes. There
    /// is none if it gives none.
    pub(crate) fn send_if(&mut self, space: usize, build: impl FnOnce(&mut [u8]) -> Option<Built>) {
        let built = self.frame.get_mut(ETHERNET..ETHERNET.saturating_add(space)).and_then(build);
        if let Some(built) = built {
            self.send_built(built);
        }
    }

    /// Sends a TCP segment with `headers` bytes of headers and at most `most` bytes of payload, which `fill` writes
    /// into the guest's memory. `build` writes the headers when it is known how many there are, and gives the size of
    /// the pieces that a large segment is to be cut into. For guests that finish checksums.
    pub(crate) fn send_filled(
        &mut self,
        headers: usize,
        most: usize,
        fill: impl FnOnce(&mut Writer<'_>) -> io::Result<()>,
        build: impl FnOnce(&mut [u8], usize) -> Option<u16>,
    ) -> Result<usize, Unsent> {
        let offloads = self.port.offloads();
        let Some(head) = self.frame.get_mut(..ETHERNET + headers) else { return Err(Unsent::Never) };
        self.port.send_filled(head, most, fill, |head, count| {
            let Some(packet) = head.get_mut(ETHERNET..) else { return FrameHeader::default() };
            let segment = build(packet, count);
            let header = finish(packet, Built { len: headers + count, segment }, offloads);
            write_ethertype(head);
            header.unwrap_or_default()
        })
    }

    /// Finishes and sends the packet in `frame`.
    fn send_built(&mut self, built: Built) {
        let offloads = self.port.offloads();
        let Some(frame) = self.frame.get_mut(..ETHERNET.saturating_add(built.len)) else { return };
        let Some(header) = frame.get_mut(ETHERNET..).and_then(|packet| finish(packet, built, offloads)) else { return };
        write_ethertype(frame);
        self.port.send(&header, frame);
    }

    fn send_frame(&mut self, ethertype: u16, len: usize, header: FrameHeader) {
        let Some(frame) = self.frame.get_mut(..ETHERNET + len) else { return };
        if let Some(kind) = frame.get_mut(12..14) {
            kind.copy_from_slice(&ethertype.to_be_bytes());
        }
        self.port.send(&header, frame);
    }
}

/// Finishes the beginning of an IP packet, all headers at least, as far as the guest does not do it; nothing when the
/// guest cannot take it at all.
fn finish(packet: &mut [u8], built: Built, offloads: Offloads) -> Option<FrameHeader> {
    let transport = checksum::transport(packet)?;
    let header_len = ETHERNET + transport.start;
    let mut header = FrameHeader::default();
    if transport.field == 0 {
        // ICMP comes finished.
    } else if offloads.checksum
        && let (Ok(start), Ok(offset)) = (u16::try_from(header_len), u16::try_from(transport.field))
    {
        checksum::write_pseudo_header(packet, built.len, &transport);
        header.checksum = Some(PartialChecksum { start, offset });
    } else {
        checksum::fill(packet, &transport);
    }
    if let Some(size) = built.segment {
        let (kind, allowed) = match transport.version {
            4 => (SegmentKind::Tcp4, offloads.tcp4_segments),
            _ => (SegmentKind::Tcp6, offloads.tcp6_segments),
        };
        if !allowed {
            tracing::debug!("Large segment for a guest that no longer takes any");
            return None;
        }
        header.segmentation = Some(Segmentation { kind, size });
        header.header_len = u16::try_from(header_len + checksum::tcp_header_len(packet, &transport)).unwrap_or(0);
    }
    Some(header)
}

/// Says in the Ethernet header which kind of IP packet is behind it.
fn write_ethertype(frame: &mut [u8]) {
    let is_v4 = frame.get(ETHERNET).is_some_and(|first| first >> 4 == 4);
    let ethertype = if is_v4 { ETHERTYPE_IPV4 } else { ETHERTYPE_IPV6 };
    if let Some(kind) = frame.get_mut(12..14) {
        kind.copy_from_slice(&ethertype.to_be_bytes());
    }
}

//! Fragments put together again before anything about them is judged.
//!
//! Bounded in packets, pieces, bytes and time. Pieces that overlap end their packet (RFC 5722, also for IPv4, where the
//! ways to resolve an overlap are what attacks are made of); so do pieces beyond the end. An exact repetition is
//! ignored (RFC 8200, 4.5). A packet that was ended stays known until its time is over, lest the rest of it forms
//! another one.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::config::Addresses;
use crate::wire::{Piece, PieceKey, Special, Unusable, parse_special, plain};

/// Packets in the making.
const MAX_PACKETS: usize = 16;
/// Pieces of one packet: of the longest one on a link with the smallest MTU of IPv6, twice.
const MAX_PIECES: usize = 128;
/// Longest content of a packet.
const MAX_LEN: usize = 65_535;
/// How long pieces may be under way.
const PATIENCE: Duration = Duration::from_secs(30);
/// Each fragmented packet may hold another special one; nobody means that.
const MAX_LAYERS: usize = 2;

#[derive(Debug)]
struct Packet {
    key: PieceKey,
    began: Instant,
    /// Content by offset; none once the packet was ended.
    pieces: Option<BTreeMap<usize, Vec<u8>>>,
    /// Length of the whole, once the last piece is there.
    len: Option<usize>,
    protocol: u8,
}

/// A packet made plain.
#[derive(Debug)]
pub(crate) struct Plain {
    pub(crate) bytes: Vec<u8>,
    /// It came in pieces: nobody vouches for its checksum.
    pub(crate) was_cut: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Reassembly {
    /// Oldest first.
    packets: Vec<Packet>,
}

impl Reassembly {
    /// Takes a packet with something special about it; gives what can be judged, unless pieces are missing.
    pub(crate) fn take(
        &mut self,
        now: Instant,
        bytes: &[u8],
        addresses: &Addresses,
    ) -> Result<Option<Plain>, Unusable> {
        let mut whole = match parse_special(bytes)? {
            Special::Whole(bytes) => return Ok(Some(Plain { bytes, was_cut: false })),
            Special::Piece(piece) if !addresses.is_guest(piece.key.source) => return Err(Unusable::Source),
            Special::Piece(piece) => match self.add(now, &piece)? {
                Some(bytes) => bytes,
                None => return Ok(None),
            },
        };
        for _ in 0..MAX_LAYERS {
            match parse_special(&whole)? {
                Special::Whole(bytes) if bytes == whole => return Ok(Some(Plain { bytes, was_cut: true })),
                Special::Whole(bytes) => whole = bytes,
                Special::Piece(_) => return Err(Unusable::Options),
            }
        }
        Err(Unusable::Options)
    }

    fn add(&mut self, now: Instant, piece: &Piece<'_>) -> Result<Option<Vec<u8>>, Unusable> {
        self.packets.retain(|packet| now.saturating_duration_since(packet.began) < PATIENCE);
        let at = match self.packets.iter().position(|packet| packet.key == piece.key) {
            Some(at) => at,
            None => {
                if self.packets.len() >= MAX_PACKETS {
                    self.packets.remove(0);
                }
                let pieces = Some(BTreeMap::new());
                self.packets.push(Packet { key: piece.key, began: now, pieces, len: None, protocol: piece.protocol });
                self.packets.len() - 1
            }
        };
        let Some(packet) = self.packets.get_mut(at) else { return Ok(None) };
        match packet.add(piece) {
            Ok(false) => Ok(None),
            Ok(true) => {
                let Packet { key, pieces, protocol, .. } = self.packets.remove(at);
                let payload = pieces.unwrap_or_default().into_values().collect::<Vec<_>>().concat();
                Ok(Some(plain(key.source, key.destination, protocol, &payload)))
            }
            Err(why) => {
                packet.pieces = None;
                Err(why)
            }
        }
    }
}

impl Packet {
    /// Adds a piece; true when it was the last one missing.
    fn add(&mut self, piece: &Piece<'_>) -> Result<bool, Unusable> {
        let pieces = self.pieces.as_mut().ok_or(Unusable::Fragment)?;
        let end = piece.offset + piece.payload.len();
        if piece.payload.is_empty() || (piece.more && !piece.payload.len().is_multiple_of(8)) || end > MAX_LEN {
            return Err(Unusable::Fragment);
        }
        if pieces.get(&piece.offset).is_some_and(|known| known.as_slice() == piece.payload) {
            return Ok(false);
        }
        let before = pieces.range(..=piece.offset).next_back().map(|(start, known)| start + known.len());
        let after = pieces.range(piece.offset..).next().map(|(start, _)| *start);
        if before.is_some_and(|before| before > piece.offset) || after.is_some_and(|after| after < end) {
            return Err(Unusable::Overlap);
        }
        let last = pieces.last_key_value().map_or(0, |(start, known)| start + known.len());
        let len = if piece.more { self.len } else { Some(end) };
        let contradicts =
            self.len.is_some_and(|known| len != Some(known)) || len.is_some_and(|len| len < end.max(last));
        if contradicts || pieces.len() >= MAX_PIECES {
            return Err(Unusable::Fragment);
        }
        if piece.offset == 0 {
            self.protocol = piece.protocol;
        }
        self.len = len;
        pieces.insert(piece.offset, piece.payload.to_vec());
        Ok(Some(pieces.values().map(Vec::len).sum()) == self.len)
    }
}

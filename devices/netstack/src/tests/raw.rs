//! A guest's TCP by hand: every field is what the test says, and nothing is sent that it does not send.

use std::net::SocketAddr;
use std::time::Duration;

use super::PATIENCE;
use super::guest::{ACK, Guest, SYN, packet};
use crate::wire::{TCP, parse_ip};

/// MSS 65480, window scale 7.
pub(crate) const SCALED: &[u8] = &[2, 4, 0xff, 0xc8, 1, 3, 3, 7];

/// One connection of the guest, as far as it has got.
#[derive(Debug, Clone)]
pub(crate) struct Raw {
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    /// What the guest sends next, and expects next.
    pub(crate) next: u32,
    pub(crate) expected: u32,
    pub(crate) window: u16,
}

/// What the gateway sent on a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) flags: u8,
    pub(crate) sequence: u32,
    pub(crate) acknowledgment: u32,
    pub(crate) window: u16,
    pub(crate) options: Vec<u8>,
    pub(crate) data: Vec<u8>,
}

impl Answer {
    pub(crate) fn has(&self, flags: u8) -> bool {
        self.flags & flags == flags
    }
}

impl Raw {
    /// A connection whose SYN is still to be sent.
    pub(crate) fn new(guest: &Guest, port: u16, to: &str, first: u32) -> Self {
        let to: SocketAddr = to.parse().unwrap();
        let from = SocketAddr::new(guest.own(to.ip()), port);
        Self { from, to, next: first, expected: 0, window: u16::MAX }
    }

    /// Shakes hands; gives the connection and what its SYN was answered with.
    pub(crate) fn open(guest: &mut Guest, port: u16, to: &str, first: u32, options: &[u8]) -> (Self, Answer) {
        let mut raw = Self::new(guest, port, to, first);
        raw.send_with(guest, SYN, raw.next, options, &[]);
        let answer = raw.expect(guest);
        assert!(answer.has(SYN | ACK), "{answer:?}");
        assert_eq!(answer.acknowledgment, first.wrapping_add(1));
        raw.next = answer.acknowledgment;
        raw.expected = answer.sequence.wrapping_add(1);
        raw.send(guest, ACK, &[]);
        (raw, answer)
    }

    /// Sends a segment that stands where the connection is.
    pub(crate) fn send(&self, guest: &Guest, flags: u8, data: &[u8]) {
        self.send_with(guest, flags, self.next, &[], data);
    }

    /// Sends data and moves on.
    pub(crate) fn write(&mut self, guest: &Guest, data: &[u8]) {
        self.send(guest, ACK, data);
        self.next = self.next.wrapping_add(u32::try_from(data.len()).unwrap());
    }

    pub(crate) fn send_with(&self, guest: &Guest, flags: u8, sequence: u32, options: &[u8], data: &[u8]) {
        let words = u8::try_from(5 + options.len() / 4).unwrap();
        let acknowledgment = if flags & ACK == 0 { 0 } else { self.expected };
        let mut segment = [self.from.port().to_be_bytes(), self.to.port().to_be_bytes()].concat();
        segment.extend_from_slice(&sequence.to_be_bytes());
        segment.extend_from_slice(&acknowledgment.to_be_bytes());
        segment.extend_from_slice(&[words << 4, flags]);
        segment.extend_from_slice(&self.window.to_be_bytes());
        segment.extend_from_slice(&[0; 4]);
        segment.extend_from_slice(options);
        segment.extend_from_slice(data);
        guest.send_ip(&packet(self.from.ip(), self.to.ip(), TCP, &segment));
    }

    /// The next segment of the connection, or none after a while.
    pub(crate) fn receive(&self, guest: &mut Guest, within: Duration) -> Option<Answer> {
        let bytes = guest.receive_packet(within)?;
        let packet = parse_ip(&bytes, false).unwrap();
        let tcp = packet.payload;
        let word = |at: usize| u32::from_be_bytes(tcp[at..at + 4].try_into().unwrap());
        let half = |at: usize| u16::from_be_bytes(tcp[at..at + 2].try_into().unwrap());
        assert_eq!((packet.protocol, half(0), half(2)), (TCP, self.to.port(), self.from.port()));
        let header = usize::from(tcp[12] >> 4) * 4;
        Some(Answer {
            flags: tcp[13],
            sequence: word(4),
            acknowledgment: word(8),
            window: half(14),
            options: tcp[20..header].to_vec(),
            data: tcp[header..].to_vec(),
        })
    }

    pub(crate) fn expect(&self, guest: &mut Guest) -> Answer {
        self.receive(guest, PATIENCE).expect("an answer")
    }

    /// The next segment that brings data or a control bit; others only acknowledge.
    pub(crate) fn expect_more(&self, guest: &mut Guest) -> Answer {
        loop {
            let answer = self.expect(guest);
            if !answer.data.is_empty() || answer.flags & !(ACK | 8) != 0 {
                return answer;
            }
        }
    }

    /// Reads so many bytes from where the connection is, whatever comes twice, and acknowledges each frame.
    pub(crate) fn read(&mut self, guest: &mut Guest, count: usize) -> Vec<u8> {
        let mut data = Vec::new();
        while data.len() < count {
            let answer = self.expect(guest);
            let old = usize::try_from(self.expected.wrapping_sub(answer.sequence)).unwrap();
            if let Some(fresh) = answer.data.get(old..).filter(|fresh| !fresh.is_empty()) {
                data.extend_from_slice(fresh);
                self.expected = self.expected.wrapping_add(u32::try_from(fresh.len()).unwrap());
                self.send(guest, ACK, &[]);
            }
        }
        assert_eq!(data.len(), count);
        data
    }
}

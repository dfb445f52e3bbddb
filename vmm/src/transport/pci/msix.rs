//! MSI-X (PCI Local Bus 3.0, 6.8.2): a table of messages, each with a mask, and a bit for each that waits behind it.

use std::io;

use crate::transport::{Message, Vector};

/// PCI capability id.
pub(crate) const CAPABILITY: u8 = 0x11;
/// Bytes of one table entry: address, data, vector control.
const ENTRY_SIZE: u64 = 16;
/// Message control: enable and function mask, in the register's second byte.
const ENABLE: u8 = 1 << 7;
const FUNCTION_MASK: u8 = 1 << 6;
/// Vector control: mask.
const MASKED: u32 = 1;

/// Where table and pending bits lie in BAR 0.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub(crate) table: u32,
    pub(crate) pending: u32,
}

/// The capability behind its head for `count` vectors, and the bits of it that may be written.
pub(crate) fn capability(count: u16, place: Place) -> ([u8; 10], [u8; 2]) {
    let mut body = [0; 10];
    let fields =
        (count - 1).to_le_bytes().into_iter().chain(place.table.to_le_bytes()).chain(place.pending.to_le_bytes());
    body.iter_mut().zip(fields).for_each(|(byte, value)| *byte = value);
    (body, [0, ENABLE | FUNCTION_MASK])
}

/// One vector and its entry.
#[derive(Debug)]
struct Entry {
    message: Message,
    masked: bool,
    /// Wanted to be sent while it could not be.
    pending: bool,
    /// What `vector` was last programmed with.
    programmed: Option<Message>,
    vector: Box<dyn Vector>,
}

/// The table, and whether it is in force.
#[derive(Debug)]
pub(crate) struct Msix {
    entries: Vec<Entry>,
    enabled: bool,
    function_masked: bool,
}

impl Msix {
    /// A table of `vectors`, all masked.
    pub(crate) fn new(vectors: Vec<Box<dyn Vector>>) -> Self {
        let entry =
            |vector| Entry { message: Message::default(), masked: true, pending: false, programmed: None, vector };
        Self { entries: vectors.into_iter().map(entry).collect(), enabled: false, function_masked: false }
    }

    /// Whether the driver switched MSI-X on.
    pub(crate) fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// Takes the second byte of message control.
    pub(crate) fn set_control(&mut self, control: u8) {
        (self.enabled, self.function_masked) = (control & ENABLE != 0, control & FUNCTION_MASK != 0);
        for index in 0..self.entries.len() {
            self.settle(index);
        }
    }

    /// Sends vector `index`, or remembers it while masked. An index without an entry sends nothing.
    pub(crate) fn raise(&mut self, index: u16) {
        let index = usize::from(index);
        if let (true, Some(entry)) = (self.enabled, self.entries.get_mut(index)) {
            entry.pending = true;
            self.settle(index);
        }
    }

    /// Reads the table at `offset`.
    pub(crate) fn read_table(&self, offset: u64, data: &mut [u8]) {
        for (byte, at) in data.iter_mut().zip(offset..=u64::MAX) {
            *byte = self.table_byte(at).unwrap_or_default();
        }
    }

    /// Writes the table: whole aligned words of 4 or 8 bytes, as the specification demands of drivers.
    pub(crate) fn write_table(&mut self, offset: u64, data: &[u8]) {
        if matches!(data.len(), 4 | 8) && offset.is_multiple_of(data.len() as u64) {
            for (word, at) in data.chunks_exact(4).zip((offset..=u64::MAX).step_by(4)) {
                let value = word.iter().rev().fold(0, |value, byte| value << 8 | u32::from(*byte));
                self.write_word(at, value);
            }
        }
    }

    /// Reads the pending bits at `offset`.
    pub(crate) fn read_pending(&self, offset: u64, data: &mut [u8]) {
        for (byte, at) in data.iter_mut().zip(offset..=u64::MAX) {
            let first = usize::try_from(at.saturating_mul(8)).unwrap_or(usize::MAX);
            let entries = self.entries.iter().skip(first).take(8);
            *byte = entries.enumerate().fold(0, |bits, (bit, entry)| bits | u8::from(entry.pending) << bit);
        }
    }

    fn table_byte(&self, at: u64) -> Option<u8> {
        let entry = self.entries.get(usize::try_from(at / ENTRY_SIZE).ok()?)?;
        let (address, data, control) = (entry.message.address, entry.message.data, u32::from(entry.masked));
        let mut bytes = address.to_le_bytes().into_iter().chain(data.to_le_bytes()).chain(control.to_le_bytes());
        bytes.nth(usize::try_from(at % ENTRY_SIZE).ok()?)
    }

    fn write_word(&mut self, at: u64, value: u32) {
        let index = usize::try_from(at / ENTRY_SIZE).unwrap_or(usize::MAX);
        let Some(entry) = self.entries.get_mut(index) else { return };
        let address = entry.message.address;
        match at % ENTRY_SIZE {
            0 => entry.message.address = address & !u64::from(u32::MAX) | u64::from(value & !3),
            4 => entry.message.address = address & u64::from(u32::MAX) | u64::from(value) << 32,
            8 => entry.message.data = value,
            _ => entry.masked = value & MASKED != 0,
        }
        self.settle(index);
    }

    /// Brings an entry that can send up to date, and sends what waited.
    fn settle(&mut self, index: usize) {
        let open = self.enabled && !self.function_masked;
        let Some(entry) = self.entries.get_mut(index).filter(|entry| open && !entry.masked) else { return };
        if entry.programmed != Some(entry.message) {
            match entry.vector.program(entry.message) {
                Ok(()) => entry.programmed = Some(entry.message),
                // A message this machine cannot send, which only the guest could have written: it is lost.
                Err(error) => return warn(&entry.message, &error),
            }
        }
        if std::mem::take(&mut entry.pending) {
            entry.vector.raise();
        }
    }
}

fn warn(message: &Message, error: &io::Error) {
    tracing::debug!(?message, %error, "Guest programmed an interrupt that cannot be sent");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::virtio_pci::fake::FakeVector;

    const MESSAGE: Message = Message { address: 0xfee0_1000, data: 0x4021 };

    fn table(count: usize) -> (Msix, Vec<FakeVector>) {
        let fakes: Vec<FakeVector> = (0..count).map(|_| FakeVector::default()).collect();
        let vectors = fakes.iter().map(|fake| Box::new(fake.clone()) as Box<dyn Vector>).collect();
        (Msix::new(vectors), fakes)
    }

    fn program(msix: &mut Msix, index: u64, masked: bool) {
        msix.write_table(index * ENTRY_SIZE, &MESSAGE.address.to_le_bytes());
        msix.write_table(index * ENTRY_SIZE + 8, &MESSAGE.data.to_le_bytes());
        msix.write_table(index * ENTRY_SIZE + 12, &u32::from(masked).to_le_bytes());
    }

    fn pending(msix: &Msix) -> u8 {
        let mut bits = [0];
        msix.read_pending(0, &mut bits);
        bits[0]
    }

    #[test]
    fn unmasked_vector_sends_its_message() {
        let (mut msix, fakes) = table(2);
        msix.set_control(ENABLE);
        program(&mut msix, 1, false);
        msix.raise(1);
        assert_eq!(fakes[1].sent(), [MESSAGE]);
        assert_eq!(fakes[0].sent(), []);
    }

    #[test]
    fn masked_vector_waits_and_is_sent_once_by_the_unmasking() {
        let (mut msix, fakes) = table(1);
        msix.set_control(ENABLE);
        program(&mut msix, 0, true);
        msix.raise(0);
        msix.raise(0);
        assert_eq!((fakes[0].sent().len(), pending(&msix)), (0, 1));
        msix.write_table(12, &[0; 4]);
        assert_eq!((fakes[0].sent().len(), pending(&msix)), (1, 0));
    }

    #[test]
    fn function_mask_holds_every_vector_back() {
        let (mut msix, fakes) = table(1);
        program(&mut msix, 0, false);
        msix.set_control(ENABLE | FUNCTION_MASK);
        msix.raise(0);
        assert_eq!((fakes[0].sent().len(), pending(&msix)), (0, 1));
        msix.set_control(ENABLE);
        assert_eq!(fakes[0].sent(), [MESSAGE]);
    }

    #[test]
    fn disabled_table_sends_and_remembers_nothing() {
        let (mut msix, fakes) = table(1);
        program(&mut msix, 0, false);
        msix.raise(0);
        assert_eq!((fakes[0].sent().len(), pending(&msix)), (0, 0));
    }

    #[test]
    fn same_message_is_programmed_once() {
        let (mut msix, fakes) = table(1);
        msix.set_control(ENABLE);
        program(&mut msix, 0, false);
        for masked in [1u32, 0, 1, 0] {
            msix.write_table(12, &masked.to_le_bytes());
        }
        assert_eq!(fakes[0].programs(), 1);
    }

    #[test]
    fn table_reads_back_what_was_written() {
        let (mut msix, _) = table(2);
        program(&mut msix, 1, false);
        let mut entry = [0; 16];
        msix.read_table(16, &mut entry);
        assert_eq!(entry[..8], MESSAGE.address.to_le_bytes());
        assert_eq!(entry[8..], [0x21, 0x40, 0, 0, 0, 0, 0, 0]);
        msix.read_table(0, &mut entry);
        assert_eq!(entry[12], 1, "vectors start masked");
    }

    #[test]
    fn odd_accesses_are_ignored() {
        let (mut msix, _) = table(1);
        for (offset, width) in [(1, 4), (4, 8), (0, 2), (0, 1), (16, 4), (u64::MAX - 3, 4), (0, 0)] {
            msix.write_table(offset, &[0xff; 8][..width]);
        }
        let mut entry = [0; 16];
        msix.read_table(0, &mut entry);
        assert_eq!(entry[..12], [0; 12]);
        msix.read_table(u64::MAX - 3, &mut entry);
        msix.read_pending(u64::MAX - 3, &mut entry);
        msix.raise(u16::MAX);
    }
}

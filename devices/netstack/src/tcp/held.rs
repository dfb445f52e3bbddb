//! What the guest sent and nobody has taken yet.

/// Bytes that the connections of a guest may hold together. What is beyond is not acknowledged, and the guest sends it
/// again.
const MAX_STALLED: usize = 64 << 20;
/// Room for a guest's connection while few of them are stuck.
const WINDOW: u32 = 512 << 10;
const CROWDED: usize = 16 << 20;
const CROWDED_WINDOW: u32 = 64 << 10;
const FULL: usize = 40 << 20;
const FULL_WINDOW: u32 = 16 << 10;

/// How many bytes all connections of a guest hold.
#[derive(Debug, Default)]
pub(crate) struct Stalled(usize);

impl Stalled {
    /// How far ahead a guest may send on a connection that holds nothing. Such a window is a promise: what fits into it
    /// is held should the other side not take it.
    pub(super) fn window(&self) -> u32 {
        match self.0 {
            0..CROWDED => WINDOW,
            CROWDED..FULL => CROWDED_WINDOW,
            _ => FULL_WINDOW,
        }
    }
}

/// Bytes of one connection, first come first served. Empty, and without memory, unless the other side is slow.
#[derive(Debug, Default)]
pub(super) struct Held {
    bytes: Vec<u8>,
    /// How many of them are taken.
    taken: usize,
}

impl Held {
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// What is next.
    pub(super) fn bytes(&self) -> &[u8] {
        self.bytes.get(self.taken..).unwrap_or_default()
    }

    /// Holds what still fits; gives how much that is.
    pub(super) fn push(&mut self, bytes: &[u8], stalled: &mut Stalled) -> usize {
        let count = bytes.len().min(MAX_STALLED.saturating_sub(stalled.0));
        self.bytes.extend_from_slice(bytes.get(..count).unwrap_or_default());
        stalled.0 += count;
        count
    }

    /// The first `count` bytes were taken.
    pub(super) fn take(&mut self, count: usize, stalled: &mut Stalled) {
        let count = count.min(self.bytes().len());
        self.taken += count;
        stalled.0 = stalled.0.saturating_sub(count);
        if self.bytes().is_empty() {
            *self = Self::default();
        }
    }

    /// Nobody will take anything more.
    pub(super) fn clear(&mut self, stalled: &mut Stalled) {
        self.take(self.bytes().len(), stalled);
    }
}

/// Looks, about a minute apart, at a flow that the guest is done with and of which the other side takes nothing more,
/// before it is given up. Linux does the same with sockets that no program has any more (tcp(7), tcp_orphan_retries).
const MAX_LOOKS: u8 = 4;

/// What the other side took of a flow that the guest is done with, when that was last looked at.
#[derive(Debug, Default)]
pub(super) struct Orphan {
    taken: Option<u64>,
    looks: u8,
}

impl Orphan {
    /// Looks at it once more; whether it is over, with `taken` bytes taken so far.
    pub(super) fn is_given_up(&mut self, taken: u64) -> bool {
        let before = self.taken.replace(taken);
        self.looks = if before == Some(taken) { self.looks.saturating_add(1) } else { 0 };
        self.looks >= MAX_LOOKS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_takes_is_given_up_and_what_is_taken_slowly_is_not() {
        let mut stuck = Orphan::default();
        let looks = std::iter::repeat_with(|| stuck.is_given_up(100)).position(|over| over);
        assert_eq!(looks, Some(usize::from(MAX_LOOKS)));
        let mut slow = Orphan::default();
        assert!((0..100).all(|look| !slow.is_given_up(look / 3)));
    }

    #[test]
    fn bytes_come_out_as_they_went_in_and_leave_no_memory() {
        let (mut held, mut stalled) = (Held::default(), Stalled::default());
        assert_eq!(held.push(b"abc", &mut stalled) + held.push(b"def", &mut stalled), 6);
        held.take(2, &mut stalled);
        assert_eq!((held.bytes(), stalled.0), (&b"cdef"[..], 4));
        held.take(9, &mut stalled);
        assert_eq!((held.is_empty(), held.bytes.capacity(), stalled.0), (true, 0, 0));
    }

    #[test]
    fn all_connections_together_are_bounded_and_the_room_shrinks_before() {
        let (mut held, mut stalled) = (Held::default(), Stalled(MAX_STALLED - 2));
        assert_eq!(stalled.window(), FULL_WINDOW);
        assert_eq!(held.push(b"abc", &mut stalled), 2);
        held.clear(&mut stalled);
        assert_eq!(stalled.0, MAX_STALLED - 2);
        assert_eq!([0, CROWDED, FULL].map(|held| Stalled(held).window()), [WINDOW, CROWDED_WINDOW, FULL_WINDOW]);
    }
}

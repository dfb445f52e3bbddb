//! Entries with keys that are never mistaken for those of a later entry.

/// Names one entry, also after it is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Key {
    index: u32,
    generation: u32,
}

/// Bits of a generation that survive in a token.
const GENERATION: u64 = 0x00ff_ffff;

impl Key {
    /// The key in 56 bits, for the token of a descriptor or a timer.
    pub(crate) fn to_bits(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }

    pub(crate) fn from_bits(bits: u64) -> Self {
        let low = |value: u64| u32::try_from(value & 0xffff_ffff).unwrap_or(u32::MAX);
        Self { index: low(bits), generation: low(bits >> 32 & GENERATION) }
    }
}

#[derive(Debug)]
struct Slot<T> {
    generation: u32,
    entry: Option<T>,
}

#[derive(Debug)]
pub(crate) struct Slab<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
}

impl<T> Slab<T> {
    pub(crate) fn new() -> Self {
        Self { slots: Vec::new(), free: Vec::new() }
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub(crate) fn insert(&mut self, entry: T) -> Key {
        if let Some(index) = self.free.pop()
            && let Some(slot) = self.slots.get_mut(usize::try_from(index).unwrap_or(usize::MAX))
        {
            slot.entry = Some(entry);
            return Key { index, generation: slot.generation };
        }
        let index = u32::try_from(self.slots.len()).unwrap_or(u32::MAX);
        self.slots.push(Slot { generation: 0, entry: Some(entry) });
        Key { index, generation: 0 }
    }

    pub(crate) fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        let slot = self.slots.get_mut(usize::try_from(key.index).ok()?)?;
        if slot.generation == key.generation { slot.entry.as_mut() } else { None }
    }

    pub(crate) fn contains(&self, key: Key) -> bool {
        let slot = usize::try_from(key.index).ok().and_then(|index| self.slots.get(index));
        slot.is_some_and(|slot| slot.generation == key.generation && slot.entry.is_some())
    }

    pub(crate) fn remove(&mut self, key: Key) -> Option<T> {
        let slot = self.slots.get_mut(usize::try_from(key.index).ok()?)?;
        if slot.generation != key.generation {
            return None;
        }
        let entry = slot.entry.take()?;
        slot.generation = slot.generation.wrapping_add(1) & 0x00ff_ffff;
        self.free.push(key.index);
        Some(entry)
    }

    pub(crate) fn keys(&self) -> Vec<Key> {
        (0u32..)
            .zip(&self.slots)
            .filter(|(_, slot)| slot.entry.is_some())
            .map(|(index, slot)| Key { index, generation: slot.generation })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_key_finds_nothing() {
        let mut slab = Slab::new();
        let old = slab.insert('a');
        assert_eq!(slab.remove(old), Some('a'));
        let new = slab.insert('b');
        assert_eq!(slab.get_mut(old), None);
        assert!(slab.contains(new) && !slab.contains(old));
        assert_eq!(slab.remove(old), None);
        assert_eq!(slab.get_mut(new), Some(&mut 'b'));
        assert_eq!((slab.len(), slab.keys()), (1, vec![new]));
    }

    #[test]
    fn keys_survive_as_bits() {
        let key = Key { index: 7, generation: 0x12_3456 };
        assert_eq!(Key::from_bits(key.to_bits()), key);
    }
}

//! The connections by token (how the worker's poll names them) and by their pair of ports (how the guest does).

use std::collections::BTreeMap;

use super::connection::Connection;

/// What names a connection on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) host_port: u32,
    pub(super) guest_port: u32,
}

/// A bounded set of connections.
#[derive(Debug, Default)]
pub(super) struct Table {
    slots: Vec<Option<Connection>>,
    by_key: BTreeMap<Key, u16>,
}

impl Table {
    pub(super) fn find(&self, key: Key) -> Option<u16> {
        self.by_key.get(&key).copied()
    }

    pub(super) fn get(&mut self, token: u16) -> Option<&mut Connection> {
        self.slots.get_mut(usize::from(token))?.as_mut()
    }

    /// Puts a connection into a free slot below `limit`; gives nothing and drops it when there is none.
    pub(super) fn insert(&mut self, connection: Connection, limit: u16) -> Option<u16> {
        let free = self.slots.iter().position(Option::is_none).unwrap_or(self.slots.len());
        let token = u16::try_from(free).ok().filter(|token| *token < limit)?;
        if free == self.slots.len() {
            self.slots.push(None);
        }
        self.by_key.insert(connection.key(), token);
        *self.slots.get_mut(free)? = Some(connection);
        Some(token)
    }

    /// Forgets the name of a connection that goes on only to empty its buffer.
    pub(super) fn unname(&mut self, token: u16) {
        let Some(key) = self.get(token).map(|connection| connection.key()) else { return };
        if self.find(key) == Some(token) {
            self.by_key.remove(&key);
        }
    }

    pub(super) fn remove(&mut self, token: u16) -> Option<Connection> {
        self.unname(token);
        self.slots.get_mut(usize::from(token))?.take()
    }

    pub(super) fn tokens(&self) -> impl Iterator<Item = u16> + use<> {
        let taken = (0u16..).zip(&self.slots).filter(|(_, slot)| slot.is_some()).map(|(token, _)| token);
        taken.collect::<Vec<_>>().into_iter()
    }
}

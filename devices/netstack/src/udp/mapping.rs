//! Mappings, found by what the guest writes and evicted by how long they were idle.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Instant;

use crate::audit::Subject;
use crate::idle::Idle;
use crate::slab::{Key, Slab};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Tuple {
    pub(super) guest: SocketAddr,
    pub(super) remote: SocketAddr,
}

/// What a mapping leads to.
pub(super) enum Upstream {
    /// A socket of its own, connected to the remote.
    Socket(OwnedFd),
    /// A client of a published port.
    Client { port: Key, peer: SocketAddr },
}

pub(super) struct Mapping {
    pub(super) tuple: Tuple,
    pub(super) upstream: Upstream,
    pub(super) subject: Box<Subject>,
    pub(super) idle: Idle,
    pub(super) started: Instant,
    pub(super) from_guest: u64,
    pub(super) to_guest: u64,
    /// When it was used last, counted in uses of all mappings: many happen at one time of the gateway's clock.
    turn: u64,
    /// What the order of idleness knows; never later than `turn`.
    stamp: u64,
}

impl Mapping {
    pub(super) fn new(tuple: Tuple, upstream: Upstream, subject: Box<Subject>, now: Instant) -> Self {
        Self {
            tuple,
            upstream,
            subject,
            idle: Idle::since(now),
            started: now,
            from_guest: 0,
            to_guest: 0,
            turn: 0,
            stamp: 0,
        }
    }
}

/// Who began a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    Guest,
    Client,
}

impl Upstream {
    fn origin(&self) -> Origin {
        match self {
            Self::Socket(_) => Origin::Guest,
            Self::Client { .. } => Origin::Client,
        }
    }
}

pub(super) struct Mappings {
    slab: Slab<Mapping>,
    by_tuple: HashMap<Tuple, Key>,
    turn: u64,
    /// Orders of idleness, one per origin: neither side can evict what the other began.
    of_guest: BTreeSet<(u64, Key)>,
    of_clients: BTreeSet<(u64, Key)>,
}

impl Mappings {
    pub(super) fn new() -> Self {
        Self {
            slab: Slab::new(),
            by_tuple: HashMap::new(),
            turn: 0,
            of_guest: BTreeSet::new(),
            of_clients: BTreeSet::new(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.slab.len()
    }

    pub(super) fn count(&self, origin: Origin) -> usize {
        match origin {
            Origin::Guest => self.of_guest.len(),
            Origin::Client => self.of_clients.len(),
        }
    }

    fn order(&mut self, origin: Origin) -> &mut BTreeSet<(u64, Key)> {
        match origin {
            Origin::Guest => &mut self.of_guest,
            Origin::Client => &mut self.of_clients,
        }
    }

    pub(super) fn find(&self, tuple: &Tuple) -> Option<Key> {
        self.by_tuple.get(tuple).copied()
    }

    pub(super) fn get_mut(&mut self, key: Key) -> Option<&mut Mapping> {
        self.slab.get_mut(key)
    }

    pub(super) fn contains(&self, key: Key) -> bool {
        self.slab.contains(key)
    }

    pub(super) fn keys(&self) -> Vec<Key> {
        self.slab.keys()
    }

    /// The mapping, which is being used now.
    pub(super) fn touch(&mut self, key: Key, now: Instant) -> Option<&mut Mapping> {
        let mapping = self.slab.get_mut(key)?;
        self.turn += 1;
        (mapping.idle.used, mapping.turn) = (now, self.turn);
        Some(mapping)
    }

    pub(super) fn insert(&mut self, mut mapping: Mapping) -> Key {
        self.turn += 1;
        (mapping.turn, mapping.stamp) = (self.turn, self.turn);
        let (tuple, stamp, origin) = (mapping.tuple, mapping.stamp, mapping.upstream.origin());
        let key = self.slab.insert(mapping);
        self.by_tuple.insert(tuple, key);
        self.order(origin).insert((stamp, key));
        key
    }

    pub(super) fn remove(&mut self, key: Key) -> Option<Mapping> {
        let mapping = self.slab.remove(key)?;
        self.by_tuple.remove(&mapping.tuple);
        self.order(mapping.upstream.origin()).remove(&(mapping.stamp, key));
        Some(mapping)
    }

    /// The mapping that was idle longest. Use is not put in order when it happens but here, since most mappings are
    /// never evicted.
    pub(super) fn idlest(&mut self, origin: Origin) -> Option<Key> {
        loop {
            let &(stamp, key) = self.order(origin).first()?;
            let mapping = self.slab.get_mut(key)?;
            if mapping.turn == stamp {
                return Some(key);
            }
            mapping.stamp = mapping.turn;
            let turn = mapping.turn;
            let order = self.order(origin);
            order.pop_first();
            order.insert((turn, key));
        }
    }
}

#[cfg(test)]
mod tests {
    use policy::Protocol;

    use super::*;

    #[test]
    fn the_mapping_that_was_idle_longest_is_found_after_any_use() {
        let now = Instant::now();
        let mut mappings = Mappings::new();
        let mut key = |port: u16| {
            let end = |port| SocketAddr::from(([100, 96, 0, 2], port));
            let upstream = Upstream::Client { port: Slab::new().insert(()), peer: end(1) };
            let subject = Box::new(Subject {
                number: port.into(),
                protocol: Protocol::Udp,
                remote: end(9),
                port: None,
                names: Vec::new(),
                rule: String::new(),
            });
            mappings.insert(Mapping::new(Tuple { guest: end(port), remote: end(9) }, upstream, subject, now))
        };
        let [a, b, c] = [1, 2, 3].map(&mut key);
        assert_eq!(mappings.idlest(Origin::Client), Some(a));
        mappings.touch(a, now);
        assert_eq!(mappings.idlest(Origin::Client), Some(b));
        mappings.touch(c, now);
        mappings.touch(b, now);
        assert_eq!(mappings.idlest(Origin::Client), Some(a));
        mappings.remove(a);
        assert_eq!(mappings.idlest(Origin::Client), Some(c));
        mappings.remove(c);
        mappings.remove(b);
        assert_eq!((mappings.idlest(Origin::Client), mappings.len()), (None, 0));
    }
}

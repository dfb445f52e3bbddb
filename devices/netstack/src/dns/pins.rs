//! Which names an address was given for.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use policy::Name;

use crate::Limits;

/// Addresses remembered at once, and names of one address.
const MAX_ADDRESSES: usize = 8192;
const MAX_NAMES: usize = 16;
/// Longest lifetime of a pin.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

#[derive(Debug)]
struct Pin {
    name: Name,
    until: Instant,
}

/// The names of one address.
#[derive(Debug, Default)]
struct Entry {
    pins: Vec<Pin>,
    /// When the last answer with this address came, counted in addresses.
    turn: u64,
}

/// The answers that still hold. Only answers of the resolver get in here.
#[derive(Debug)]
pub(crate) struct Pins {
    least: Duration,
    grace: Duration,
    by_address: HashMap<IpAddr, Entry>,
    turn: u64,
}

impl Pins {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self { least: limits.pin_least, grace: limits.pin_grace, by_address: HashMap::new(), turn: 0 }
    }

    /// Remembers that `name` has `address` for `lifetime`.
    pub(crate) fn insert(&mut self, name: &Name, address: IpAddr, lifetime: Duration, now: Instant) {
        let until = now + lifetime.max(self.least).min(LONGEST) + self.grace;
        let address = address.to_canonical();
        if self.by_address.len() >= MAX_ADDRESSES && !self.by_address.contains_key(&address) {
            self.make_room(now);
        }
        self.turn += 1;
        let Entry { pins, turn } = self.by_address.entry(address).or_default();
        *turn = self.turn;
        pins.retain(|pin| pin.until > now);
        // The latest first: the name that the guest most likely means.
        let known = pins.iter().position(|pin| pin.name == *name).map(|at| pins.remove(at));
        let until = known.map_or(until, |pin| pin.until.max(until));
        pins.insert(0, Pin { name: name.clone(), until });
        pins.truncate(MAX_NAMES);
    }

    /// Forgets what has expired; if that is too little, also the quarter that was answered longest ago. Whoever runs a
    /// name that the guest may ask for fills answers as he likes, and must not push out what is asked for next.
    fn make_room(&mut self, now: Instant) {
        self.by_address.retain(|_, entry| entry.pins.iter().any(|pin| pin.until > now));
        if self.by_address.len() <= MAX_ADDRESSES - MAX_ADDRESSES / 4 {
            return;
        }
        tracing::debug!("Too many addresses to remember their names: the oldest are forgotten");
        let mut turns: Vec<u64> = self.by_address.values().map(|entry| entry.turn).collect();
        let (_, &mut oldest, _) = turns.select_nth_unstable(self.by_address.len() / 4);
        self.by_address.retain(|_, entry| entry.turn >= oldest);
    }

    /// The names that vouch for `address` now, the latest answer first.
    pub(crate) fn names(&self, address: IpAddr, now: Instant) -> Vec<Name> {
        let pins = self.by_address.get(&address.to_canonical()).map(|entry| entry.pins.as_slice()).unwrap_or_default();
        pins.iter().filter(|pin| pin.until > now).map(|pin| pin.name.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_lives_as_long_as_its_answer_and_the_grace() {
        let start = Instant::now();
        let (name, address): (Name, IpAddr) = ("a.test".parse().unwrap(), "93.184.216.34".parse().unwrap());
        let mut pins = Pins::new(&Limits::default());
        pins.insert(&name, address, Duration::from_secs(300), start);

        assert_eq!(pins.names(address, start + Duration::from_secs(329)), std::slice::from_ref(&name));
        assert_eq!(pins.names(address, start + Duration::from_secs(331)), []);
        assert_eq!(pins.names("93.184.216.35".parse().unwrap(), start), []);
    }

    #[test]
    fn a_flood_of_addresses_makes_room_for_the_latest_answer() {
        let now = Instant::now();
        let address = |index: u32| IpAddr::from(std::net::Ipv4Addr::from(0x5db8_0000 + index));
        let (flood, late): (Name, Name) = ("flood.test".parse().unwrap(), "late.test".parse().unwrap());
        let mut pins = Pins::new(&Limits::default());
        for index in 0..40_000 {
            pins.insert(&flood, address(index), LONGEST, now);
        }
        pins.insert(&late, address(50_000), Duration::from_secs(1), now);
        assert_eq!(pins.names(address(50_000), now), [late]);
        assert_eq!(pins.names(address(39_999), now), [flood]);
        assert_eq!(pins.names(address(0), now), []);
        assert!(pins.by_address.len() <= MAX_ADDRESSES);
    }

    #[test]
    fn names_of_one_address_are_bounded() {
        let now = Instant::now();
        let address: IpAddr = "93.184.216.34".parse().unwrap();
        let mut pins = Pins::new(&Limits::default());
        for index in 0..100 {
            pins.insert(&format!("n{index}.test").parse().unwrap(), address, Duration::ZERO, now);
        }
        let names = pins.names(address, now);
        assert_eq!((names.len(), names[0].as_str()), (MAX_NAMES, "n99.test"));
        pins.insert(&"n90.test".parse().unwrap(), address, Duration::ZERO, now);
        let names = pins.names(address, now);
        assert_eq!((names.len(), names[0].as_str()), (MAX_NAMES, "n90.test"));
    }
}

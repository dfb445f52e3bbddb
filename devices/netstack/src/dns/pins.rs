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

/// The answers that still hold. Only answers of the resolver get in here.
#[derive(Debug)]
pub(crate) struct Pins {
    least: Duration,
    grace: Duration,
    by_address: HashMap<IpAddr, Vec<Pin>>,
}

impl Pins {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self { least: limits.pin_least, grace: limits.pin_grace, by_address: HashMap::new() }
    }

    /// Remembers that `name` has `address` for `lifetime`.
    pub(crate) fn insert(&mut self, name: &Name, address: IpAddr, lifetime: Duration, now: Instant) {
        let until = now + lifetime.max(self.least).min(LONGEST) + self.grace;
        if self.by_address.len() >= MAX_ADDRESSES && !self.by_address.contains_key(&address) {
            self.by_address.retain(|_, pins| pins.iter().any(|pin| pin.until > now));
            if self.by_address.len() >= MAX_ADDRESSES {
                tracing::debug!("Too many addresses to remember their names");
                return;
            }
        }
        let pins = self.by_address.entry(address.to_canonical()).or_default();
        pins.retain(|pin| pin.until > now);
        // The latest first: the name that the guest most likely means.
        let known = pins.iter().position(|pin| pin.name == *name).map(|at| pins.remove(at));
        let until = known.map_or(until, |pin| pin.until.max(until));
        pins.insert(0, Pin { name: name.clone(), until });
        pins.truncate(MAX_NAMES);
    }

    /// The names that vouch for `address` now, the latest answer first.
    pub(crate) fn names(&self, address: IpAddr, now: Instant) -> Vec<Name> {
        let pins = self.by_address.get(&address.to_canonical()).map(Vec::as_slice).unwrap_or_default();
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

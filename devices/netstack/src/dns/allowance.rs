//! How much a guest may say in the names it asks for below an allowed suffix.
//!
//! A rule `*.pkg.example` lets the guest choose every byte before the suffix, and the servers of `pkg.example` read
//! them: a tunnel, if a slow one. Each new name costs as many bytes as the rule leaves to the guest; 4 KiB may be spent
//! at once, and 64 bytes come back every second. That is far more than looking up the hosts of a site takes, and far
//! less than a useful tunnel does. Names asked before cost nothing, and names that a rule spells out cost nothing.

use std::collections::HashSet;
use std::time::Instant;

use policy::Name;

const BURST: usize = 4096;
const BYTES_PER_SECOND: usize = 64;
/// Names remembered as asked before.
const MAX_NAMES: usize = 1024;

#[derive(Debug)]
pub(super) struct Allowance {
    left: usize,
    since: Instant,
    asked: HashSet<Name>,
}

impl Allowance {
    pub(super) fn new(now: Instant) -> Self {
        Self { left: BURST, since: now, asked: HashSet::new() }
    }

    /// Whether `name`, of which the guest chose `bytes`, may still be asked.
    pub(super) fn spend(&mut self, name: &Name, bytes: usize, now: Instant) -> bool {
        if bytes == 0 || self.asked.contains(name) {
            return true;
        }
        let seconds = usize::try_from(now.saturating_duration_since(self.since).as_secs()).unwrap_or(usize::MAX);
        if seconds > 0 {
            self.left = self.left.saturating_add(seconds.saturating_mul(BYTES_PER_SECOND)).min(BURST);
            self.since = now;
        }
        let Some(left) = self.left.checked_sub(bytes) else { return false };
        self.left = left;
        if self.asked.len() >= MAX_NAMES {
            self.asked.clear();
        }
        self.asked.insert(name.clone());
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn name(index: usize) -> Name {
        format!("{index:060}.pkg.example").parse().unwrap()
    }

    #[test]
    fn a_tunnel_runs_dry_and_a_browser_does_not() {
        let start = Instant::now();
        let mut allowance = Allowance::new(start);
        let passed = (0..1000).filter(|index| allowance.spend(&name(*index), 60, start)).count();
        assert_eq!(passed, BURST / 60);
        assert!(allowance.spend(&name(0), 60, start), "asked before");
        assert!(allowance.spend(&"api.example.com".parse().unwrap(), 0, start), "spelled out in a rule");

        let later = start + Duration::from_secs(10);
        let passed = (2000..3000).filter(|index| allowance.spend(&name(*index), 60, later)).count();
        assert!((10..=12).contains(&passed), "{passed}");
    }
}

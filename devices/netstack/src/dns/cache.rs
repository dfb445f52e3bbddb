//! Answers that are given again while they hold.
//!
//! Kept for a minute at most, whatever their lifetime: a VPN that comes or goes may change answers without changing the
//! file that names the resolvers. The gateway forgets all of it when that file, the policy or the host's own addresses
//! change, so what was judged once is never given under other rules.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use policy::Name;

use super::message::{Answer, Query};

const MAX_ANSWERS: usize = 1024;
/// Longest answer that is kept.
const MAX_BYTES: usize = 4096;
const LONGEST: Duration = Duration::from_secs(60);

/// What an answer depends on.
type Key = (Name, u16, bool, bool);

#[derive(Debug)]
struct Kept {
    answer: Answer,
    since: Instant,
    until: Instant,
}

#[derive(Debug, Default)]
pub(super) struct Cache {
    answers: HashMap<Key, Kept>,
}

fn key(query: &Query) -> Key {
    (query.name.clone(), query.kind, query.wants_dnssec(), query.wants_unchecked())
}

impl Cache {
    /// The answer to `query`, with what is left of its lifetimes.
    pub(super) fn get(&self, query: &Query, now: Instant) -> Option<Answer> {
        let kept = self.answers.get(&key(query)).filter(|kept| kept.until > now)?;
        Some(kept.answer.aged(now.saturating_duration_since(kept.since)))
    }

    pub(super) fn insert(&mut self, query: &Query, answer: &Answer, now: Instant) {
        let Some(lifetime) = answer.lifetime().filter(|lifetime| !lifetime.is_zero()) else { return };
        if answer.size() > MAX_BYTES {
            return;
        }
        if self.answers.len() >= MAX_ANSWERS {
            self.answers.retain(|_, kept| kept.until > now);
            if self.answers.len() >= MAX_ANSWERS {
                self.answers.clear();
            }
        }
        let kept = Kept { answer: answer.clone(), since: now, until: now + lifetime.min(LONGEST) };
        self.answers.insert(key(query), kept);
    }

    pub(super) fn clear(&mut self) {
        self.answers.clear();
    }
}

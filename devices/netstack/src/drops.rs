//! What was dropped without an answer, counted by reason.

use std::collections::BTreeMap;

use virtio::RateLimit;

/// Counts by reason. Reasons are ours, so there are few of them.
#[derive(Debug, Default)]
pub(crate) struct Drops {
    counts: BTreeMap<&'static str, u64>,
    complaint: RateLimit,
}

impl Drops {
    /// Counts what any guest sends that was set up for another kind of network.
    pub(crate) fn harmless(&mut self, why: &'static str) {
        *self.counts.entry(why).or_default() += 1;
        tracing::trace!(why, "Packet of the guest dropped");
    }

    /// Counts what no system of good will sends over a link without losses, and tells the log now and then.
    pub(crate) fn hostile(&mut self, why: &'static str) {
        let count = self.counts.entry(why).or_default();
        *count += 1;
        if self.complaint.allow() {
            tracing::warn!(why, count, "Packets of the guest are dropped");
        }
    }

    pub(crate) fn list(&self) -> Vec<(&'static str, u64)> {
        self.counts.iter().map(|(why, count)| (*why, *count)).collect()
    }
}

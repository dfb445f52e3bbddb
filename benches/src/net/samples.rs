//! What was measured so far.

use std::collections::BTreeMap;

use super::plan::Metric;

/// Samples by metric, in the order in which they were first taken, and by arm.
#[derive(Debug, Default)]
pub struct Samples(Vec<(Metric, BTreeMap<String, Vec<f64>>)>);

impl Samples {
    pub fn add(&mut self, metric: Metric, arm: &str, sample: f64) {
        let at = self.0.iter().position(|(known, _)| *known == metric).unwrap_or(self.0.len());
        if at == self.0.len() {
            self.0.push((metric, BTreeMap::new()));
        }
        if let Some((_, by_arm)) = self.0.get_mut(at) {
            by_arm.entry(arm.to_owned()).or_default().push(sample);
        }
    }

    /// Everything that one arm answered.
    pub fn add_all(&mut self, arm: &str, numbers: &[(Metric, f64)]) {
        numbers.iter().for_each(|(metric, number)| self.add(*metric, arm, *number));
    }

    /// The samples of one arm, in the order in which they were taken.
    pub fn of(&self, metric: Metric, arm: &str) -> &[f64] {
        let found = self.0.iter().find(|(known, _)| *known == metric).and_then(|(_, by_arm)| by_arm.get(arm));
        found.map(Vec::as_slice).unwrap_or_default()
    }

    pub fn metrics(&self) -> impl Iterator<Item = Metric> + '_ {
        self.0.iter().map(|(metric, _)| *metric)
    }
}

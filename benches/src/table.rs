//! Quantities measured on several arms in turns: collected, compared with the first of the arms, printed.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::stats::Summary;

/// One quantity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metric {
    /// What is measured.
    pub name: &'static str,
    /// In which unit.
    pub unit: &'static str,
    /// Whether more is better.
    pub is_rate: bool,
}

impl Metric {
    /// A quantity of which more is better.
    pub const fn rate(name: &'static str, unit: &'static str) -> Self {
        Self { name, unit, is_rate: true }
    }

    /// A quantity of which less is better.
    pub const fn time(name: &'static str, unit: &'static str) -> Self {
        Self { name, unit, is_rate: false }
    }
}

/// Samples by metric, in the order in which they were first taken, and by arm.
#[derive(Debug, Default)]
pub struct Samples(Vec<(Metric, BTreeMap<String, Vec<f64>>)>);

/// One metric on all arms.
#[derive(Debug, Serialize)]
pub struct Row {
    metric: &'static str,
    unit: &'static str,
    more_is_better: bool,
    arms: BTreeMap<String, Summary>,
    /// Of each round: the arm divided by the first one.
    ratio: BTreeMap<String, Summary>,
}

impl Samples {
    /// Adds what one arm did in one round.
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

    /// Every metric, with each of `arms` compared with the first.
    pub fn rows(&self, arms: &[String]) -> Vec<Row> {
        let first = arms.first().map_or("", String::as_str);
        let by_arm = |of: &dyn Fn(&str) -> Vec<f64>| -> BTreeMap<String, Summary> {
            arms.iter().filter_map(|arm| Some((arm.clone(), Summary::of(of(arm))?))).collect()
        };
        let row = |metric: Metric| Row {
            metric: metric.name,
            unit: metric.unit,
            more_is_better: metric.is_rate,
            arms: by_arm(&|arm| self.of(metric, arm).to_vec()),
            ratio: by_arm(&|arm| ratios(self.of(metric, arm), self.of(metric, first))),
        };
        self.0.iter().map(|(metric, _)| row(*metric)).collect()
    }
}

/// Of each round.
pub fn ratios(own: &[f64], other: &[f64]) -> Vec<f64> {
    own.iter().zip(other).map(|(own, other)| own / other).collect()
}

/// Prints rows for people.
pub fn print(rows: &[Row], arms: &[String]) {
    let first = arms.first().map_or("", String::as_str);
    for row in rows {
        println!("{} ({}), median [ratio to {first}]", row.metric, row.unit);
        for arm in arms {
            let (Some(own), Some(ratio)) = (row.arms.get(arm), row.ratio.get(arm)) else { continue };
            println!("    {arm:12} {:10.2}   [{:.2}; {:.2} to {:.2}]", own.median, ratio.median, ratio.min, ratio.max);
        }
    }
}

//! Quantities measured on several arms in turns: collected, compared with one of the arms, printed.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::stats::Summary;

/// One quantity.
#[derive(Debug, Clone, Copy)]
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

#[derive(Debug, Serialize)]
struct Row {
    metric: &'static str,
    unit: &'static str,
    more_is_better: bool,
    arms: BTreeMap<String, Summary>,
    /// Of each round: the arm divided by the one that all are compared with.
    ratio: BTreeMap<String, Summary>,
}

impl Samples {
    /// Adds what one arm did in one round.
    pub fn add(&mut self, metric: Metric, arm: &str, sample: f64) {
        let at = self.0.iter().position(|(known, _)| known.name == metric.name).unwrap_or(self.0.len());
        if at == self.0.len() {
            self.0.push((metric, BTreeMap::new()));
        }
        if let Some((_, by_arm)) = self.0.get_mut(at) {
            by_arm.entry(arm.to_owned()).or_default().push(sample);
        }
    }

    /// Prints a table of `arms`, each compared with the first; or everything as JSON.
    pub fn print(self, arms: &[String], json: bool) -> anyhow::Result<()> {
        let base = arms.first().map_or("", String::as_str);
        let rows: Vec<Row> = self.0.into_iter().map(|(metric, by_arm)| row(metric, &by_arm, base)).collect();
        if json {
            println!("{}", serde_json::to_string_pretty(&rows)?);
            return Ok(());
        }
        for row in &rows {
            println!("{} ({}), median [ratio to {base}]", row.metric, row.unit);
            for arm in arms {
                let (Some(own), Some(ratio)) = (row.arms.get(arm), row.ratio.get(arm)) else { continue };
                println!(
                    "    {arm:12} {:10.2}   [{:.2}; {:.2} to {:.2}]",
                    own.median, ratio.median, ratio.min, ratio.max
                );
            }
        }
        Ok(())
    }
}

fn row(metric: Metric, by_arm: &BTreeMap<String, Vec<f64>>, base: &str) -> Row {
    let first = by_arm.get(base).cloned().unwrap_or_default();
    let ratios = |own: &[f64]| own.iter().zip(&first).map(|(own, first)| own / first).collect::<Vec<_>>();
    Row {
        metric: metric.name,
        unit: metric.unit,
        more_is_better: metric.is_rate,
        arms: by_arm.iter().filter_map(|(arm, own)| Some((arm.clone(), Summary::of(own.clone())?))).collect(),
        ratio: by_arm.iter().filter_map(|(arm, own)| Some((arm.clone(), Summary::of(ratios(own))?))).collect(),
    }
}

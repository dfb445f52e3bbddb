//! Samples, and how they are told.

use std::collections::BTreeMap;
use std::time::Duration;

use fs_reference::servers::Kind;
use serde::Serialize;

use crate::metric::Metric;

/// Samples by metric, in the order in which they were first taken, and by server.
#[derive(Debug, Default)]
pub struct Samples(Vec<(&'static str, BTreeMap<&'static str, Vec<f64>>)>);

#[derive(Debug, Serialize)]
struct Row<'a> {
    metric: &'static str,
    unit: &'static str,
    /// Median by server.
    servers: BTreeMap<&'a str, f64>,
    /// Of each round: the server's time divided by ours; median, smallest and largest.
    ratio: BTreeMap<&'a str, [f64; 3]>,
}

impl Samples {
    /// Adds what one server took.
    pub fn add(&mut self, metric: &Metric, server: &'static str, time: Duration) {
        let at = self.0.iter().position(|(name, _)| *name == metric.name).unwrap_or(self.0.len());
        if at == self.0.len() {
            self.0.push((metric.name, BTreeMap::new()));
        }
        self.0[at].1.entry(server).or_default().push(time.as_secs_f64() * 1e9);
    }

    /// Prints all medians and ratios.
    pub fn print(&self, as_json: bool) {
        let rows: Vec<Row<'_>> = self.0.iter().map(|(metric, by_server)| row(metric, by_server)).collect();
        if as_json {
            println!("{}", serde_json::to_string_pretty(&rows).expect("numbers and names"));
            return;
        }
        println!("ns each, median [times ours: median; least to most]");
        for row in &rows {
            println!("{}", row.metric);
            for kind in Kind::ALL {
                let (Some(time), Some(ratio)) = (row.servers.get(kind.name()), row.ratio.get(kind.name())) else {
                    continue;
                };
                let [median, least, most] = ratio;
                println!("    {:16} {time:10.0}   [{median:.2}; {least:.2} to {most:.2}]", kind.name());
            }
        }
    }
}

fn row<'a>(metric: &'static str, by_server: &'a BTreeMap<&'static str, Vec<f64>>) -> Row<'a> {
    let ours = by_server.get(Kind::Ours.name());
    let ratio = by_server.iter().map(|(server, times)| {
        let own = ours.unwrap_or(times);
        let ratios: Vec<f64> = times.iter().zip(own).map(|(time, ours)| time / ours).collect();
        (*server, summary(ratios))
    });
    let servers = by_server.iter().map(|(server, times)| (*server, summary(times.clone())[0]));
    Row { metric, unit: "ns", servers: servers.collect(), ratio: ratio.collect() }
}

/// Median, smallest and largest.
fn summary(mut samples: Vec<f64>) -> [f64; 3] {
    samples.sort_by(f64::total_cmp);
    let middle = samples.len() / 2;
    let at = |index: usize| samples.get(index).copied().unwrap_or(f64::NAN);
    let median =
        if samples.len() % 2 == 1 { at(middle) } else { f64::midpoint(at(middle.saturating_sub(1)), at(middle)) };
    [median, at(0), samples.last().copied().unwrap_or(f64::NAN)]
}

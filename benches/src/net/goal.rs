//! What the stack is to reach, and whether it does.

use serde::Serialize;

use super::plan::{ALONE, CONNECT, CONNECT_16, CROWDED, DOWN, MEDIAN, PER_FLOW, UP};
use crate::stats::Summary;
use crate::table::{Metric, Samples, ratios};

/// One goal of one arm.
#[derive(Debug, Serialize)]
pub struct Goal {
    arm: String,
    what: String,
    /// Of each round.
    value: Summary,
    limit: f64,
    /// Whether the value is to be the limit or more; else the limit or less.
    at_least: bool,
    is_reached: bool,
}

/// The goals of all arms but the first, which is the one to beat. The last arm is the second one with its policy on.
pub fn goals(arms: &[String], samples: &Samples) -> Vec<Goal> {
    let mut goals = Vec::new();
    let Some((first, ours)) = arms.split_first() else { return goals };
    for arm in ours {
        let mut against = |other: &str, metric: Metric, at_least, limit| {
            let values = ratios(samples.of(metric, arm), samples.of(metric, other));
            goals.extend(goal(arm, format!("{} / {other}", metric.name), values, at_least, limit));
        };
        against(first, UP, true, 1.0);
        against(first, DOWN, true, 1.0);
        against(first, MEDIAN, false, 1.0);
        against(first, CONNECT, true, 1.0);
        against(first, CONNECT_16, true, 1.0);
        if let [bare, policy] = ours
            && arm == policy
        {
            against(bare, UP, true, 0.97);
            against(bare, DOWN, true, 0.97);
            against(bare, CONNECT, true, 0.95);
            against(bare, CONNECT_16, true, 0.95);
        }
        let directions = ratios(samples.of(UP, arm), samples.of(DOWN, arm));
        let balance = directions.into_iter().map(|ratio| ratio.min(1.0 / ratio)).collect();
        goals.extend(goal(arm, "bulk, slower direction / faster".to_owned(), balance, true, 0.7));
        for (alone, crowded) in ALONE.into_iter().zip(CROWDED) {
            let values = ratios(samples.of(crowded, arm), samples.of(alone, arm));
            goals.extend(goal(arm, format!("{} / alone", crowded.name), values, true, 0.95));
        }
        goals.extend(goal(arm, PER_FLOW.name.to_owned(), samples.of(PER_FLOW, arm).to_vec(), false, 16.0));
    }
    goals
}

/// A line per goal.
pub fn table(goals: &[Goal]) -> String {
    let mut lines = format!("{:8} {:55} {:>6} {:>15}  goal\n", "arm", "what", "median", "range");
    for Goal { arm, what, value, limit, at_least, is_reached } in goals {
        let range = format!("{:.2} to {:.2}", value.min, value.max);
        let (sign, mark) = (if *at_least { ">=" } else { "<=" }, if *is_reached { "" } else { "  missed" });
        let median = value.median;
        lines.push_str(&format!("{arm:8} {what:55} {median:6.2} {range:>15}  {sign} {limit}{mark}\n"));
    }
    lines
}

fn goal(arm: &str, what: String, values: Vec<f64>, at_least: bool, limit: f64) -> Option<Goal> {
    let value = Summary::of(values)?;
    let is_reached = if at_least { value.median >= limit } else { value.median <= limit };
    Some(Goal { arm: arm.to_owned(), what, value, limit, at_least, is_reached })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goal_is_about_the_median_of_the_rounds() {
        let reached =
            |values: &[f64], at_least| goal("", String::new(), values.to_vec(), at_least, 1.0).unwrap().is_reached;
        assert!(reached(&[0.1, 1.0, 1.1], true));
        assert!(!reached(&[0.1, 0.9, 9.0], true));
        assert!(reached(&[0.1, 0.9, 9.0], false));
    }

    #[test]
    fn each_arm_is_held_against_the_first_and_policy_against_none() {
        let arms = ["passt", "bare", "policy"].map(str::to_owned);
        let mut samples = Samples::default();
        for (arm, speed) in arms.iter().zip([100.0, 200.0, 190.0]) {
            samples.add(UP, arm, speed);
            samples.add(DOWN, arm, 150.0);
        }
        let found: Vec<_> =
            goals(&arms, &samples).into_iter().map(|goal| (goal.arm, goal.what, goal.value.median)).collect();
        let has = |arm: &str, what: &str, value: f64| {
            found.iter().any(|(own, name, median)| own == arm && name == what && (median - value).abs() < 1e-9)
        };
        assert!(has("bare", "bulk, guest to host / passt", 2.0));
        assert!(has("bare", "bulk, slower direction / faster", 0.75));
        assert!(has("policy", "bulk, guest to host / bare", 0.95));
        assert!(found.iter().all(|(arm, ..)| arm != "passt"));
    }
}

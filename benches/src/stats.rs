//! Medians of few samples.

use serde::Serialize;

/// Samples of one quantity, summed up.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// Half of the samples are smaller.
    pub median: f64,
    /// The smallest sample.
    pub min: f64,
    /// The largest sample.
    pub max: f64,
}

impl Summary {
    /// Sums up `samples`; nothing can be said of none.
    pub fn of(mut samples: Vec<f64>) -> Option<Self> {
        samples.sort_by(f64::total_cmp);
        let (min, max) = (*samples.first()?, *samples.last()?);
        let (low, high) = (samples.get((samples.len() - 1) / 2)?, samples.get(samples.len() / 2)?);
        Some(Self { median: f64::midpoint(*low, *high), min, max })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_lies_between_the_two_in_the_middle() {
        let summary = Summary::of(vec![4.0, 1.0, 2.0, 100.0]).unwrap();
        assert_eq!(summary, Summary { median: 3.0, min: 1.0, max: 100.0 });
    }

    #[test]
    fn nothing_is_said_of_no_samples() {
        assert_eq!(Summary::of(Vec::new()), None);
    }
}

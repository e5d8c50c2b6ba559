//! Which combinations are better, by the accuracies of their jobs.

use crate::sweep;

/// What is known of a combination at a rung.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Score {
    pub(super) combination: i32,
    /// Mean over the jobs that reached the rung, in percent; `None` if none did.
    pub(super) top1: Option<f64>,
    /// Standard deviation of the sample; `None` for fewer than two jobs.
    pub(super) deviation: Option<f64>,
    pub(super) jobs: i32,
}

impl Score {
    /// From the accuracies of its jobs, in an order that is always the same, because sums of floats depend on it.
    pub(super) fn new(combination: i32, accuracies: &[f64]) -> Self {
        let count = accuracies.len() as f64;
        let top1 = (!accuracies.is_empty()).then(|| accuracies.iter().sum::<f64>() / count);
        let deviation = top1.filter(|_| accuracies.len() > 1).map(|mean| {
            let squares: f64 = accuracies.iter().map(|accuracy| (accuracy - mean).powi(2)).sum();
            (squares / (count - 1.0)).sqrt()
        });
        Self { combination, top1, deviation, jobs: i32::try_from(accuracies.len()).unwrap_or(i32::MAX) }
    }
}

/// Sorts scores, the best first, and returns how many continue. Ties go to the combination that comes first, so that a
/// repeated decision is the same. A combination without an accuracy ranks last.
pub(super) fn rank(scores: &mut [Score], keep: f64) -> usize {
    scores.sort_by(|one, other| {
        let value = |score: &Score| score.top1.unwrap_or(f64::NEG_INFINITY);
        value(other).total_cmp(&value(one)).then(one.combination.cmp(&other.combination))
    });
    sweep::kept(scores.len(), keep)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_mean_goes_on_and_of_equals_the_first() {
        let mut scores = vec![
            Score::new(1, &[70.0, 72.0]),
            Score::new(2, &[]),
            Score::new(3, &[75.0]),
            Score::new(4, &[71.0, 71.0, 71.0]),
            Score::new(5, &[10.0, 75.0, 80.0]),
        ];
        assert_eq!(rank(&mut scores, 0.5), 3);
        assert_eq!(scores.iter().map(|score| score.combination).collect::<Vec<_>>(), [3, 1, 4, 5, 2]);
        assert_eq!(scores[0].deviation, None);
        assert_eq!(scores[1].deviation, Some(2.0_f64.sqrt()));
        assert_eq!((scores[4].top1, scores[4].jobs), (None, 0));
    }
}

//! How far a run is and how long it will take.

use super::resume::Counters;
use distillery_core::protocol::{Progress, Started};

/// What the time left is estimated from.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    pub images_per_second: f64,
    pub seconds_per_evaluation: f64,
    /// Epochs from one evaluation to the next.
    pub eval_every_epochs: u32,
}

/// The progress of a run that goes on at this pace.
#[must_use]
pub fn progress(counters: &Counters, started: &Started, pace: Pace) -> Progress {
    let steps = started.steps_per_epoch * u64::from(started.epochs);
    let fraction_left = 1.0 - counters.step as f64 / steps.max(1) as f64;
    let images = started.train_images as f64 * f64::from(started.epochs);
    let evaluations = f64::from(started.epochs / pace.eval_every_epochs);
    let seconds = images / pace.images_per_second + evaluations * pace.seconds_per_evaluation;
    Progress {
        epoch: (counters.epoch + 1).min(started.epochs),
        epochs: started.epochs,
        step: counters.step,
        steps,
        fraction: 1.0 - fraction_left,
        images_per_second: pace.images_per_second,
        eta_seconds: fraction_left * seconds,
    }
}

/// Epochs done, with the part of the current one.
#[must_use]
pub fn epochs_done(counters: &Counters, started: &Started) -> f64 {
    f64::from(counters.epoch) + counters.step_in_epoch as f64 / started.steps_per_epoch.max(1) as f64
}

//! A trainer that sends nothing: when that is a warning, and when a failure.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::WorkerSettings;
use crate::protocol::{ErrorClass, Failure};

/// Watches how long a trainer has sent nothing.
#[derive(Debug)]
pub(super) struct Silence {
    /// When the job's history gets a warning.
    silence: Duration,
    /// When the trainer's GPU counts as hung; `None` without a GPU.
    stalled: Option<Duration>,
    since: Instant,
    is_told: bool,
    trains: bool,
}

/// What a long silence means.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum LongSilence {
    /// Long enough for a warning.
    Warned(String),
    /// So long that the GPU must hang: a failure.
    Stalled(Failure),
}

impl Silence {
    /// Begins to watch a trainer on these devices.
    pub(super) fn new(settings: &WorkerSettings, devices: &[String]) -> Self {
        let has_gpu = devices.iter().any(|device| device != "cpu");
        let stalled = settings.stalled.filter(|_| has_gpu);
        Self { silence: settings.silence, stalled, since: Instant::now(), is_told: false, trains: false }
    }

    /// The trainer sent something. `trains`: whether it has reported that its data is loaded, which has no time limit.
    pub(super) fn heard(&mut self, trains: bool) {
        (self.since, self.is_told, self.trains) = (Instant::now(), false, trains);
    }

    /// Waits until the silence has lasted so long that something must be done, and returns what.
    pub(super) async fn grown(&self) -> LongSilence {
        let long = (!self.is_told).then_some(self.silence);
        let stalled = self.stalled.filter(|_| self.trains);
        let Some(wait) = long.into_iter().chain(stalled).min() else { return std::future::pending().await };
        sleep_until(self.since + wait).await;
        match stalled {
            Some(stalled) if stalled == wait => LongSilence::Stalled(Failure {
                class: ErrorClass::Machine,
                message: format!(
                    "the trainer has reported nothing for {} seconds while it trained on a GPU, which seems to hang, so \
                     the worker killed it; --stalled-minutes sets this time",
                    stalled.as_secs_f64()
                ),
            }),
            _ => LongSilence::Warned(format!(
                "the trainer has said nothing for {} seconds: it may be reading a lot of data, or hang; pause and resume the \
                 job to start it again from its checkpoint",
                self.silence.as_secs_f64()
            )),
        }
    }

    /// The warning was given; there is no other until the trainer sends something.
    pub(super) fn told(&mut self) {
        self.is_told = true;
    }
}

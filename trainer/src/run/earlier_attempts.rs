//! What a run owes to its earlier attempts: it goes on with their data, and leaves their results alone once they are
//! whole.
//!
//! The data set's files are hashed while training goes on. So a run that resumes may notice only after some steps that
//! they have changed, but before it saves anything.

use std::time::{Duration, Instant};

use super::{Run, outputs};
use crate::error::Result;
use distillery_core::protocol::{Event, Level, StopRequest};

/// How long a pause waits for the hashes. A worker kills a trainer that does not stop within 45 seconds.
const PATIENCE: Duration = Duration::from_secs(10);
/// How soon a request to stop is noticed meanwhile.
const BETWEEN_LOOKS: Duration = Duration::from_millis(100);

impl Run<'_> {
    /// Whether an earlier attempt has written the results. Reports them as they are.
    ///
    /// # Errors
    /// Another rank is gone.
    pub(super) fn is_finished(&mut self) -> Result<bool> {
        let counters = &self.setup.state.counters;
        if !counters.is_over(self.spec.training.epochs) {
            return Ok(false);
        }
        let written = if self.ranks.is_leader() { outputs::written(self.output, counters) } else { None };
        let is_written = written.is_some();
        if let Some(outcome) = written {
            let message = "the run has finished already: nothing is left to train, and its files stay as they are";
            self.report.event(&Event::Log { level: Level::Info, message: message.to_owned() });
            self.report.event(&Event::Finished(outcome));
        }
        self.ranks.any(is_written)
    }

    /// Ends the run once its data is known to be other than that of earlier attempts. Does not wait.
    ///
    /// # Errors
    /// The data has changed or cannot be read.
    pub(super) fn check_data(&mut self) -> Result<()> {
        if self.ranks.is_leader() {
            self.setup.check_files(Duration::ZERO)?;
        }
        Ok(())
    }

    /// Waits until the data's files are hashed, so that the state names what it was trained on; not for long when the
    /// run shall stop. Returns false if they might be others than those of earlier attempts. Only on rank 0.
    ///
    /// # Errors
    /// The data has changed or cannot be read.
    pub(super) fn may_save(&mut self) -> Result<bool> {
        let begun = Instant::now();
        while !self.setup.check_files(BETWEEN_LOOKS)? {
            let goes_on = match self.control.stop_request() {
                None => true,
                Some(StopRequest::Pause) => begun.elapsed() < PATIENCE,
                Some(StopRequest::Cancel) => false,
            };
            if !goes_on {
                return Ok(self.may_save_without_hashes());
            }
        }
        Ok(true)
    }

    /// The state of a run that has nothing to compare its data with may be saved: whoever resumes it is warned.
    fn may_save_without_hashes(&mut self) -> bool {
        if self.setup.state.counters.data_sha256.is_none() {
            return true;
        }
        let step = self.setup.started.resumed_step;
        self.warn(format!(
            "whether the data set has changed since the checkpoint that this attempt resumed from is not known yet, so \
             its steps are not kept: the run will resume from step {step} again"
        ));
        false
    }
}

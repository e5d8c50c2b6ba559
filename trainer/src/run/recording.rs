//! What a run tells while it goes on: its metrics, its progress and its warnings.

use std::time::Instant;

use super::Run;
use super::doubts::RunPosition;
use super::metrics::Metric;
use super::progress::{self, Pace};
use crate::cache::teacher_logits::TeacherLogitCache;
use crate::device;
use crate::error::Result;
use crate::worker_link::report::warning;
use distillery_core::protocol::{Event, series};
use distillery_core::spec::ScheduleSpec;

impl Run<'_> {
    /// Reads the metrics since the last reading and reports them. Waits for the device.
    pub(super) fn read_metrics(&mut self) -> Result<()> {
        let means = self.meter.read(&self.ranks)?;
        self.forward_events();
        let Some(means) = means else { return Ok(()) };
        let images_per_second = means.images as f64 / self.read_at.elapsed().as_secs_f64().max(1e-9);
        self.read_at = Instant::now();
        let learning_rate = self.learning_rate(self.setup.state.counters.step_in_epoch.saturating_sub(1));
        let top1 = means.metrics.iter().find(|(metric, _)| *metric == Metric::Top1).map(|(_, top1)| *top1);
        let place = self.place();
        if let Some(message) = top1.and_then(|top1| self.chance_watch.trained(top1, means.labelled, place)) {
            self.warn(message);
        }
        let mut points: Vec<_> = means.metrics.iter().map(|(metric, mean)| (metric.to_string(), *mean)).collect();
        points.push((series::LEARNING_RATE.to_owned(), learning_rate));
        points.push((series::IMAGES_PER_SECOND.to_owned(), images_per_second));
        points.extend(device::resident_bytes().map(|bytes| (series::RESIDENT_BYTES.to_owned(), bytes as f64)));
        self.record(points)?;
        let Self { seconds_per_evaluation, .. } = *self;
        let eval_every_epochs = self.spec.training.eval_every_epochs;
        let pace = Pace { images_per_second, seconds_per_evaluation, eval_every_epochs };
        self.report.event(&Event::Progress(progress::progress(&self.setup.state.counters, &self.setup.started, pace)));
        Ok(())
    }

    /// Reports the events of the executor and the warnings of the cache and of evaluations.
    pub(super) fn forward_events(&mut self) {
        for event in self.setup.hardware.executor.events() {
            self.report.event(&event);
        }
        for message in self.setup.hardware.evaluation_size.warnings() {
            self.report.event(&warning(message));
        }
        for message in self.teacher_cache.iter_mut().flat_map(TeacherLogitCache::warnings) {
            self.report.event(&warning(message));
        }
    }

    pub(super) fn place(&self) -> RunPosition {
        let started = &self.setup.started;
        let warmup_epochs = match self.spec.training.schedule {
            ScheduleSpec::Cosine { warmup_epochs } => warmup_epochs,
            ScheduleSpec::Multistep { .. } | ScheduleSpec::Constant => 0,
        };
        RunPosition {
            step: self.setup.state.counters.step,
            steps: started.steps_per_epoch * u64::from(started.epochs),
            steps_per_epoch: started.steps_per_epoch,
            warmup_epochs,
            classes: started.classes,
        }
    }

    /// Warns once for all ranks.
    pub(super) fn warn(&mut self, message: String) {
        if self.ranks.is_leader() {
            self.report.event(&warning(message));
        }
    }

    pub(super) fn record(&mut self, values: Vec<(String, f64)>) -> Result<()> {
        let Some(metrics_file) = &mut self.metrics_file else { return Ok(()) };
        let counters = &self.setup.state.counters;
        let epoch = progress::epochs_done(counters, &self.setup.started);
        let points = metrics_file.write(values, counters.step, epoch)?;
        self.report.event(&Event::Metrics { points });
        Ok(())
    }
}

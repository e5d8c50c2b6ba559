//! A training run from its first step to its last file: [`setup`] loads what it needs, [`step`] does one optimisation
//! step, [`evaluate`] measures the student, [`resume`] keeps the state that survives an interruption, and [`outputs`]
//! writes the results.

pub mod attempt;
pub mod average;
mod cache_key;
pub mod classes;
pub mod cuda_graphs;
pub mod doubts;
mod earlier_attempts;
mod epoch_end;
pub mod evaluate;
mod heard;
pub mod manifest;
pub mod metrics;
pub mod networks;
pub mod optim;
pub mod outputs;
pub mod parts;
pub mod precision;
mod prediction_file;
pub mod predictions;
pub mod progress;
mod recording;
pub mod resume;
pub mod samples;
pub mod setup;
pub mod startup_timer;
pub mod step;
pub mod teacher_cache;
pub mod teacher_evaluation;
mod teacher_fit;
pub mod variation;

use std::path::{Path, PathBuf};
use std::time::Instant;

use tch::{Device, Tensor};

use crate::cache::rows::RowIndices;
use crate::cache::teacher_logits::TeacherLogitCache;
use crate::data::{Batch, Portion, view_of};
use crate::error::{Error, Result};
use crate::loss::sdd::warmup;
use crate::ranks::{Decision, Ranks};
use crate::settings::{Ending, Settings};
use crate::worker_link::control::Control;
use crate::worker_link::metrics_file::MetricsFile;
use crate::worker_link::report::{Report, warning};
use distillery_core::export::samples::file_bytes;
use distillery_core::protocol::{Event, Level, StopRequest, files};
use distillery_core::spec::{TeacherCache, TeacherPlan, TrainingPlan};
use doubts::ChanceWatch;
use heard::Heard;
use metrics::Meter;
use setup::Setup;
use step::{Inputs, StepScalars};
use variation::{BatchVariation, EpochPart, EpochVariation};

/// Trains by a specification whose paths are local. `join` is called once everything is loaded on this rank's device,
/// and returns the ranks that train together, this one included.
///
/// # Errors
/// Training failed; the error's class says whether another attempt can succeed.
pub fn train(
    spec: &TrainingPlan,
    settings: &Settings,
    join: impl FnOnce(Device, &mut dyn Report) -> Result<Ranks>,
    control: &Control,
    report: &mut dyn Report,
) -> Result<Ending> {
    let mut run = Run::prepare(spec, settings, join, control, report)?;
    run.report.event(&Event::Started(run.setup.started.clone()));
    run.forward_events();
    if run.is_finished()? {
        return Ok(Ending::Finished);
    }
    if run.is_at_pause() || run.evaluate_teacher(settings)? == Flow::Stop {
        return Ok(run.stopped());
    }
    run.setup.startup.mark("teacher");
    run.teacher_cache = teacher_cache::open(spec, settings, &run.ranks, &mut run.setup, &mut *run.report)?;
    while !run.setup.state.counters.is_over(spec.training.epochs) {
        if run.epoch()? == Flow::Stop {
            return Ok(run.stopped());
        }
    }
    if run.ranks.is_leader() {
        let outcome = outputs::write_results(run.output, spec, run.setup, settings.samples, &mut *run.report)?;
        run.report.event(&Event::Finished(outcome));
    }
    Ok(Ending::Finished)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    Continue,
    Stop,
}

struct Run<'a> {
    spec: &'a TrainingPlan,
    control: &'a Control,
    report: &'a mut dyn Report,
    setup: Setup,
    /// The processes that train together. Only rank 0 writes files and reports.
    ranks: Ranks,
    /// Open on rank 0.
    metrics_file: Option<MetricsFile>,
    meter: Meter,
    output: &'a Path,
    /// The checkpoint to resume from.
    checkpoint: PathBuf,
    /// Epochs after which the run stops as if paused.
    pause_after: Option<u32>,
    /// When the metrics were last read.
    read_at: Instant,
    seconds_per_evaluation: f64,
    teacher_cache: Option<TeacherLogitCache>,
    /// Whether this attempt has done a step.
    has_stepped: bool,
    chance_watch: ChanceWatch,
}

/// Most bytes that the run needs on disk at any time.
fn disk_bytes(spec: &TrainingPlan, setup: &Setup, settings: &Settings) -> u64 {
    let data = &setup.data;
    let samples = file_bytes(data.eval.side(), data.train.len(), data.eval.len(), data.classes.count);
    spec.training.disk_bytes(setup.student.parameters()) + if settings.samples { samples } else { 0 }
}

/// Seconds between two readings of the metrics, each of which waits for the device.
const BETWEEN_READINGS: f64 = 1.0;

impl<'a> Run<'a> {
    fn prepare(
        spec: &'a TrainingPlan,
        settings: &'a Settings,
        join: impl FnOnce(Device, &mut dyn Report) -> Result<Ranks>,
        control: &'a Control,
        report: &'a mut dyn Report,
    ) -> Result<Self> {
        let output = settings.output.as_path();
        let checkpoint = output.join(files::CHECKPOINT);
        let directory = checkpoint.parent().expect("the checkpoint is in a directory");
        std::fs::create_dir_all(directory).map_err(Error::storage(directory))?;
        let mut heard = Heard::new(&mut *report, settings.shard.rank);
        let setup = Setup::new(spec, settings, &mut heard)?;
        let mut ranks = join(setup.hardware.device, &mut heard)?;
        ranks.begin(&setup.student, &setup.optimizer.state(), setup.hardware.device)?;
        heard.exchange(&ranks)?;
        let open_metrics = || MetricsFile::open(&output.join(files::METRICS), setup.state.counters.step);
        let metrics_file = ranks.is_leader().then(open_metrics).transpose()?;
        let distillation = setup.objective.distillation.as_ref();
        let scales = distillation.map_or(&[][..], |distillation| &distillation.scales);
        let mut meter = Meter::new(scales, setup.hardware.device)
            .with_clustering(distillation.is_some_and(|distillation| distillation.clustering.is_some()))
            .starting_from(spec.student.checkpoint.as_deref());
        if setup.objective.label_loss.has_unlabelled {
            meter = meter.with_unlabelled();
        }
        if ranks.is_leader()
            && let Some(message) = doubts::disk(output, disk_bytes(spec, &setup, settings))
        {
            report.event(&warning(message));
        }
        // An attempt that resumes within what may be the last epoch verifies from where it resumed.
        let has_begun = setup.state.counters.step > 0 && !setup.state.counters.is_over(spec.training.epochs);
        if ranks.is_leader() && has_begun && setup.state.counters.next_may_be_last(&spec.training) {
            outputs::keep_for_verification(output)?;
        }
        Ok(Self {
            spec,
            control,
            report,
            setup,
            ranks,
            metrics_file,
            meter,
            output,
            checkpoint,
            pause_after: settings.pause_after,
            read_at: Instant::now(),
            seconds_per_evaluation: 0.0,
            teacher_cache: None,
            has_stepped: false,
            chance_watch: ChanceWatch::default(),
        })
    }

    fn evaluate_teacher(&mut self, settings: &Settings) -> Result<Flow> {
        let Some(teacher) = &self.spec.teacher else { return Ok(Flow::Continue) };
        let flow =
            if self.ranks.is_leader() { self.evaluate_teacher_on_rank_0(teacher, settings)? } else { Flow::Continue };
        // The other ranks wait here.
        Ok(if self.ranks.any(flow == Flow::Stop)? { Flow::Stop } else { Flow::Continue })
    }

    fn evaluate_teacher_on_rank_0(&mut self, teacher: &TeacherPlan, settings: &Settings) -> Result<Flow> {
        let goes_on = || self.control.stop_request().is_none();
        let Some(evaluation) = teacher_evaluation::evaluation(self.spec, settings, &mut self.setup, goes_on)? else {
            return Ok(Flow::Stop);
        };
        self.setup.state.counters.teacher = Some(evaluation);
        self.report.event(&Event::Teacher(evaluation));
        let expected = teacher_evaluation::ExpectedAccuracy {
            classes: self.setup.started.classes,
            recorded: self.setup.files.recorded_accuracy,
            least: teacher.min_top1,
            checkpoint: &teacher.checkpoint,
        };
        // An attempt that goes on from another's checkpoint has been told.
        if self.setup.state.counters.step == 0 {
            let is_far_below = teacher_evaluation::is_far_below(&evaluation, expected);
            for event in teacher_fit::explain(&self.setup, &evaluation, is_far_below, goes_on)? {
                self.report.event(&event);
            }
        }
        for message in teacher_evaluation::check(&evaluation, expected)? {
            self.report.event(&warning(message));
        }
        Ok(Flow::Continue)
    }

    fn epoch(&mut self) -> Result<Flow> {
        let training = &self.spec.training;
        let epoch = self.setup.state.counters.epoch;
        let warmup = warmup(epoch + 1, self.spec.distillation.warmup_epochs.unwrap_or(0));
        let weight = self.setup.objective.weight * warmup;
        let steps_per_epoch = self.setup.started.steps_per_epoch;
        let first = self.setup.state.counters.step_in_epoch;
        let train = &self.setup.data.train;
        let (view, batches) = match training.teacher_cache {
            Some(TeacherCache::Views(views)) => {
                let view = view_of(training.seed, epoch, views);
                (view, train.epoch_of_view(epoch, view, first))
            }
            _ => (epoch, train.epoch(epoch, first)),
        };
        let images = self.setup.data.train.len();
        let part = EpochPart { epoch, view, first_batch: first, batches: steps_per_epoch };
        let variation = EpochVariation::draw(self.spec, images, self.setup.hardware.device, part);
        self.read_at = Instant::now();
        let mut unread = 0;
        for (index, batch) in (first..).zip(batches) {
            // The rest of the epoch is read at its end. A short rest is no point of its own: the means of a few images,
            // and of a smaller last batch, are too noisy.
            let is_enough = 2 * steps_per_epoch.saturating_sub(index) >= unread;
            let reads_metrics = is_enough && self.read_at.elapsed().as_secs_f64() > BETWEEN_READINGS;
            let decision = self.ranks.agree(Decision { stop: self.control.stop_request(), reads_metrics });
            if decision.reads_metrics || decision.stop == Some(StopRequest::Pause) {
                self.read_metrics()?;
                unread = 0;
            }
            unread += 1;
            self.check_data()?;
            if let Some(request) = decision.stop {
                return self.stop(request);
            }
            let batch = batch?;
            let varied = variation.of_batch(index, &batch);
            let number = self.setup.state.counters.step + 1;
            let scalars = StepScalars::new(self.learning_rate(index), weight, number, self.setup.hardware.device);
            self.step(batch, varied, view, scalars);
            self.setup.state.counters.step = number;
            self.setup.state.counters.step_in_epoch = index + 1;
            self.report_first_step();
        }
        self.flush_teacher_cache();
        self.read_metrics()?;
        self.end_epoch()
    }

    fn stop(&mut self, request: StopRequest) -> Result<Flow> {
        if request == StopRequest::Pause {
            self.flush_teacher_cache();
            self.save()?;
        }
        Ok(Flow::Stop)
    }

    fn report_first_step(&mut self) {
        if !std::mem::replace(&mut self.has_stepped, true) {
            self.setup.startup.mark("step");
            let message = self.setup.startup.summary();
            self.report.event(&Event::Log { level: Level::Info, message });
        }
    }

    /// The learning rate of a step of the current epoch, counted from 0.
    fn learning_rate(&self, step_in_epoch: u64) -> f64 {
        let training = &self.spec.training;
        optim::learning_rate(
            &training.schedule,
            training.optimizer.learning_rate(),
            self.setup.state.counters.epoch,
            training.epochs,
            step_in_epoch,
            self.setup.started.steps_per_epoch,
        )
    }

    fn flush_teacher_cache(&mut self) {
        if let Some(cache) = &mut self.teacher_cache {
            cache.flush();
        }
    }

    /// Trains on a batch. The teacher's logits come from the cache or go there.
    fn step(&mut self, batch: Batch, varied: BatchVariation, view: u32, scalars: StepScalars) {
        let Batch { images, labels, indices, index_tensor, portion } = batch;
        let parts = parts::number(self.spec.training.parts(), &portion, self.ranks.shard().world_size);
        if indices.is_empty() {
            return self.step_without_images(parts, scalars);
        }
        self.ranks.weight_loss(&portion);
        let indices = RowIndices { host: &indices, device: &index_tensor };
        let found = self.teacher_cache.as_mut().and_then(|cache| cache.find(view, indices));
        let teacher_logits =
            found.map(|kept| self.setup.objective.own_logits(&kept).to_device(self.setup.hardware.device));
        let is_new = teacher_logits.is_none();
        let BatchVariation { crops, erased, mix } = varied;
        let logits = self.execute(Inputs { images, labels, crops, erased, mix, teacher_logits, parts, scalars });
        if let (true, Some(cache), Some(logits)) = (is_new, &mut self.teacher_cache, logits) {
            cache.store(view, indices, &logits);
        }
    }

    /// Takes part in a step whose batch has no image for this rank: a black image with a loss of weight zero leaves all
    /// ranks with the same weights.
    fn step_without_images(&mut self, parts: u32, scalars: StepScalars) {
        self.ranks.weight_loss(&Portion { rows: 0..0, batch_size: 1 });
        let black = Inputs::one_black_image(self.spec.dataset.image_size, self.setup.hardware.device, scalars);
        self.execute(Inputs { parts, ..black });
    }

    fn execute(&mut self, inputs: Inputs) -> Option<Tensor> {
        let Setup { hardware, student, objective, optimizer, .. } = &mut self.setup;
        hardware.executor.run(student, objective, optimizer, &mut self.meter, &mut self.ranks, inputs)
    }

    /// Writes the checkpoint to resume from. All ranks have the same state, so rank 0 writes it.
    fn save(&mut self) -> Result<()> {
        if self.ranks.is_leader() && self.may_save()? {
            outputs::save_checkpoint(&self.checkpoint, &self.setup)?;
            let counters = &self.setup.state.counters;
            self.report.event(&Event::Checkpoint { epoch: counters.epoch, step: counters.step });
        }
        Ok(())
    }

    fn stopped(self) -> Ending {
        let counters = &self.setup.state.counters;
        self.report.event(&Event::Stopped { epoch: counters.epoch, step: counters.step });
        Ending::Stopped
    }
}

//! A training run from its first step to its last file: [`setup`] loads what it needs, [`step`] does one optimisation
//! step, [`evaluate`] measures the student, [`resume`] keeps the state that survives an interruption, and [`outputs`]
//! writes the results.

mod cache_key;
pub mod cuda_graphs;
pub mod doubts;
mod earlier_attempts;
pub mod evaluate;
pub mod manifest;
pub mod metrics;
pub mod networks;
pub mod optim;
pub mod outputs;
pub mod precision;
pub mod progress;
mod recording;
pub mod resume;
pub mod samples;
pub mod setup;
pub mod startup_timer;
pub mod step;
pub mod teacher_cache;
pub mod teacher_evaluation;

use std::path::{Path, PathBuf};
use std::time::Instant;

use tch::{Device, Tensor};

use crate::cache::rows::RowIndices;
use crate::cache::teacher_logits::TeacherLogitCache;
use crate::data::{Batch, CropSource, Crops, Portion, view_of};
use crate::error::{Error, Result};
use crate::loss::sdd::warmup;
use crate::models::state_dict;
use crate::ranks::{Decision, Ranks};
use crate::settings::{Ending, Settings};
use crate::worker_link::control::Control;
use crate::worker_link::metrics_file::MetricsFile;
use crate::worker_link::report::{Report, warning};
use distillery_core::protocol::{Evaluation, Event, Level, StopRequest, files, series};
use distillery_core::spec::{Augmentation, TeacherCache, TeacherPlan, TrainingPlan};
use doubts::ChanceWatch;
use metrics::Meter;
use setup::Setup;
use step::{Inputs, StepScalars};

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
    if run.evaluate_teacher(settings)? == Flow::Stop {
        return Ok(run.stopped());
    }
    run.setup.startup.mark("teacher");
    run.teacher_cache = teacher_cache::open(spec, settings, &run.ranks, &mut run.setup, &mut *run.report)?;
    while run.setup.counters.epoch < spec.training.epochs {
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
    /// When the metrics were last read.
    read_at: Instant,
    seconds_per_evaluation: f64,
    teacher_cache: Option<TeacherLogitCache>,
    /// Whether this attempt has done a step.
    has_stepped: bool,
    chance_watch: ChanceWatch,
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
        let setup = Setup::new(spec, settings, report)?;
        let mut ranks = join(setup.device, report)?;
        ranks.begin(&setup.student, &setup.optimizer.state(), setup.device)?;
        let open_metrics = || MetricsFile::open(&output.join(files::METRICS), setup.counters.step);
        let metrics_file = ranks.is_leader().then(open_metrics).transpose()?;
        let scales = setup.objective.distillation.as_ref().map_or(&[][..], |distillation| &distillation.scales);
        let meter = Meter::new(scales, setup.device).starting_from(spec.student.checkpoint.as_deref());
        if ranks.is_leader()
            && let Some(message) = doubts::disk(output, spec.training.disk_bytes(setup.student.parameters()))
        {
            report.event(&warning(message));
        }
        // An attempt that resumes within the last epoch verifies from where it resumed.
        if ranks.is_leader() && setup.counters.epoch + 1 == spec.training.epochs && setup.counters.step > 0 {
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
        self.setup.counters.teacher = Some(evaluation);
        self.report.event(&Event::Teacher(evaluation));
        let expected = teacher_evaluation::Expected {
            classes: self.setup.started.classes,
            recorded: self.setup.recorded_accuracy,
            least: teacher.min_top1,
            checkpoint: &teacher.checkpoint,
        };
        for message in teacher_evaluation::check(&evaluation, expected)? {
            self.report.event(&warning(message));
        }
        Ok(Flow::Continue)
    }

    fn epoch(&mut self) -> Result<Flow> {
        let training = &self.spec.training;
        let epoch = self.setup.counters.epoch;
        let warmup = warmup(epoch + 1, self.spec.distillation.warmup_epochs.unwrap_or(0));
        let weight = self.setup.objective.weight * warmup;
        let steps_per_epoch = self.setup.started.steps_per_epoch;
        let first = self.setup.counters.step_in_epoch;
        let view = match training.teacher_cache {
            Some(TeacherCache::Views(views)) => view_of(training.seed, epoch, views),
            _ => epoch,
        };
        let batches = self.setup.data.train.epoch_of_view(epoch, view, first);
        let crops = self.crops(epoch, view, first);
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
            let crops =
                crops.as_ref().map(|crops| crops.of_batch(index, batch.portion.rows.start, &batch.index_tensor));
            let number = self.setup.counters.step + 1;
            let scalars = StepScalars::new(self.learning_rate(index), weight, number, self.setup.device);
            self.step(batch, crops, view, scalars);
            self.setup.counters.step = number;
            self.setup.counters.step_in_epoch = index + 1;
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
            self.setup.counters.epoch,
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

    /// The crops of an epoch's images from batch `first` on; `None` where images are taken whole.
    fn crops(&self, epoch: u32, view: u32, first: u64) -> Option<Crops> {
        let training = &self.spec.training;
        let source = CropSource {
            seed: training.seed,
            images: self.setup.data.train.len(),
            side: u64::from(self.spec.dataset.image_size),
            device: self.setup.device,
        };
        match (training.augmentation, training.teacher_cache) {
            // A resized crop is taken while the image is decoded.
            (Augmentation::None | Augmentation::ResizedCropFlip, _) => None,
            (Augmentation::CropFlip, Some(TeacherCache::Views(_))) => Some(Crops::of_view(source, view)),
            (Augmentation::CropFlip, _) => Some(Crops::of_epoch(source, epoch, first, u64::from(training.batch_size))),
        }
    }

    /// Trains on a batch. The teacher's logits come from the cache or go there.
    fn step(&mut self, batch: Batch, crops: Option<Tensor>, view: u32, scalars: StepScalars) {
        let Batch { images, labels, indices, index_tensor, portion } = batch;
        if indices.is_empty() {
            return self.step_without_images(scalars);
        }
        self.ranks.weight_loss(&portion);
        let indices = RowIndices { host: &indices, device: &index_tensor };
        let found = self.teacher_cache.as_mut().and_then(|cache| cache.find(view, indices));
        let teacher_logits = found.map(|found| found.to_device(self.setup.device));
        let is_new = teacher_logits.is_none();
        let logits = self.execute(Inputs { images, labels, crops, teacher_logits, scalars });
        if let (true, Some(cache), Some(logits)) = (is_new, &mut self.teacher_cache, logits) {
            cache.store(view, indices, &logits);
        }
    }

    /// Takes part in a step whose batch has no image for this rank: a black image with a loss of weight zero leaves all
    /// ranks with the same weights.
    fn step_without_images(&mut self, scalars: StepScalars) {
        self.ranks.weight_loss(&Portion { rows: 0..0, batch_size: 1 });
        self.execute(Inputs::one_black_image(self.spec.dataset.image_size, self.setup.device, scalars));
    }

    fn execute(&mut self, inputs: Inputs) -> Option<Tensor> {
        let Setup { executor, student, objective, optimizer, .. } = &mut self.setup;
        executor.run(student, objective, optimizer, &mut self.meter, &mut self.ranks, inputs)
    }

    fn end_epoch(&mut self) -> Result<Flow> {
        let training = &self.spec.training;
        let done = self.setup.counters.epoch + 1;
        let is_last = done == training.epochs;
        if (is_last || done.is_multiple_of(training.eval_every_epochs)) && self.evaluate_student(done)? == Flow::Stop {
            return Ok(Flow::Stop);
        }
        self.setup.counters.epoch = done;
        self.setup.counters.step_in_epoch = 0;
        let is_last_but_one = done + 1 == training.epochs;
        if is_last || is_last_but_one || done.is_multiple_of(training.checkpoint_every_epochs) {
            self.save()?;
        }
        if is_last_but_one && self.ranks.is_leader() {
            outputs::keep_for_verification(self.output)?;
        }
        Ok(Flow::Continue)
    }

    fn evaluate_student(&mut self, epochs_done: u32) -> Result<Flow> {
        let begun = Instant::now();
        let goes_on = || self.control.stop_request().is_none();
        let setup = &mut self.setup;
        self.ranks.broadcast_statistics(&setup.student)?;
        let (loader, normalisation) = (&setup.data.eval, &setup.objective.normalisation);
        let evaluation = evaluate::evaluate(&setup.student, loader, normalisation, &self.ranks, goes_on, |_| {})?;
        let Some(evaluation) = evaluation else {
            if self.control.stop_request() == Some(StopRequest::Pause) {
                self.save()?;
            }
            return Ok(Flow::Stop);
        };
        self.seconds_per_evaluation = begun.elapsed().as_secs_f64();
        if !evaluation.loss.is_finite() {
            let step = setup.counters.step;
            return Err(Error::numeric(format!(
                "the loss on the evaluation split is not finite after step {step}: lower \
                 training.optimizer.learning_rate, or set training.clip_grad_norm"
            )));
        }
        setup.counters.last = Some(evaluation);
        if setup.counters.best.is_none_or(|(best, _)| evaluation.top1 > best.top1) {
            setup.counters.best = Some((evaluation, epochs_done));
            setup.best = if self.ranks.is_leader() { Some(state_dict::copy_of(&setup.student)?) } else { None };
        }
        let place = self.place();
        if let Some(message) = self.chance_watch.evaluated(&evaluation, place) {
            self.warn(message);
        }
        let Evaluation { top1, top5, loss, .. } = evaluation;
        let points = [(series::EVAL_TOP1, top1), (series::EVAL_TOP5, top5), (series::EVAL_LOSS, loss)];
        self.record(points.map(|(name, value)| (name.to_owned(), value)).into())?;
        Ok(Flow::Continue)
    }

    /// Writes the checkpoint to resume from. All ranks have the same state, so rank 0 writes it.
    fn save(&mut self) -> Result<()> {
        if self.ranks.is_leader() && self.may_save()? {
            outputs::save_checkpoint(&self.checkpoint, &self.setup)?;
            let counters = &self.setup.counters;
            self.report.event(&Event::Checkpoint { epoch: counters.epoch, step: counters.step });
        }
        Ok(())
    }

    fn stopped(self) -> Ending {
        let counters = &self.setup.counters;
        self.report.event(&Event::Stopped { epoch: counters.epoch, step: counters.step });
        Ending::Stopped
    }
}

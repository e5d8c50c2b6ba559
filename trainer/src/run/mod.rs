//! A whole training run: set up, epochs, files. [`setup`] makes what it needs.

pub mod cuda_graphs;
pub mod evaluate;
pub mod manifest;
pub mod optim;
pub mod resume;
pub mod setup;
pub mod startup_timer;
pub mod step;
pub mod teacher_evaluation;

use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use crate::cache::rows::Numbers;
use crate::cache::teacher_logits::{TeacherCache, view_of};
use crate::data::{Crops, Loaded, Share};
use crate::device;
use crate::error::{Error, Result};
use crate::loss::sdd::warmup;
use crate::models::weights::{self, StateDict};
use crate::ranks::{Order, Ranks};
use crate::run::evaluate::evaluate;
use crate::run::resume::{self, State};
use crate::run::setup::Setup;
use crate::run::step::{Inputs, Meter, Rates};
use crate::worker_link::control::{Control, Wish};
use crate::worker_link::metrics_file::Metrics;
use crate::worker_link::report::Report;
use distillery::protocol::{Evaluation, Event, Level, Outcome, Progress, files};
use distillery::spec::{self, Augmentation, JobSpec};

/// What the command line decides.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Settings {
    /// Where files go.
    pub output: PathBuf,
    /// `auto`, `cpu`, `cuda` or `cuda:N`; before ranks are given one each, so many with commas between them.
    pub device: String,
    /// The devices of all ranks, where there are several.
    pub all_devices: Option<String>,
    /// This rank's part of the training images, and its number.
    pub share: Share,
    /// Threads of the arithmetic, of all ranks together.
    pub threads: usize,
    /// Bytes of decoded images that are kept in memory; more are read again in every epoch.
    pub data_memory: u64,
    /// Whether steps on a GPU are recorded as CUDA graphs.
    pub cuda_graphs: bool,
    /// Where the teacher's logits and decoded images are kept for later runs; without it the logits are kept in memory.
    pub cache_dir: Option<PathBuf>,
    /// Bytes that may be kept there.
    pub cache_limit: u64,
    /// Which attempt at the job this is, from 1, for the manifest.
    pub attempt: u32,
}

impl Settings {
    /// Sets this process up for its part of the threads, before the first tensor, where so many devices train.
    pub fn prepare(&self, devices: u32) {
        device::prepare((self.threads / devices.max(1) as usize).max(1));
    }
}

/// How a run ended that did not fail.
#[derive(Debug)]
pub enum Ending {
    /// All epochs are done and all files written.
    Finished,
    /// It was told to stop.
    Stopped,
}

/// Trains by a specification whose paths are local. `meet` gives the ranks that train together, this one among them, once
/// all is loaded on its device.
///
/// # Errors
/// In the classes of [`Error`].
pub fn train(
    spec: &JobSpec,
    settings: &Settings,
    meet: impl FnOnce(Device, &mut dyn Report) -> Result<Ranks>,
    control: &Control,
    report: &mut dyn Report,
) -> Result<Ending> {
    let state = settings.output.join(files::CHECKPOINT);
    let directory = state.parent().expect("the checkpoint is in a directory");
    std::fs::create_dir_all(directory).map_err(Error::storage(directory))?;
    let setup = Setup::new(spec, settings, report)?;
    let mut ranks = meet(setup.device, report)?;
    ranks.begin(&setup.student, &setup.optimizer.state(), setup.device)?;
    let metrics = match ranks.leads() {
        true => Some(Metrics::open(&settings.output.join(files::METRICS), setup.counters.step)?),
        false => None,
    };
    let scales = setup.objective.distillation.as_ref().map_or(&[][..], |distillation| &distillation.scales);
    let meter = Meter::new(scales, setup.device);
    let output = &settings.output;
    // An attempt that starts within the last epoch leaves what it started from.
    if ranks.leads() && setup.counters.epoch + 1 == spec.training.epochs && setup.counters.step > 0 {
        keep_for_verification(output)?;
    }
    let flushed = Instant::now();
    let teacher_cache = None;
    let mut run = Run {
        spec,
        control,
        report,
        ranks,
        metrics,
        meter,
        output,
        state,
        flushed,
        evaluated: 0.0,
        setup,
        teacher_cache,
        stepped: false,
    };
    run.report.event(&Event::Started(run.setup.started.clone()));
    run.tell();
    if run.evaluate_teacher(settings)? == Flow::Stop {
        return Ok(run.stopped());
    }
    run.setup.startup.mark("teacher");
    run.teacher_cache = TeacherCache::of_run(spec, settings, &run.ranks, &mut run.setup)?;
    while run.setup.counters.epoch < spec.training.epochs {
        if run.epoch()? == Flow::Stop {
            return Ok(run.stopped());
        }
    }
    if run.ranks.leads() {
        run.finish()?;
    }
    Ok(Ending::Finished)
}

/// Whether to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    GoOn,
    Stop,
}

struct Run<'a> {
    spec: &'a JobSpec,
    control: &'a Control,
    report: &'a mut dyn Report,
    setup: Setup,
    /// The processes that train together; the first of them writes and reports.
    ranks: Ranks,
    /// Where there is somebody to write them.
    metrics: Option<Metrics>,
    meter: Meter,
    /// Where files go.
    output: &'a Path,
    /// The checkpoint to resume from.
    state: PathBuf,
    flushed: Instant,
    /// Seconds that the last evaluation took.
    evaluated: f64,
    teacher_cache: Option<TeacherCache>,
    /// Whether this attempt has done a step.
    stepped: bool,
}

/// Seconds between two readings of the metrics, each of which waits for the device.
const BETWEEN_READINGS: f64 = 1.0;

impl Run<'_> {
    fn evaluate_teacher(&mut self, settings: &Settings) -> Result<Flow> {
        if self.setup.objective.teacher.is_none() {
            return Ok(Flow::GoOn);
        }
        let flow = if self.ranks.leads() { self.ask_teacher(settings)? } else { Flow::GoOn };
        // The others wait here.
        Ok(if self.ranks.any(flow == Flow::Stop)? { Flow::Stop } else { Flow::GoOn })
    }

    fn ask_teacher(&mut self, settings: &Settings) -> Result<Flow> {
        let go_on = || self.control.wish() == Wish::GoOn;
        let Some(evaluation) = teacher_evaluation::evaluation(self.spec, settings, &mut self.setup, go_on)? else {
            return Ok(Flow::Stop);
        };
        if !evaluation.loss.is_finite() {
            return Err(Error::user("the teacher's outputs are not finite: its checkpoint holds broken weights"));
        }
        self.setup.counters.teacher = Some(evaluation);
        self.report.event(&Event::Teacher(evaluation));
        let chance = 100.0 / f64::from(self.setup.started.classes);
        // Twice chance means something only where there are several classes.
        if evaluation.top1 < (2.0 * chance).min(chance + 0.25 * (100.0 - chance)) {
            let message = format!(
                "the teacher is right for {:.1} % of the evaluation images, and guessing would be for {chance:.1} %: \
                 check its normalisation (teacher.mean, teacher.std), the order of its classes, and that its \
                 architecture is the right one",
                evaluation.top1
            );
            self.report.event(&crate::warning(message));
        }
        Ok(Flow::GoOn)
    }

    fn epoch(&mut self) -> Result<Flow> {
        let training = &self.spec.training;
        let epoch = self.setup.counters.epoch;
        let warmup = warmup(epoch + 1, self.spec.distillation.warmup_epochs.unwrap_or(0));
        let weight = self.setup.objective.weight * warmup;
        let steps_per_epoch = self.setup.started.steps_per_epoch;
        let first = self.setup.counters.step_in_epoch;
        let view = match training.teacher_cache {
            Some(spec::TeacherCache::Views(views)) => view_of(training.seed, epoch, views),
            _ => epoch,
        };
        let train = std::rc::Rc::clone(&self.setup.train);
        let crops = self.crops(epoch, view, first);
        self.flushed = Instant::now();
        let mut unread = 0;
        for (index, batch) in (first..).zip(train.epoch_of_view(epoch, view, first)) {
            // What is left of the epoch is read at its end. Where that is little, it is no point of its own: the means of a
            // few images, and of a last, smaller batch, are far from those before.
            let is_enough = 2 * steps_per_epoch.saturating_sub(index) >= unread;
            let reads = is_enough && self.flushed.elapsed().as_secs_f64() > BETWEEN_READINGS;
            let order = self.ranks.agree(Order { wish: self.control.wish(), reads });
            if order.reads || order.wish == Wish::Pause {
                self.flush()?;
                unread = 0;
            }
            unread += 1;
            match order.wish {
                Wish::GoOn => {}
                Wish::Pause => {
                    self.keep_logits();
                    self.save()?;
                    return Ok(Flow::Stop);
                }
                Wish::Stop => return Ok(Flow::Stop),
            }
            let loaded = batch?;
            let parts = crops.as_ref().map(|crops| crops.of_batch(index, loaded.rows.start, &loaded.indices));
            let number = self.setup.counters.step + 1;
            let base = training.optimizer.learning_rate();
            let rate = optim::learning_rate(&training.schedule, base, epoch, training.epochs, index, steps_per_epoch);
            self.step(loaded, parts, view, Rates::new(rate, weight, number, self.setup.device));
            self.setup.counters.step = number;
            self.setup.counters.step_in_epoch = index + 1;
            if !std::mem::replace(&mut self.stepped, true) {
                self.setup.startup.mark("step");
                let message = self.setup.startup.summary();
                self.report.event(&Event::Log { level: Level::Info, message });
            }
        }
        self.keep_logits();
        self.flush()?;
        self.end_epoch()
    }

    fn keep_logits(&mut self) {
        if let Some(cache) = &mut self.teacher_cache {
            cache.write();
        }
    }

    /// The parts that are taken of an epoch's images, from batch `first` on; none where all of them is.
    fn crops(&self, epoch: u32, view: u32, first: u64) -> Option<Crops> {
        let training = &self.spec.training;
        let (images, side) = (self.setup.train.len(), u64::from(self.spec.dataset.image_size));
        let (seed, device) = (training.seed, self.setup.device);
        match (training.augmentation, training.teacher_cache) {
            // A resized crop is made when the image is decoded.
            (Augmentation::None | Augmentation::ResizedCropFlip, _) => None,
            (Augmentation::CropFlip, Some(spec::TeacherCache::Views(_))) => {
                Some(Crops::of_view(seed, view, [images, side], device))
            }
            (Augmentation::CropFlip, _) => {
                let sizes = [images, u64::from(training.batch_size), side];
                Some(Crops::of_epoch(seed, epoch, first, sizes, device))
            }
        }
    }

    /// A step on a batch; what the teacher says of it is kept where that is wanted.
    fn step(&mut self, loaded: Loaded, parts: Option<Tensor>, view: u32, rates: Rates) {
        let Loaded { images, labels, numbers, indices, rows, all } = loaded;
        let device = self.setup.device;
        if numbers.is_empty() {
            return self.step_without_images(rates);
        }
        self.ranks.weigh(rows.len(), all);
        let numbers = Numbers { numbers: &numbers, indices: &indices };
        let known = self.teacher_cache.as_mut().and_then(|cache| cache.find(view, numbers));
        let logits = known.map(|known| known.to_device(device));
        let is_asked = logits.is_none();
        let inputs = Inputs { images, labels, parts, logits, rates };
        let Setup { steps, student, objective, optimizer, .. } = &mut self.setup;
        let logits = steps.run(student, objective, optimizer, &mut self.meter, &mut self.ranks, inputs);
        if let (true, Some(cache), Some(logits)) = (is_asked, &mut self.teacher_cache, logits) {
            cache.keep(view, numbers, &logits);
        }
    }

    /// A step in which this rank has no part but the same weights after it: on a black image, which counts nothing.
    fn step_without_images(&mut self, rates: Rates) {
        let (side, device) = (i64::from(self.spec.dataset.image_size), self.setup.device);
        let images = Tensor::zeros([1, 3, side, side], (Kind::Uint8, device));
        let labels = Tensor::zeros([1], (Kind::Int64, device));
        let inputs = Inputs { images, labels, parts: None, logits: None, rates };
        self.ranks.weigh(0, 1);
        let Setup { steps, student, objective, optimizer, .. } = &mut self.setup;
        steps.run(student, objective, optimizer, &mut self.meter, &mut self.ranks, inputs);
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
        if is_last_but_one && self.ranks.leads() {
            keep_for_verification(self.output)?;
        }
        Ok(Flow::GoOn)
    }

    fn evaluate_student(&mut self, done: u32) -> Result<Flow> {
        let begun = Instant::now();
        let go_on = || self.control.wish() == Wish::GoOn;
        let setup = &mut self.setup;
        self.ranks.share_statistics(&setup.student)?;
        let Setup { student, eval, objective, .. } = &*setup;
        let Some(evaluation) = evaluate(student, eval, &objective.normalisation, &self.ranks, go_on, |_| {})? else {
            if self.control.wish() == Wish::Pause {
                self.save()?;
            }
            return Ok(Flow::Stop);
        };
        self.evaluated = begun.elapsed().as_secs_f64();
        if !evaluation.loss.is_finite() {
            let step = setup.counters.step;
            return Err(Error::numeric(format!(
                "the loss on the evaluation split is not finite after step {step}: lower \
                 training.optimizer.learning_rate, or set training.clip_grad_norm"
            )));
        }
        setup.counters.last = Some(evaluation);
        if setup.counters.best.is_none_or(|(best, _)| evaluation.top1 > best.top1) {
            setup.counters.best = Some((evaluation, done));
            setup.best = if self.ranks.leads() { Some(weights::state_dict(&setup.student)?) } else { None };
        }
        let Evaluation { top1, top5, loss, .. } = evaluation;
        self.record(&[("eval/top1", top1), ("eval/top5", top5), ("eval/loss", loss)])?;
        Ok(Flow::GoOn)
    }

    /// Reads the sums on the device, which waits for it, and passes them on.
    fn flush(&mut self) -> Result<()> {
        let (images, values) = self.meter.read(&self.ranks)?;
        self.tell();
        if images == 0 {
            return Ok(());
        }
        let rate = images as f64 / self.flushed.elapsed().as_secs_f64().max(1e-9);
        self.flushed = Instant::now();
        let training = &self.spec.training;
        let counters = &self.setup.counters;
        let learning_rate = optim::learning_rate(
            &training.schedule,
            training.optimizer.learning_rate(),
            counters.epoch,
            training.epochs,
            counters.step_in_epoch.saturating_sub(1),
            self.setup.started.steps_per_epoch,
        );
        let mut points: Vec<(&str, f64)> = values.iter().map(|(name, value)| (name.as_str(), *value)).collect();
        points.extend([("lr", learning_rate), ("images_per_second", rate)]);
        points.extend(device::resident_bytes().map(|bytes| ("memory/resident_bytes", bytes as f64)));
        self.record(&points)?;
        self.progress(rate);
        Ok(())
    }

    /// Passes on what there is to say.
    fn tell(&mut self) {
        for event in self.setup.steps.events() {
            self.report.event(&event);
        }
        for message in self.teacher_cache.iter_mut().flat_map(TeacherCache::warnings) {
            self.report.event(&crate::warning(message));
        }
    }

    fn record(&mut self, values: &[(&str, f64)]) -> Result<()> {
        let Some(metrics) = &mut self.metrics else { return Ok(()) };
        let counters = &self.setup.counters;
        let epoch = f64::from(counters.epoch)
            + counters.step_in_epoch as f64 / self.setup.started.steps_per_epoch.max(1) as f64;
        let points = metrics.write(values, counters.step, epoch)?;
        self.report.event(&Event::Metrics { points });
        Ok(())
    }

    fn progress(&mut self, images_per_second: f64) {
        let (counters, started) = (&self.setup.counters, &self.setup.started);
        let steps = started.steps_per_epoch * u64::from(started.epochs);
        let share_left = 1.0 - counters.step as f64 / steps.max(1) as f64;
        let images = started.train_images as f64 * f64::from(started.epochs);
        let evaluations = f64::from(started.epochs / self.spec.training.eval_every_epochs);
        let eta_seconds = share_left * (images / images_per_second + evaluations * self.evaluated);
        self.report.event(&Event::Progress(Progress {
            epoch: (counters.epoch + 1).min(started.epochs),
            epochs: started.epochs,
            step: counters.step,
            steps,
            fraction: 1.0 - share_left,
            images_per_second,
            eta_seconds,
        }));
    }

    /// Writes the checkpoint to resume from, of which all ranks have the same.
    fn save(&mut self) -> Result<()> {
        if !self.ranks.leads() {
            return Ok(());
        }
        let setup = &self.setup;
        let student = weights::state_dict(&setup.student)?;
        check_finite(&student, setup.counters.step)?;
        let optimizer = setup.optimizer.state();
        let optimizer = optimizer.iter().map(|(name, tensor)| Ok((name.clone(), weights::copied(tensor)?)));
        let best = setup
            .best
            .as_ref()
            .map(|best| best.iter().map(|(name, tensor)| (name.clone(), tensor.shallow_clone())).collect());
        let state =
            State { counters: setup.counters.clone(), student, best, optimizer: optimizer.collect::<Result<_>>()? };
        resume::save(&self.state, &state)?;
        self.report.event(&Event::Checkpoint { epoch: setup.counters.epoch, step: setup.counters.step });
        Ok(())
    }

    fn stopped(self) -> Ending {
        let counters = &self.setup.counters;
        self.report.event(&Event::Stopped { epoch: counters.epoch, step: counters.step });
        Ending::Stopped
    }

    /// Writes the students and, last, the manifest.
    fn finish(self) -> Result<()> {
        let Self { spec, report, output, mut setup, .. } = self;
        let missing = || Error::internal("no evaluation was done");
        let (best, best_epoch) = setup.counters.best.ok_or_else(missing)?;
        let last = setup.counters.last.ok_or_else(missing)?;
        let last_weights = weights::state_dict(&setup.student)?;
        let best_weights = setup.best.take().ok_or_else(missing)?;
        let write = |name: &str, state: &StateDict, epochs: u32| {
            let path = output.join(name);
            let batches = setup.started.steps_per_epoch * u64::from(epochs);
            weights::write(&path, &weights::with_batches_tracked(state, batches), &setup.metadata)?;
            manifest::facts(&path, setup.student.parameters())
        };
        let student = write(files::BEST_STUDENT, &best_weights, best_epoch)?;
        let last_student = write(files::LAST_STUDENT, &last_weights, spec.training.epochs)?;
        let outcome = Outcome {
            teacher_top1: setup.counters.teacher.map(|teacher| teacher.top1),
            best_top1: best.top1,
            best_epoch,
            last_top1: last.top1,
            student,
        };
        if let Some(regions) = &setup.counters.regions {
            manifest::write_json(&output.join(files::REGIONS), regions)?;
        }
        manifest::write(&output.join(files::MANIFEST), spec, setup, &outcome, last_student)?;
        report.event(&Event::Finished(outcome));
        Ok(())
    }
}

/// Keeps the state that the last epoch starts from, so that `distillery verify` can repeat that. A state is replaced by
/// rename, so a second name for it stays as it is.
fn keep_for_verification(output: &Path) -> Result<()> {
    let kept = output.join(files::BEFORE_LAST_EPOCH);
    match std::fs::remove_file(&kept) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(Error::storage(&kept)(error)),
        _ => {}
    }
    let state = output.join(files::CHECKPOINT);
    // Not every file system has links.
    std::fs::hard_link(&state, &kept).or_else(|_| std::fs::copy(&state, &kept).map(drop)).map_err(Error::storage(&kept))
}

/// A loss can be finite while the step that follows from it is not.
fn check_finite(state: &StateDict, step: u64) -> Result<()> {
    for (name, tensor) in state {
        if tensor.isfinite().all().int64_value(&[]) == 0 {
            return Err(Error::numeric(format!(
                "{name} is not finite after step {step}: lower training.optimizer.learning_rate, or set \
                 training.clip_grad_norm"
            )));
        }
    }
    Ok(())
}

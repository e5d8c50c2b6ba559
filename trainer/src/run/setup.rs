//! Everything that a run needs before its first step: data, networks, optimiser, and the state that an earlier attempt
//! left.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::Utc;
use tch::{Device, Kind, Tensor};

use super::attempt::AttemptRecord;
use super::average::WeightAverage;
use super::cuda_graphs::StepExecutor;
use super::evaluate::EvaluationSize;
use super::networks::{NetworkHashes, Networks, Teacher, TeacherPlacement};
use super::optim::Optimizer;
use super::precision::MapPrecision;
use super::predictions::RunPredictions;
use super::resume::{self, Counters, DataSize, RunState};
use super::startup_timer::StartupTimer;
use super::step::Objective;
use crate::data::normalisation::Normalisation;
use crate::data::open::Data;
use crate::device;
use crate::device::card::Card;
use crate::device::cuda::Tf32;
use crate::error::{Error, Result};
use crate::loss::sdd::Distillation;
use crate::loss::target::CrossEntropy;
use crate::models::Network;
use crate::models::state_dict::StateDict;
use crate::settings::Settings;
use crate::worker_link::report::{Report, warning};
use distillery_core::dataset::MeanStd;
use distillery_core::protocol::{Event, Level, Started, files};
use distillery_core::spec::{self, LabelLoss, TrainingPlan, TrainingSpec};

/// What a run works with.
#[derive(Debug)]
pub struct Setup {
    pub hardware: Hardware,
    pub data: Data,
    pub student: Network,
    /// The loss, with the teacher.
    pub objective: Objective,
    pub optimizer: Optimizer,
    pub state: TrainingState,
    pub files: NetworkFiles,
    /// What the run reports when it starts.
    pub started: Started,
    pub startup: StartupTimer,
}

/// What computes, and how.
#[derive(Debug)]
pub struct Hardware {
    pub device: Device,
    /// The GPU; `None` on the CPU.
    pub card: Option<Card>,
    pub executor: StepExecutor,
    /// How much fits into the memory at a time, as evaluations find out.
    pub evaluation_size: EvaluationSize,
    /// Holds the GPU's float32 setting until the run ends.
    _tf32: Tf32,
}

/// What training changes besides the weights and the optimiser: zero, or what an earlier attempt left.
#[derive(Debug)]
pub struct TrainingState {
    pub counters: Counters,
    /// The best weights so far, on the CPU.
    pub best: Option<StateDict>,
    /// What the best student and the teacher predict for the evaluation images.
    pub predictions: RunPredictions,
}

/// What the results say of the files that the networks came from.
#[derive(Debug)]
pub struct NetworkFiles {
    pub hashes: NetworkHashes,
    /// The teacher's accuracy in percent, if its file names it.
    pub recorded_accuracy: Option<f64>,
}

impl Setup {
    /// Loads data and networks. Warnings go to `report`.
    ///
    /// # Errors
    /// A file cannot be read, or does not fit the specification or this machine.
    pub fn new(spec: &TrainingPlan, settings: &Settings, report: &mut dyn Report) -> Result<Self> {
        let mut startup = StartupTimer::begin();
        warn_of(spec::doubts(&spec.distillation, &spec.training), report);
        let device = device::open(&settings.device)?;
        // Before anything else uses the device. With several ranks there are no graphs: they would lack the host's part
        // of averaging the gradients.
        let executor = StepExecutor::new(device, settings.cuda_graphs && settings.shard.world_size == 1);
        startup.mark("device");
        let data = Data::open(spec, &settings.resources(device), report)?;
        warn_of(spec::of_images(&spec.training, data.train.len()), report);
        startup.mark("data");
        let arithmetic = MapPrecision::choose(spec, device)?;
        let tf32 = Tf32::set(arithmetic == MapPrecision::Tf32);
        let batch_size = settings.shard.largest(spec.training.batch_size);
        let placement = TeacherPlacement { device, kind: arithmetic.kind(), batch_size };
        let Networks { mut student, teacher, hashes } = Networks::load(spec, &data, placement, report)?;
        let size =
            DataSize { train_images: data.train.len(), eval_images: data.eval.len(), classes: data.classes.count };
        let identity = resume::identity(spec, &hashes, size);
        let state = resume::load(&settings.output.join(files::CHECKPOINT), &identity, size)?;
        if let Some(state) = &state {
            resume_from(state, &student, spec, report)?;
        }
        student.draw_from(spec.training.seed, settings.shard.rank);
        student.place(device, Kind::Float);
        student.compute_in(arithmetic.kind());
        let mut optimizer = optimizer(&spec.training, &student)?;
        let mut state = match state {
            Some(RunState { counters, best, predictions, optimizer: saved, .. }) => {
                optimizer.load_state(&saved).map_err(Error::internal)?;
                TrainingState { counters, best, predictions }
            }
            None => TrainingState {
                counters: Counters::new(identity, size),
                best: None,
                predictions: RunPredictions::default(),
            },
        };
        let recorded_accuracy = teacher.as_ref().and_then(|teacher| teacher.recorded_accuracy);
        let mut objective = objective(spec, &data, device, batch_size, teacher)?;
        let kernels = OwnKernels::of(settings, &mut objective, &mut student, device, report);
        let attempt = attempt(settings, device, arithmetic, &state.counters, kernels, report);
        let started = started(spec, &attempt, &data, &state.counters);
        let is_over = state.counters.is_over(spec.training.epochs);
        state.counters.attempts.extend((!is_over).then_some(attempt));
        startup.mark("networks");
        let card = Card::of(device);
        let evaluation_size = EvaluationSize::default();
        let hardware = Hardware { device, card, executor, evaluation_size, _tf32: tf32 };
        let files = NetworkFiles { hashes, recorded_accuracy };
        Ok(Self { hardware, data, student, objective, optimizer, state, files, started, startup })
    }

    /// Compares the data's files, once they are hashed, with those that earlier attempts were trained on, or notes
    /// their hashes for later ones. Waits for `patience` at most. Returns whether the hashes are known. Only on rank 0,
    /// which hashes for all.
    ///
    /// # Errors
    /// The files are others than before, or cannot be read.
    pub fn check_files(&mut self, patience: Duration) -> Result<bool> {
        let Some(found) = self.data.split_hashes.within(patience)? else { return Ok(false) };
        match &self.state.counters.data_sha256 {
            Some(before) => resume::check_same(before, found)?,
            None => self.state.counters.data_sha256 = Some(found.clone()),
        }
        Ok(true)
    }
}

fn warn_of(doubts: impl IntoIterator<Item = String>, report: &mut dyn Report) {
    doubts.into_iter().for_each(|doubt| report.event(&warning(doubt)));
}

/// What kernels of our own compute that rounds otherwise than libtorch's operators.
#[derive(Debug, Clone, Copy, Default)]
struct OwnKernels {
    loss: bool,
    norms: bool,
}

impl OwnKernels {
    /// Has them compute what they can, if the settings say so. Tells the job's history what they compute. Batch norms
    /// on the CPU have loops that are faster.
    fn of(
        settings: &Settings,
        objective: &mut Objective,
        student: &mut Network,
        device: Device,
        report: &mut dyn Report,
    ) -> Self {
        let mut used = Self::default();
        if !settings.own_kernels {
            return used;
        }
        let cropped = objective.use_crop_kernel(device);
        tell(&cropped, "crops and normalises images that are neither erased nor mixed", report);
        if device != Device::Cpu {
            let normalised = student.use_norm_kernel(device);
            tell(&normalised, "computes each pass of a batch norm with the sum and the ReLU behind it", report);
            used.norms = normalised.is_ok();
        }
        if let Some(distillation) = &mut objective.distillation {
            let distilled = distillation.use_kernel(device);
            tell(&distilled, "computes the distillation loss and its gradient", report);
            used.loss = distilled.is_ok();
        }
        used
    }
}

/// Tells whether a kernel is used.
fn tell(used: &std::result::Result<(), String>, what: &str, report: &mut dyn Report) {
    report.event(&match used {
        Ok(()) => Event::Log { level: Level::Info, message: format!("one kernel {what}") },
        Err(error) => warning(format!(
            "the kernel that {what} is not used, so libtorch's operators do that, which is slower on a GPU: {error}"
        )),
    });
}

/// The attempt that begins. Warns of what it does otherwise than the one before.
fn attempt(
    settings: &Settings,
    device: Device,
    arithmetic: MapPrecision,
    counters: &Counters,
    kernels: OwnKernels,
    report: &mut dyn Report,
) -> AttemptRecord {
    let attempt = AttemptRecord {
        number: settings.attempt,
        started_at: Utc::now(),
        from_step: counters.step,
        device: settings.all_devices.clone().unwrap_or_else(|| device::name(device)),
        card: Card::of(device),
        precision: arithmetic.name().to_owned(),
        threads: u32::try_from(settings.threads).unwrap_or(u32::MAX),
        data_memory: settings.data_memory,
        loss_kernel: kernels.loss,
        norm_kernels: kernels.norms,
    };
    if let Some(earlier) = counters.attempts.last() {
        warn_of(attempt.other_card(earlier), report);
        warn_of(attempt.otherwise_than(earlier), report);
    }
    attempt
}

fn started(spec: &TrainingPlan, attempt: &AttemptRecord, data: &Data, counters: &Counters) -> Started {
    Started {
        device: attempt.device.clone(),
        precision: attempt.precision.clone(),
        threads: attempt.threads,
        train_images: data.train.len(),
        eval_images: data.eval.len(),
        classes: data.classes.count,
        steps_per_epoch: data.train.steps_per_epoch(),
        epochs: spec.training.epochs,
        resumed_epochs: counters.epoch,
        resumed_step: counters.step,
    }
}

fn objective(
    spec: &TrainingPlan,
    data: &Data,
    device: Device,
    batch_size: u32,
    teacher: Option<Teacher>,
) -> Result<Objective> {
    let normalisation = |MeanStd { mean, std }| Normalisation::new(mean, std, device);
    let of_teacher = teacher.as_ref().and_then(|teacher| teacher.normalisation);
    Ok(Objective {
        normalisation: normalisation(data.mean_std),
        teacher_normalisation: of_teacher.filter(|of_teacher| *of_teacher != data.mean_std).map(normalisation),
        batch_size,
        teacher: teacher.map(|teacher| teacher.network),
        kept_scales: spec.distillation.scales.clone(),
        distillation: Distillation::new(&spec.distillation, device),
        label_loss: label_loss(&spec.training, data, device)?,
        cross_entropy: spec.distillation.weights.cross_entropy,
        weight: spec.distillation.weights.distillation,
        clip: spec.training.clip_grad_norm,
    })
}

fn label_loss(training: &TrainingSpec, data: &Data, device: Device) -> Result<CrossEntropy> {
    let weights = training.class_weights.as_ref().map(|weights| weights.of_counts(&data.class_counts));
    let weights = weights.transpose().map_err(|detail| Error::user(format!("training.{detail}")))?;
    let class_weights = weights.map(|weights| Tensor::from_slice(&weights).to_kind(Kind::Float).to_device(device));
    let smoothing = training.label_smoothing.unwrap_or(0.0);
    let is_binary = training.label_loss == Some(LabelLoss::BinaryCrossEntropy);
    let has_unlabelled = data.splits.unlabelled.is_some();
    Ok(CrossEntropy { is_binary, smoothing, class_weights, threshold: training.label_threshold, has_unlabelled })
}

/// The optimiser of a student on its device.
fn optimizer(training: &TrainingSpec, student: &Network) -> Result<Optimizer> {
    let mut optimizer = Optimizer::new(&training.optimizer, named_parameters(student));
    if let Some(scale) = training.body_learning_rate_scale {
        let head = student.head_names();
        if head.is_empty() {
            return Err(Error::user(format!(
                "{} has no classifier that can be told from its body: leave out training.body_learning_rate_scale",
                student.name()
            )));
        }
        optimizer = optimizer.with_body_rate(scale, |name| head.contains(name));
    }
    if training.decay_biases_and_norms == Some(false) {
        optimizer = optimizer.without_decay_of_vectors();
    }
    Ok(match training.ema_decay {
        Some(decay) => optimizer.averaging(WeightAverage::new(student, decay)),
        None => optimizer,
    })
}

fn named_parameters(network: &Network) -> Vec<(String, Tensor)> {
    let trained = network.weights().iter().filter(|weight| weight.trained);
    trained.map(|weight| (weight.name.clone(), weight.tensor.shallow_clone())).collect()
}

/// Copies an earlier attempt's weights into the network. Warns if nobody can tell whether the data is still theirs.
fn resume_from(state: &RunState, network: &Network, spec: &TrainingPlan, report: &mut dyn Report) -> Result<()> {
    if state.counters.data_sha256.is_none() && !state.counters.is_over(spec.training.epochs) {
        let message = "the checkpoint to resume from does not name the SHA-256 of its data: an earlier version wrote \
                       it, or the run was paused before the files were hashed. If the data set has changed since, \
                       start from the beginning";
        report.event(&warning(message.to_owned()));
    }
    restore(network, &state.student)
}

/// Copies weights into the network that were copied from it.
pub(super) fn restore(network: &Network, state: &StateDict) -> Result<()> {
    let found: BTreeMap<&str, &Tensor> = state.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    for (index, weight) in network.weights().iter().enumerate() {
        let tensor = found.get(weight.name.as_str()).filter(|tensor| tensor.size() == weight.tensor.size());
        let missing = || Error::internal(format!("the checkpoint to resume from lacks {}", weight.name));
        network.set(index, tensor.ok_or_else(missing)?);
    }
    Ok(())
}

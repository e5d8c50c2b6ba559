//! Training of small networks on random images, step by step in this process.

use distillery_core::architecture;
use distillery_core::spec::TrainingPlan;
use distillery_trainer::data::normalisation::Normalisation;
use distillery_trainer::data::{Crops, DrawSource};
use distillery_trainer::loss::sdd::Distillation;
use distillery_trainer::loss::target::CrossEntropy;
use distillery_trainer::models::{self, Network};
use distillery_trainer::ranks::Ranks;
use distillery_trainer::run::cuda_graphs::StepExecutor;
use distillery_trainer::run::metrics::Meter;
use distillery_trainer::run::optim::Optimizer;
use distillery_trainer::run::step::{Inputs, Objective, StepScalars};
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};

use super::merged;
use super::torch::one_thread;

pub const BATCH: i64 = 8;
const CLASSES: u32 = 5;
const SIDE: i64 = 16;
/// Batches of an epoch; the last has half the images.
const BATCHES: i64 = 3;

/// A run without its files.
pub struct Training {
    pub student: Network,
    pub objective: Objective,
    pub optimizer: Optimizer,
    pub meter: Meter,
    pub executor: StepExecutor,
    images: Tensor,
    labels: Tensor,
    device: Device,
    number: u64,
    crops: Crops,
}

/// SD-KD at scales 1 and 2, with changes.
pub fn specification(changes: Value) -> TrainingPlan {
    let document = json!({
        "teacher": {"architecture": "resnet8", "checkpoint": "random"},
        "student": {"architecture": "resnet8"},
        "dataset": {"path": "random", "image_size": SIDE},
        "distillation": {"method": "sdd_kd", "scales": [1, 2]},
        "training": {"batch_size": BATCH, "precision": "float32"},
    });
    parsed(&merged(document, changes))
}

/// Training without a teacher.
pub fn plain() -> TrainingPlan {
    parsed(&json!({
        "student": {"architecture": "resnet8"},
        "dataset": {"path": "random", "image_size": SIDE},
        "distillation": {"method": "none"},
        "training": {"batch_size": BATCH, "precision": "float32"},
    }))
}

fn parsed(document: &Value) -> TrainingPlan {
    TrainingPlan::parse(document).unwrap_or_else(|faults| panic!("{faults:?}"))
}

impl Training {
    pub fn new(spec: &TrainingPlan, device: Device, kind: Kind, executor: StepExecutor) -> Self {
        one_thread();
        let network = |name: &str, seed| {
            let mut network = models::build(architecture::find(name).unwrap(), CLASSES, seed);
            network.place(device, if kind == Kind::Double { kind } else { Kind::Float });
            network.compute_in(kind);
            network
        };
        let teacher = spec.teacher.as_ref().map(|teacher| {
            let mut teacher = network(teacher.architecture.unwrap().name, 1);
            teacher.freeze(BATCH as u32, SIDE as u32);
            teacher
        });
        let student = network(spec.student.architecture.unwrap().name, 2);
        let trained = student.weights().iter().filter(|weight| weight.trained);
        let parameters = trained.map(|weight| (weight.name.clone(), weight.tensor.shallow_clone())).collect();
        let count = BATCHES * BATCH - BATCH / 2;
        let noise = Tensor::arange(count * 3 * SIDE * SIDE, (Kind::Int64, Device::Cpu)) * 7919;
        let images = noise.remainder(251).to_kind(Kind::Uint8).view([count, 3, SIDE, SIDE]);
        let labels = Tensor::arange(count, (Kind::Int64, Device::Cpu)).remainder(i64::from(CLASSES));
        let scales = if teacher.is_some() { spec.distillation.scales.as_slice() } else { &[] };
        Self {
            executor,
            optimizer: Optimizer::new(&spec.training.optimizer, parameters),
            meter: Meter::new(scales, device),
            objective: Objective {
                normalisation: Normalisation::new([0.5; 3], [0.25; 3], device),
                // Differs from the student's.
                teacher_normalisation: Some(Normalisation::new([0.4; 3], [0.3; 3], device)),
                batch_size: BATCH as u32,
                teacher,
                kept_scales: spec.distillation.scales.clone(),
                distillation: Distillation::new(&spec.distillation, device),
                label_loss: CrossEntropy {
                    smoothing: spec.training.label_smoothing.unwrap_or(0.0),
                    ..CrossEntropy::default()
                },
                cross_entropy: spec.distillation.weights.cross_entropy,
                weight: spec.distillation.weights.distillation,
                clip: spec.training.clip_grad_norm,
            },
            student,
            images: images.to_device(device),
            labels: labels.to_device(device),
            device,
            number: 0,
            crops: Crops::of_view(DrawSource { seed: 7, images: count as u64, side: SIDE as u64, device }, 0),
        }
    }

    /// The next batch, with a learning rate of its own.
    pub fn inputs(&mut self, logits: Option<Tensor>) -> Inputs {
        let first = self.number as i64 % BATCHES * BATCH;
        self.number += 1;
        let count = BATCH.min(self.images.size()[0] - first);
        let numbers = Tensor::arange_start(first, first + count, (Kind::Int64, self.device));
        let share = 1.0 / self.number as f64;
        let scalars = StepScalars::new(0.05 * share, self.objective.weight * share, self.number, self.device);
        let [images, labels] = [&self.images, &self.labels].map(|tensor| tensor.index_select(0, &numbers));
        let crops = Some(self.crops.of_batch(0, 0, &numbers));
        Inputs { crops, teacher_logits: logits, ..Inputs::new(images, labels, scalars) }
    }

    /// Runs a step and returns the teacher's logits.
    pub fn step(&mut self, logits: Option<Tensor>) -> Option<Tensor> {
        let inputs = self.inputs(logits);
        let Self { student, objective, optimizer, meter, executor, .. } = self;
        executor.run(student, objective, optimizer, meter, &mut Ranks::single(), inputs).map(|logits| logits.copy())
    }

    /// Weights, running statistics and the optimiser's state, on the CPU.
    pub fn state(&self) -> Vec<(String, Tensor)> {
        let cpu = |tensor: &Tensor| tensor.detach().to_device(Device::Cpu).contiguous();
        let weights = self.student.weights().iter().map(|weight| (weight.name.clone(), cpu(&weight.tensor)));
        let state = self.optimizer.state().into_iter().map(|(name, tensor)| (name, cpu(&tensor)));
        weights.chain(state).collect()
    }

    /// Everything that steps change: the [`state`](Self::state) and the mean metrics.
    pub fn outcome(&mut self) -> Vec<(String, Tensor)> {
        let means = self.meter.read(&Ranks::single()).unwrap();
        let metrics = means.into_iter().flat_map(|means| means.metrics);
        let metrics = metrics.map(|(metric, mean)| (metric.to_string(), Tensor::from(mean)));
        self.state().into_iter().chain(metrics).collect()
    }
}

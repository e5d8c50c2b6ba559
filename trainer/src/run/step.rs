//! One optimisation step, and the sums of what it saw. Nothing here waits for the device, except [`Meter::read`].
//!
//! A step is the same operations on the same tensors every time: what changes from step to step is in [`Inputs`], on the
//! device. So its operations can be recorded once and issued again as a whole.

use tch::{Device, Kind, Reduction, Tensor, no_grad};

use super::metrics::{Meter, StepMetrics};
use super::optim::Optimizer;
use crate::data::crop_flip;
use crate::data::normalisation::Normalisation;
use crate::loss::sdd::{Distillation, Regions};
use crate::models::Network;
use crate::ranks::Ranks;

/// The loss of a specification, and what it compares the student with.
#[derive(Debug)]
pub struct Objective {
    /// The student's.
    pub normalisation: Normalisation,
    /// The teacher's, where it differs.
    pub teacher_normalisation: Option<Normalisation>,
    /// Most images of a batch, which all but the last one of an epoch have.
    pub batch_size: u32,
    /// Frozen; none for plain training.
    pub teacher: Option<Network>,
    /// None for plain training.
    pub distillation: Option<Distillation>,
    /// Weight of the cross entropy.
    pub cross_entropy: f64,
    /// Weight of the distillation loss, once warm.
    pub weight: f64,
    /// Largest norm of the gradient.
    pub clip: Option<f64>,
}

/// What a step reads besides weights, on the device.
#[derive(Debug)]
pub struct Inputs {
    /// [B, 3, S, S] bytes.
    pub images: Tensor,
    /// `[B]` int64.
    pub labels: Tensor,
    /// The part of each image that is taken, [B, 3]: see [`crop_flip`]. Without them all of it is.
    pub parts: Option<Tensor>,
    /// What the teacher says of those parts, [B, regions, classes], where that is known.
    pub logits: Option<Tensor>,
    /// What else changes from step to step.
    pub rates: Rates,
}

impl Inputs {
    /// On tensors of its own.
    #[must_use]
    pub fn copied(&self) -> Self {
        let Self { images, labels, parts, logits, rates: Rates { learning, distillation, step } } = self;
        let copy = |tensor: &Option<Tensor>| tensor.as_ref().map(Tensor::copy);
        let rates = Rates { learning: learning.copy(), distillation: distillation.copy(), step: step.copy() };
        Self { images: images.copy(), labels: labels.copy(), parts: copy(parts), logits: copy(logits), rates }
    }

    /// Takes the values of others of the same shapes, and stays where it is.
    pub fn take_over(&mut self, others: &Self) {
        let Self { images, labels, parts, logits, rates } = self;
        let pairs = [
            (images, &others.images),
            (labels, &others.labels),
            (&mut rates.learning, &others.rates.learning),
            (&mut rates.distillation, &others.rates.distillation),
            (&mut rates.step, &others.rates.step),
        ];
        let optional = [(parts, &others.parts), (logits, &others.logits)];
        let optional = optional.into_iter().filter_map(|(own, other)| own.as_mut().zip(other.as_ref()));
        for (own, other) in pairs.into_iter().chain(optional) {
            own.copy_(other);
        }
    }
}

/// The numbers of a step, each a scalar on the device.
#[derive(Debug)]
pub struct Rates {
    /// Of learning: float32.
    pub learning: Tensor,
    /// The weight of the distillation loss in this epoch: float32.
    pub distillation: Tensor,
    /// The number of this step, from 1: int64.
    pub step: Tensor,
}

impl Rates {
    /// Filled by kernels, which nothing waits for.
    #[must_use]
    pub fn new(learning: f64, distillation: f64, step: u64, device: Device) -> Self {
        let float = |value: f64| Tensor::full([], value, (Kind::Float, device));
        let step = Tensor::full([], i64::try_from(step).unwrap_or(i64::MAX), (Kind::Int64, device));
        Self { learning: float(learning), distillation: float(distillation), step }
    }
}

impl Objective {
    /// The teacher's.
    #[must_use]
    pub fn teacher_normalisation(&self) -> &Normalisation {
        self.teacher_normalisation.as_ref().unwrap_or(&self.normalisation)
    }

    /// The teacher's logits [B, regions, classes] of `images` [B, 3, S, S]; none for plain training. `normalised` is what
    /// the student sees of them.
    fn teacher_logits(&self, images: &Tensor, normalised: &Tensor) -> Option<Tensor> {
        let teacher = self.teacher.as_ref()?;
        let _guard = tch::no_grad_guard();
        let own = self.teacher_normalisation.as_ref().map(|own| own.apply(images));
        // Always as many, as the rounding of some kernels depends on that: kept logits are those of any epoch.
        let filled = filled(own.as_ref().unwrap_or(normalised), i64::from(self.batch_size));
        let regions = regions(teacher, &filled, false, self.scales());
        Some(regions.joined(self.scales()).narrow(0, 0, images.size()[0]))
    }

    /// Those of the distillation; 1 for plain training.
    #[must_use]
    pub fn scales(&self) -> &[u32] {
        self.distillation.as_ref().map_or(&[1], |distillation| &distillation.scales)
    }
}

/// What a step consists of, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The parts of the images, normalised.
    Data,
    /// The teacher's logits.
    Teacher,
    /// The student's logits.
    Student,
    /// The loss of both.
    Loss,
    /// Its gradients.
    Backward,
    /// Clipping and update.
    Optimizer,
    /// The sums of the metrics.
    Metrics,
}

/// One step: forward, loss, backward with the other `ranks`, clip, update. Gives the teacher's logits [B, regions, classes]; none for plain
/// training. `ended` is told when the host has issued each phase.
///
/// It reads no number on the host that changes from step to step, and changes tensors in place.
pub fn step(
    student: &Network,
    objective: &Objective,
    optimizer: &mut Optimizer,
    meter: &mut Meter,
    ranks: &mut Ranks,
    Inputs { images, labels, parts, logits, rates }: &Inputs,
    mut ended: impl FnMut(Phase),
) -> Option<Tensor> {
    let images = parts.as_ref().map_or_else(|| images.shallow_clone(), |parts| crop_flip(images, parts));
    let normalised = objective.normalisation.apply(&images);
    ended(Phase::Data);
    let logits = match logits {
        Some(known) => Some(known.shallow_clone()),
        None => objective.teacher_logits(&images, &normalised),
    };
    ended(Phase::Teacher);
    let student_regions = regions(student, &normalised, true, objective.scales());
    ended(Phase::Student);
    let cross_entropy = student_regions.global.cross_entropy_loss::<Tensor>(labels, None, Reduction::Mean, -100, 0.0);
    let mut loss = &cross_entropy * objective.cross_entropy;
    let distilled = objective.distillation.as_ref().zip(logits.as_ref()).map(|(distillation, logits)| {
        let teacher = Regions::split(logits, objective.scales());
        distillation.apply(&student_regions, &teacher, labels)
    });
    if let Some(distilled) = &distilled {
        loss += &distilled.loss * &rates.distillation;
    }
    ended(Phase::Loss);
    optimizer.drop_gradients();
    ranks.backward(&loss);
    ended(Phase::Backward);
    if let Some(largest) = objective.clip {
        let _ = optimizer.clip_grad_norm(largest);
    }
    optimizer.step(&rates.learning);
    ended(Phase::Optimizer);
    if !ranks.is_idle() {
        no_grad(|| {
            let logits = &student_regions.global;
            let measured = StepMetrics::new(&loss, &cross_entropy, logits, labels, distilled.as_ref());
            meter.add(&measured, labels.size()[0], &rates.step);
        });
    }
    ended(Phase::Metrics);
    logits
}

/// A batch [B, …] with its first image repeated until there are `size`.
fn filled(images: &Tensor, size: i64) -> Tensor {
    let missing = size - images.size()[0];
    if missing <= 0 {
        return images.shallow_clone();
    }
    let first = images.narrow(0, 0, 1);
    Tensor::cat(&[images, &first.expand([missing, -1, -1, -1], false)], 0)
}

fn regions(network: &Network, images: &Tensor, train: bool, scales: &[u32]) -> Regions {
    network.regions(&network.features(images, train), scales)
}

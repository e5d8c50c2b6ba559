//! One optimisation step, and the sums of what it saw. Nothing here waits for the device, except [`Meter::read`].
//!
//! A step is the same operations on the same tensors every time: what changes from step to step is in [`Inputs`], on the
//! device. So its operations can be recorded once and issued again as a whole.

use tch::{Device, Kind, Reduction, Tensor, no_grad};

use crate::data::crop_flip;
use crate::data::normalisation::Normalisation;
use crate::error::{Error, Result};
use crate::loss::sdd::{Distillation, Regions};
use crate::models::Network;
use crate::ranks::Ranks;
use crate::run::optim::Optimizer;

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
    fn ask(&self, images: &Tensor, normalised: &Tensor) -> Option<Tensor> {
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
        None => objective.ask(&images, &normalised),
    };
    ended(Phase::Teacher);
    let student_regions = regions(student, &normalised, true, objective.scales());
    ended(Phase::Student);
    let cross_entropy = student_regions.global.cross_entropy_loss::<Tensor>(labels, None, Reduction::Mean, -100, 0.0);
    let mut loss = &cross_entropy * objective.cross_entropy;
    let mut parts = vec![];
    if let (Some(distillation), Some(logits)) = (&objective.distillation, &logits) {
        let teacher = Regions::split(logits, objective.scales());
        let distilled = distillation.apply(&student_regions, &teacher, labels);
        loss += &distilled.loss * &rates.distillation;
        parts.extend([
            distilled.loss.detach(),
            distilled.consistent,
            distilled.complementary,
            distilled.complementary_fraction,
        ]);
        parts.extend(distilled.per_scale.unbind(0));
        parts.extend(distilled.complementary_per_scale.unbind(0));
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
        no_grad(|| meter.add([&loss, &cross_entropy], &student_regions.global, labels, parts, &rates.step));
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

/// Sums over steps, kept on the device until somebody reads them.
#[derive(Debug)]
pub struct Meter {
    names: Vec<String>,
    sums: Tensor,
    images: u64,
    /// The first step whose loss was not finite.
    first_bad: Tensor,
}

impl Meter {
    /// `scales` are those of the distillation, empty for plain training.
    #[must_use]
    pub fn new(scales: &[u32], device: Device) -> Self {
        let mut names = vec!["train/loss".to_owned(), "train/loss_ce".to_owned(), "train/top1".to_owned()];
        if !scales.is_empty() {
            let parts = ["train/loss_distill", "train/loss_consistent", "train/loss_complementary"];
            names.extend(parts.map(str::to_owned));
            names.push("sdd/complementary_fraction".to_owned());
            for part in ["loss", "complementary_fraction"] {
                names.extend(scales.iter().map(|scale| format!("sdd/scale_{scale}/{part}")));
            }
        }
        let sums = Tensor::zeros([names.len() as i64], (Kind::Double, device));
        let first_bad = Tensor::full([] as [i64; 0], i64::MAX, (Kind::Int64, device));
        Self { names, sums, images: 0, first_bad }
    }

    fn add(
        &mut self,
        [loss, cross_entropy]: [&Tensor; 2],
        logits: &Tensor,
        labels: &Tensor,
        parts: Vec<Tensor>,
        step: &Tensor,
    ) {
        let right = logits.argmax(-1, false).eq_tensor(labels).to_kind(Kind::Float).mean(None::<Kind>) * 100.0;
        let mut values = vec![loss.detach(), cross_entropy.detach(), right];
        values.extend(parts);
        self.sums += Tensor::stack(&values, 0).to_kind(Kind::Double) * labels.size()[0] as f64;
        // The largest number where the loss is finite, the step where it is not.
        let bad = loss.isfinite().to_kind(Kind::Int64) * (step.neg() + i64::MAX) + step;
        self.first_bad.copy_(&self.first_bad.minimum(&bad));
    }

    /// Counts the images of a step, which [`step`] does not: it may be replayed.
    pub fn count(&mut self, images: u64) {
        self.images += images;
    }

    /// The images of all ranks since the last call, and the means over them, by name; nothing where there was no step.
    /// Waits for the device.
    ///
    /// # Errors
    /// A loss was not finite, or another rank is gone.
    pub fn read(&mut self, ranks: &Ranks) -> Result<(u64, Vec<(String, f64)>)> {
        ranks.least(&self.first_bad)?;
        let first_bad = self.first_bad.int64_value(&[]);
        if first_bad != i64::MAX {
            return Err(Error::numeric(format!(
                "the loss is not finite at step {first_bad}: lower training.optimizer.learning_rate, or set \
                 training.clip_grad_norm"
            )));
        }
        let images = Tensor::from(std::mem::take(&mut self.images) as i64);
        ranks.sum(&images)?;
        let images = images.int64_value(&[]).unsigned_abs();
        if images == 0 {
            return Ok((0, vec![]));
        }
        ranks.sum(&self.sums)?;
        let sums = Vec::<f64>::try_from(&self.sums)?;
        let means = sums.into_iter().map(|sum| sum / images as f64);
        let points = self.names.iter().cloned().zip(means).collect();
        let _ = self.sums.zero_();
        Ok((images, points))
    }
}

//! One optimisation step, and the sums of what it saw. Nothing here waits for the device, except [`Meter::read`].

use tch::{Device, Kind, Reduction, Tensor, no_grad};

use super::error::{Error, Result};
use super::models::Network;
use super::optim::Optimizer;
use super::sdd::{Distillation, Regions};

/// The loss of a specification and the networks that it is about.
#[derive(Debug)]
pub struct Objective {
    /// Frozen; none for plain training.
    pub teacher: Option<Network>,
    /// None for plain training.
    pub distillation: Option<Distillation>,
    /// Weight of the cross entropy.
    pub cross_entropy: f64,
    /// Weight of the distillation loss.
    pub weight: f64,
    /// Largest norm of the gradient.
    pub clip: Option<f64>,
}

/// A batch on the device.
#[derive(Debug)]
pub struct Batch {
    /// [B, 3, S, S], normalised for the student.
    pub images: Tensor,
    /// `[B]`.
    pub labels: Tensor,
    /// What the teacher says of them; none for plain training.
    pub teacher: Option<Regions>,
}

impl Objective {
    /// What the teacher says of images [B, 3, S, S] that are normalised for it; none for plain training.
    #[must_use]
    pub fn teacher_regions(&self, images: &Tensor) -> Option<Regions> {
        self.teacher.as_ref().map(|teacher| no_grad(|| regions(teacher, images, false, self.scales())))
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

/// One step: forward, loss, backward, clip, update. `warmup` is the share of the distillation weight in this epoch,
/// `step` the number of this step, from 1. `ended` is told when the host has issued each phase.
pub fn step(
    student: &Network,
    objective: &Objective,
    optimizer: &mut Optimizer,
    meter: &mut Meter,
    batch: &Batch,
    (learning_rate, warmup, step): (f64, f64, u64),
    mut ended: impl FnMut(Phase),
) {
    let student_regions = regions(student, &batch.images, true, objective.scales());
    ended(Phase::Student);
    let cross_entropy =
        student_regions.global.cross_entropy_loss::<Tensor>(&batch.labels, None, Reduction::Mean, -100, 0.0);
    let mut loss = &cross_entropy * objective.cross_entropy;
    let mut parts = vec![];
    if let (Some(distillation), Some(teacher)) = (&objective.distillation, &batch.teacher) {
        let distilled = distillation.apply(&student_regions, teacher, &batch.labels);
        loss += &distilled.loss * (objective.weight * warmup);
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
    optimizer.zero_grad();
    loss.backward();
    ended(Phase::Backward);
    if let Some(largest) = objective.clip {
        let _ = optimizer.clip_grad_norm(largest);
    }
    optimizer.step(learning_rate);
    ended(Phase::Optimizer);
    no_grad(|| meter.add(&loss, &cross_entropy, &student_regions.global, &batch.labels, parts, step));
    ended(Phase::Metrics);
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
        loss: &Tensor,
        cross_entropy: &Tensor,
        logits: &Tensor,
        labels: &Tensor,
        parts: Vec<Tensor>,
        step: u64,
    ) {
        let right = logits.argmax(-1, false).eq_tensor(labels).to_kind(Kind::Float).mean(None::<Kind>) * 100.0;
        let mut values = vec![loss.detach(), cross_entropy.detach(), right];
        values.extend(parts);
        let count = labels.size()[0];
        self.sums += Tensor::stack(&values, 0).to_kind(Kind::Double) * count as f64;
        self.images += count as u64;
        // The largest number where the loss is finite, the step where it is not.
        let step = i64::try_from(step).unwrap_or(i64::MAX);
        let bad = loss.isfinite().to_kind(Kind::Int64) * (i64::MAX - step) + step;
        self.first_bad = self.first_bad.minimum(&bad);
    }

    /// The means since the last call, by name; nothing where there was no step. Waits for the device.
    ///
    /// # Errors
    /// A loss was not finite.
    pub fn read(&mut self) -> Result<Vec<(String, f64)>> {
        let first_bad = self.first_bad.int64_value(&[]);
        if first_bad != i64::MAX {
            return Err(Error::numeric(format!(
                "the loss is not finite at step {first_bad}: lower training.optimizer.learning_rate, or set \
                 training.clip_grad_norm"
            )));
        }
        if self.images == 0 {
            return Ok(vec![]);
        }
        let sums = Vec::<f64>::try_from(&self.sums)?;
        let means = sums.into_iter().map(|sum| sum / self.images as f64);
        let points = self.names.iter().cloned().zip(means).collect();
        let _ = self.sums.zero_();
        self.images = 0;
        Ok(points)
    }

    /// Images since the last [`Meter::read`].
    #[must_use]
    pub fn images(&self) -> u64 {
        self.images
    }
}

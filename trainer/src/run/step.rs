//! One optimisation step. Nothing here waits for the device.
//!
//! Every step issues the same operations on the same tensors. What changes from step to step is in [`Inputs`], on the
//! device, so that a step can be recorded as a CUDA graph and replayed.

use tch::{Device, Kind, Reduction, Tensor, no_grad};

use super::metrics::{Meter, StepMetrics};
use super::optim::Optimizer;
use crate::data::crop_flip;
use crate::data::normalisation::Normalisation;
use crate::loss::sdd::{Distillation, Regions};
use crate::models::Network;
use crate::ranks::Ranks;

/// The loss of a specification, with everything that it compares the student to.
#[derive(Debug)]
pub struct Objective {
    /// The student's input normalisation.
    pub normalisation: Normalisation,
    /// The teacher's, if it differs.
    pub teacher_normalisation: Option<Normalisation>,
    /// Images of every batch on this rank except the last of an epoch, which can be smaller.
    pub batch_size: u32,
    /// Frozen; `None` for plain training.
    pub teacher: Option<Network>,
    /// `None` for plain training.
    pub distillation: Option<Distillation>,
    /// Weight of the cross entropy.
    pub cross_entropy: f64,
    /// Weight of the distillation loss after warm-up.
    pub weight: f64,
    /// Largest L2 norm of the gradient.
    pub clip: Option<f64>,
}

/// What a step reads besides weights, on the device.
#[derive(Debug)]
pub struct Inputs {
    /// [B, 3, S, S] bytes.
    pub images: Tensor,
    /// `[B]` int64.
    pub labels: Tensor,
    /// The crop of each image, [B, 3]: see [`crop_flip`]. `None` takes whole images.
    pub crops: Option<Tensor>,
    /// The teacher's logits for these crops, [B, regions, classes]; `None` has the teacher compute them.
    pub teacher_logits: Option<Tensor>,
    pub scalars: StepScalars,
}

impl Inputs {
    /// A batch of one black image.
    #[must_use]
    pub fn one_black_image(side: u32, device: Device, scalars: StepScalars) -> Self {
        let side = i64::from(side);
        Self {
            images: Tensor::zeros([1, 3, side, side], (Kind::Uint8, device)),
            labels: Tensor::zeros([1], (Kind::Int64, device)),
            crops: None,
            teacher_logits: None,
            scalars,
        }
    }

    /// A copy in memory of its own.
    #[must_use]
    pub fn copied(&self) -> Self {
        let Self { images, labels, crops, teacher_logits, scalars } = self;
        let copy = |tensor: &Option<Tensor>| tensor.as_ref().map(Tensor::copy);
        Self {
            images: images.copy(),
            labels: labels.copy(),
            crops: copy(crops),
            teacher_logits: copy(teacher_logits),
            scalars: StepScalars {
                learning_rate: scalars.learning_rate.copy(),
                distillation_weight: scalars.distillation_weight.copy(),
                step: scalars.step.copy(),
            },
        }
    }

    /// Copies the values of other inputs of the same shapes into its own memory.
    pub fn copy_from(&mut self, others: &Self) {
        let Self { images, labels, crops, teacher_logits, scalars } = self;
        let pairs = [
            (images, &others.images),
            (labels, &others.labels),
            (&mut scalars.learning_rate, &others.scalars.learning_rate),
            (&mut scalars.distillation_weight, &others.scalars.distillation_weight),
            (&mut scalars.step, &others.scalars.step),
        ];
        let optional = [(crops, &others.crops), (teacher_logits, &others.teacher_logits)];
        let optional = optional.into_iter().filter_map(|(own, other)| own.as_mut().zip(other.as_ref()));
        for (own, other) in pairs.into_iter().chain(optional) {
            own.copy_(other);
        }
    }
}

/// The numbers of a step: scalars on the device.
#[derive(Debug)]
pub struct StepScalars {
    /// float32.
    pub learning_rate: Tensor,
    /// Weight of the distillation loss in this epoch: float32.
    pub distillation_weight: Tensor,
    /// The step's number, from 1: int64.
    pub step: Tensor,
}

impl StepScalars {
    /// Filled by kernels, so that the host does not wait for the device.
    #[must_use]
    pub fn new(learning_rate: f64, distillation_weight: f64, step: u64, device: Device) -> Self {
        let float = |value: f64| Tensor::full([], value, (Kind::Float, device));
        let step = Tensor::full([], i64::try_from(step).unwrap_or(i64::MAX), (Kind::Int64, device));
        Self { learning_rate: float(learning_rate), distillation_weight: float(distillation_weight), step }
    }
}

impl Objective {
    #[must_use]
    pub fn teacher_normalisation(&self) -> &Normalisation {
        self.teacher_normalisation.as_ref().unwrap_or(&self.normalisation)
    }

    /// The teacher's logits [B, regions, classes] for `images` [B, 3, S, S]; `None` for plain training. `normalised`
    /// are the same images as the student gets them.
    fn teacher_logits(&self, images: &Tensor, normalised: &Tensor) -> Option<Tensor> {
        let teacher = self.teacher.as_ref()?;
        let _guard = tch::no_grad_guard();
        let own = self.teacher_normalisation.as_ref().map(|own| own.apply(images));
        // Some kernels round differently for other batch sizes. At a constant size, an epoch's logits equal the cached
        // ones.
        let padded = padded(own.as_ref().unwrap_or(normalised), i64::from(self.batch_size));
        let regions = regions(teacher, &padded, false, self.scales());
        Some(regions.joined(self.scales()).narrow(0, 0, images.size()[0]))
    }

    /// The scales of the distillation; scale 1 for plain training.
    #[must_use]
    pub fn scales(&self) -> &[u32] {
        self.distillation.as_ref().map_or(&[1], |distillation| &distillation.scales)
    }
}

/// The phases of a step, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Crops and normalisation.
    Data,
    /// The teacher's forward pass.
    Teacher,
    /// The student's forward pass.
    Student,
    Loss,
    Backward,
    /// Clipping and update.
    Optimizer,
    /// Adding up the metrics.
    Metrics,
}

/// Does one step: forward, loss, backward with the other `ranks`, clip, update. Returns the teacher's logits
/// [B, regions, classes]; `None` for plain training. Calls `ended` when the host has issued a phase.
///
/// The host reads no number that changes from step to step, and tensors are changed in place.
pub fn step(
    student: &Network,
    objective: &Objective,
    optimizer: &mut Optimizer,
    meter: &mut Meter,
    ranks: &mut Ranks,
    Inputs { images, labels, crops, teacher_logits, scalars }: &Inputs,
    mut ended: impl FnMut(Phase),
) -> Option<Tensor> {
    let images = crops.as_ref().map_or_else(|| images.shallow_clone(), |crops| crop_flip(images, crops));
    let normalised = objective.normalisation.apply(&images);
    ended(Phase::Data);
    let teacher_logits = match teacher_logits {
        Some(known) => Some(known.shallow_clone()),
        None => objective.teacher_logits(&images, &normalised),
    };
    ended(Phase::Teacher);
    student.begin_step(&scalars.step);
    let student_regions = regions(student, &normalised, true, objective.scales());
    ended(Phase::Student);
    let cross_entropy = student_regions.global.cross_entropy_loss::<Tensor>(labels, None, Reduction::Mean, -100, 0.0);
    let mut loss = &cross_entropy * objective.cross_entropy;
    let distilled = objective.distillation.as_ref().zip(teacher_logits.as_ref()).map(|(distillation, logits)| {
        let teacher = Regions::split(logits, objective.scales());
        distillation.apply(&student_regions, &teacher, labels)
    });
    if let Some(distilled) = &distilled {
        loss += &distilled.loss * &scalars.distillation_weight;
        let weight = objective.distillation.as_ref().and_then(|distillation| distillation.clustering);
        if let (Some(clustering), Some(weight)) = (&distilled.clustering, weight) {
            loss += clustering * weight;
        }
    }
    ended(Phase::Loss);
    optimizer.drop_gradients();
    ranks.backward(&loss);
    ended(Phase::Backward);
    if let Some(largest) = objective.clip {
        let _ = optimizer.clip_grad_norm(largest);
    }
    optimizer.step(&scalars.learning_rate);
    ended(Phase::Optimizer);
    if !ranks.is_idle() {
        no_grad(|| {
            let logits = &student_regions.global;
            let measured = StepMetrics::new(&loss, &cross_entropy, logits, labels, distilled.as_ref());
            meter.add(&measured, labels.size()[0], &scalars.step);
        });
    }
    ended(Phase::Metrics);
    teacher_logits
}

/// Repeats the first image of a batch [B, …] until it has `size` images.
fn padded(images: &Tensor, size: i64) -> Tensor {
    let missing = size - images.size()[0];
    if missing <= 0 {
        return images.shallow_clone();
    }
    let first = images.narrow(0, 0, 1);
    Tensor::cat(&[images, &first.expand([missing, -1, -1, -1], false)], 0)
}

fn regions(network: &Network, images: &Tensor, train: bool, scales: &[u32]) -> Regions {
    network.regions(&network.features(images, train), scales, train)
}

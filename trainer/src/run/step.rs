//! One optimisation step. Nothing here waits for the device.
//!
//! Every step issues the same operations on the same tensors. What changes from step to step is in [`Inputs`], on the
//! device, so that a step can be recorded as a CUDA graph and replayed.

use tch::{Device, Kind, Tensor, no_grad};

use super::metrics::{Meter, StepMetrics};
use super::optim::Optimizer;
use super::parts::{BatchPart, parts};
use crate::data::crop_flip;
use crate::data::erase::erase;
use crate::data::mix::{mix, partners};
use crate::data::normalisation::Normalisation;
use crate::loss::sdd::{Distillation, Distilled, Regions, of_scales};
use crate::loss::target::{CrossEntropy, MixedLabels, Target};
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
    /// The scales at which the teacher classifies images, ascending: those of the distillation, and others whose logits
    /// are cached for other jobs.
    pub kept_scales: Vec<u32>,
    /// `None` for plain training.
    pub distillation: Option<Distillation>,
    pub label_loss: CrossEntropy,
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
    /// The rectangle to erase in each image, [B, 4]: see [`erase`]. `None` erases nothing.
    pub erased: Option<Tensor>,
    /// How images are mixed, `[6]`: see [`mix`]. `None` mixes nothing.
    pub mix: Option<Tensor>,
    /// The teacher's logits for these images, [B, regions, classes]; `None` has the teacher compute them.
    pub teacher_logits: Option<Tensor>,
    /// Number of parts in which the batch is computed; the same on all ranks.
    pub parts: u32,
    pub scalars: StepScalars,
}

impl Inputs {
    /// A batch without crops, erasing and mixing, which is computed in one part.
    #[must_use]
    pub fn new(images: Tensor, labels: Tensor, scalars: StepScalars) -> Self {
        Self { images, labels, crops: None, erased: None, mix: None, teacher_logits: None, parts: 1, scalars }
    }

    /// A batch of one black image.
    #[must_use]
    pub fn one_black_image(side: u32, device: Device, scalars: StepScalars) -> Self {
        let side = i64::from(side);
        let images = Tensor::zeros([1, 3, side, side], (Kind::Uint8, device));
        Self::new(images, Tensor::zeros([1], (Kind::Int64, device)), scalars)
    }

    /// A copy in memory of its own.
    #[must_use]
    pub fn copied(&self) -> Self {
        let Self { images, labels, crops, erased, mix, teacher_logits, parts, scalars } = self;
        let copy = |tensor: &Option<Tensor>| tensor.as_ref().map(Tensor::copy);
        Self {
            images: images.copy(),
            labels: labels.copy(),
            crops: copy(crops),
            erased: copy(erased),
            mix: copy(mix),
            teacher_logits: copy(teacher_logits),
            parts: *parts,
            scalars: StepScalars {
                learning_rate: scalars.learning_rate.copy(),
                distillation_weight: scalars.distillation_weight.copy(),
                step: scalars.step.copy(),
            },
        }
    }

    /// The images as both networks see them, before either normalises them. What is erased becomes `blank`. Images that
    /// are neither erased nor mixed are only cropped here if not `crops_later`.
    fn seen(&self, blank: &Tensor, crops_later: bool) -> RawImages {
        let Self { images, crops, erased, mix: mixture, .. } = self;
        let is_plain = erased.is_none() && mixture.is_none();
        if is_plain && crops_later {
            return RawImages { images: images.shallow_clone(), crops: crops.as_ref().map(Tensor::shallow_clone) };
        }
        let images = crops.as_ref().map_or_else(|| images.shallow_clone(), |crops| crop_flip(images, crops));
        if is_plain {
            return RawImages { images, crops: None };
        }
        let images = images.to_kind(Kind::Float);
        let images = erased.as_ref().map_or(images.shallow_clone(), |rectangles| erase(&images, rectangles, blank));
        let images = mixture.as_ref().map_or(images.shallow_clone(), |mixture| mix(&images, mixture));
        RawImages { images, crops: None }
    }

    fn target(&self) -> Target {
        let labels = self.labels.shallow_clone();
        let mixed = self.mix.as_ref().map(|mix| MixedLabels { labels: partners(&labels), own_share: mix.get(0) });
        Target { labels, mixed }
    }

    /// Copies the values of other inputs of the same shapes into its own memory.
    pub fn copy_from(&mut self, others: &Self) {
        let Self { images, labels, crops, erased, mix, teacher_logits, scalars, .. } = self;
        let pairs = [
            (images, &others.images),
            (labels, &others.labels),
            (&mut scalars.learning_rate, &others.scalars.learning_rate),
            (&mut scalars.distillation_weight, &others.scalars.distillation_weight),
            (&mut scalars.step, &others.scalars.step),
        ];
        let optional = [
            (crops, &others.crops),
            (erased, &others.erased),
            (mix, &others.mix),
            (teacher_logits, &others.teacher_logits),
        ];
        let optional = optional.into_iter().filter_map(|(own, other)| own.as_mut().zip(other.as_ref()));
        for (own, other) in pairs.into_iter().chain(optional) {
            own.copy_(other);
        }
    }
}

/// Images that are not normalised.
struct RawImages {
    /// [B, 3, S, S]: bytes, or float32 in their range.
    images: Tensor,
    /// The crops that are still to be taken of them, if any: [B, 3].
    crops: Option<Tensor>,
}

impl RawImages {
    fn normalised_by(&self, normalisation: &Normalisation) -> Tensor {
        normalisation.apply_to_crops(&self.images, self.crops.as_ref())
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

    /// The teacher's logits [B, regions, classes] for images, at all kept scales; `None` for plain training.
    /// `normalised` [B, 3, S, S] are the same images as the student gets them.
    fn teacher_logits(&self, seen: &RawImages, normalised: &Tensor) -> Option<Tensor> {
        let teacher = self.teacher.as_ref()?;
        let _guard = tch::no_grad_guard();
        let own = self.teacher_normalisation.as_ref().map(|own| seen.normalised_by(own));
        // Some kernels round differently for other batch sizes. At a constant size, an epoch's logits equal the cached
        // ones.
        let padded = padded(own.as_ref().unwrap_or(normalised), i64::from(self.batch_size));
        let logits = teacher.logits_by_scale(&teacher.features(&padded, false), &self.kept_scales);
        Some(logits.narrow(0, 0, normalised.size()[0]))
    }

    /// From now on one kernel crops and normalises images that are neither erased nor mixed, for each normalisation.
    ///
    /// # Errors
    /// It cannot be made for the device.
    pub fn use_crop_kernel(&mut self, device: Device) -> Result<(), String> {
        if let Some(of_teacher) = &mut self.teacher_normalisation {
            of_teacher.use_kernel(device)?;
        }
        self.normalisation.use_kernel(device)
    }

    /// The teacher's logits [B, regions, classes] that the distillation takes, among those of all kept scales.
    pub fn own_logits(&self, kept: &Tensor) -> Tensor {
        of_scales(kept, &self.kept_scales, self.scales())
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

/// Does one step: forward, loss, backward with the other `ranks`, clip, update. Returns the logits
/// [B, regions, classes] that the teacher computed, at all kept scales; `None` if they were known, and for plain
/// training. Calls `ended` when the host has issued a phase; those from the student to backward come for each part of
/// the batch.
///
/// The host reads no number that changes from step to step, and tensors are changed in place.
pub fn step(
    student: &Network,
    objective: &Objective,
    optimizer: &mut Optimizer,
    meter: &mut Meter,
    ranks: &mut Ranks,
    inputs: &Inputs,
    mut ended: impl FnMut(Phase),
) -> Option<Tensor> {
    let seen = inputs.seen(&objective.normalisation.blank, objective.normalisation.has_kernel());
    let normalised = seen.normalised_by(&objective.normalisation);
    ended(Phase::Data);
    let new_logits = match &inputs.teacher_logits {
        Some(_) => None,
        None => objective.teacher_logits(&seen, &normalised),
    };
    let known = inputs.teacher_logits.as_ref().map(Tensor::shallow_clone);
    let teacher_logits = known.or_else(|| new_logits.as_ref().map(|kept| objective.own_logits(kept)));
    ended(Phase::Teacher);
    let batch = PreparedBatch { normalised, target: inputs.target(), teacher_logits };
    optimizer.drop_gradients();
    let mut computed = Vec::new();
    for part in parts(batch.normalised.size()[0], inputs.parts) {
        let computed_part =
            compute(student, objective, ranks, &batch.part(&part), (&part, &inputs.scalars), &mut ended);
        computed.extend((part.count > 0).then_some((computed_part, part.count)));
    }
    if let Some(largest) = objective.clip {
        let _ = optimizer.clip_grad_norm(largest);
    }
    optimizer.step(&inputs.scalars.learning_rate);
    ended(Phase::Optimizer);
    if !ranks.is_idle() {
        no_grad(|| {
            computed.iter().for_each(|(part, images)| meter.add(&part.metrics(), *images, &inputs.scalars.step));
        });
    }
    ended(Phase::Metrics);
    new_logits
}

/// A batch as the networks see it.
struct PreparedBatch {
    /// The student's input.
    normalised: Tensor,
    target: Target,
    teacher_logits: Option<Tensor>,
}

impl PreparedBatch {
    fn part(&self, part: &BatchPart) -> Self {
        let target = &self.target;
        let mixed = target
            .mixed
            .as_ref()
            .map(|mixed| MixedLabels { labels: part.of(&mixed.labels), own_share: mixed.own_share.shallow_clone() });
        Self {
            normalised: part.of(&self.normalised),
            target: Target { labels: part.of(&target.labels), mixed },
            teacher_logits: self.teacher_logits.as_ref().map(|logits| part.of(logits)),
        }
    }
}

/// What metrics need of a part after its gradients were computed.
struct ComputedPart {
    loss: Tensor,
    cross_entropy: Tensor,
    logits: Tensor,
    labels: Tensor,
    distilled: Option<Distilled>,
}

impl ComputedPart {
    fn metrics(&self) -> StepMetrics<'_> {
        StepMetrics::new(&self.loss, &self.cross_entropy, &self.logits, &self.labels, self.distilled.as_ref())
    }
}

/// Forward, loss and backward of a part of a batch.
fn compute(
    student: &Network,
    objective: &Objective,
    ranks: &mut Ranks,
    PreparedBatch { normalised, target, teacher_logits }: &PreparedBatch,
    (part, scalars): (&BatchPart, &StepScalars),
    ended: &mut impl FnMut(Phase),
) -> ComputedPart {
    student.begin_step(&part.number(&scalars.step));
    let student_regions = student.regions(&student.features(normalised, true), objective.scales(), true);
    ended(Phase::Student);
    let cross_entropy = objective.label_loss.of(&student_regions.global, target);
    let mut loss = &cross_entropy * objective.cross_entropy;
    let distilled = objective.distillation.as_ref().zip(teacher_logits.as_ref()).map(|(distillation, logits)| {
        let teacher = Regions::split(logits, objective.scales());
        if objective.label_loss.has_unlabelled {
            return distillation.apply_mixed(&student_regions, &teacher, &target.completed(&teacher.global));
        }
        distillation.apply_mixed(&student_regions, &teacher, target)
    });
    if let Some(distilled) = &distilled {
        loss += &distilled.loss * &scalars.distillation_weight;
        let weight = objective.distillation.as_ref().and_then(|distillation| distillation.clustering);
        if let (Some(clustering), Some(weight)) = (&distilled.clustering, weight) {
            loss += clustering * weight;
        }
    }
    ended(Phase::Loss);
    let weighted = part.weight.map_or_else(|| loss.shallow_clone(), |weight| &loss * weight);
    ranks.backward(&weighted, part.is_first());
    ended(Phase::Backward);
    let labels = target.dominant();
    ComputedPart { loss, cross_entropy, logits: student_regions.global, labels, distilled }
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

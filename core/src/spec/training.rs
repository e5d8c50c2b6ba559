//! A job's training recipe as it is stored and answered: every default filled in.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::teacher_cache::{TeacherCache, Variation};
use crate::text::quoted;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainingSpec {
    pub epochs: u32,
    pub batch_size: u32,
    #[serde(default = "one")]
    pub devices: u32,
    pub optimizer: OptimizerSpec,
    pub schedule: ScheduleSpec,
    pub augmentation: Augmentation,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub teacher_cache: Option<TeacherCache>,
    pub clip_grad_norm: Option<f64>,
    pub precision: Precision,
    pub seed: u64,
    pub checkpoint_every_epochs: u32,
    pub eval_every_epochs: u32,
    /// The fields from here on came later. One that is left out has no effect, so older jobs mean what they meant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label_smoothing: Option<f64>,
    /// `None` is the cross entropy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label_loss: Option<LabelLoss>,
    /// Only with the binary cross entropy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label_threshold: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mixup_alpha: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cutmix_alpha: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auto_augment: Option<AutoAugment>,
    /// Present exactly if `auto_augment` is RandAugment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rand_augment_ops: Option<u32>,
    /// Present exactly if `auto_augment` is RandAugment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rand_augment_magnitude: Option<u32>,
    /// `None` is the nearest pixel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auto_augment_interpolation: Option<Interpolation>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub random_erasing: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ema_decay: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gradient_accumulation: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_learning_rate_scale: Option<f64>,
    /// `Some(false)` or nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decay_biases_and_norms: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub early_stopping_patience: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class_weights: Option<ClassWeights>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sampling: Option<Sampling>,
}

/// Jobs that were stored before there was a choice of devices use one.
fn one() -> u32 {
    1
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum OptimizerSpec {
    /// Stochastic gradient descent, in PyTorch's formulation.
    Sgd { learning_rate: f64, momentum: f64, weight_decay: f64, nesterov: bool },
    /// Adam with decoupled weight decay.
    Adamw { learning_rate: f64, beta1: f64, beta2: f64, weight_decay: f64 },
    /// Adam with a rate for each tensor (You et al. 2020), in timm's formulation.
    Lamb { learning_rate: f64, beta1: f64, beta2: f64, weight_decay: f64 },
}

impl OptimizerSpec {
    /// The initial learning rate.
    #[must_use]
    pub fn learning_rate(&self) -> f64 {
        match *self {
            Self::Sgd { learning_rate, .. } | Self::Adamw { learning_rate, .. } | Self::Lamb { learning_rate, .. } => {
                learning_rate
            }
        }
    }
}

impl OptimizerSpec {
    /// Numbers that it keeps per parameter.
    #[must_use]
    pub fn states(&self) -> u64 {
        match *self {
            Self::Sgd { momentum: 0.0, .. } => 0,
            Self::Sgd { .. } => 1,
            Self::Adamw { .. } | Self::Lamb { .. } => 2,
        }
    }
}

impl TrainingSpec {
    /// Most bytes that a run needs on disk at any time, for a student with this number of `parameters`: three states to
    /// resume from (one while it replaces another, and the one before the last epoch), each with the student, the best
    /// student, the averaged one and the optimiser's numbers; and two students.
    #[must_use]
    pub fn disk_bytes(&self, parameters: u64) -> u64 {
        let weights = 4 * parameters;
        3 * weights * (2 + self.optimizer.states() + self.averages()) + 2 * weights
    }

    /// Copies of the weights that an average takes.
    #[must_use]
    pub fn averages(&self) -> u64 {
        self.ema_decay.is_some().into()
    }

    /// Parts that a batch is computed in, one after the other.
    #[must_use]
    pub fn parts(&self) -> u32 {
        self.gradient_accumulation.unwrap_or(1)
    }

    /// The operations that images are varied by after crop and flip.
    #[must_use]
    pub fn policy(&self) -> Option<Policy> {
        let interpolation = self.auto_augment_interpolation.unwrap_or(Interpolation::Nearest);
        Some(match self.auto_augment? {
            AutoAugment::RandAugment => Policy::RandAugment {
                operations: self.rand_augment_ops.unwrap_or(RAND_AUGMENT_OPS),
                magnitude: self.rand_augment_magnitude.unwrap_or(RAND_AUGMENT_MAGNITUDE),
                interpolation,
            },
            AutoAugment::TrivialAugmentWide => Policy::TrivialAugmentWide { interpolation },
        })
    }

    /// How an image differs from epoch to epoch.
    #[must_use]
    pub fn variation(&self) -> Variation {
        let is_drawn =
            self.augmentation != Augmentation::None || self.auto_augment.is_some() || self.random_erasing.is_some();
        if self.mixup_alpha.is_some() || self.cutmix_alpha.is_some() {
            Variation::Mixed
        } else if is_drawn {
            Variation::Drawn
        } else {
            Variation::None
        }
    }

    /// Whether programs that know the format's first versions only would train something else.
    pub(super) fn is_newer(&self) -> bool {
        let numbers = [
            self.label_smoothing,
            self.mixup_alpha,
            self.cutmix_alpha,
            self.random_erasing,
            self.ema_decay,
            self.body_learning_rate_scale,
        ];
        let has_counts = self.gradient_accumulation.is_some() || self.early_stopping_patience.is_some();
        let is_balanced = self.class_weights.is_some() || self.sampling.is_some();
        let is_other_optimizer =
            self.decay_biases_and_norms.is_some() || matches!(self.optimizer, OptimizerSpec::Lamb { .. });
        let learns_otherwise = self.label_loss.is_some() || is_other_optimizer;
        let is_varied = self.auto_augment.is_some() || numbers.iter().any(Option::is_some);
        has_counts || is_balanced || learns_otherwise || is_varied
    }
}

/// How the learning rate changes from epoch to epoch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ScheduleSpec {
    /// Multiplied by `gamma` after each milestone.
    Multistep { milestones: Vec<u32>, gamma: f64 },
    /// Half a cosine to zero, after a linear rise.
    Cosine { warmup_epochs: u32 },
    /// The same in every epoch.
    Constant,
}

/// What happens to a training image before the network sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Augmentation {
    /// Nothing.
    None,
    /// Pad by 4 black pixels, crop at random, flip horizontally half the time.
    CropFlip,
    /// A random part of 8 to 100 % of the area, flipped half the time (ImageNet, CUB). Evaluation takes the centre.
    ResizedCropFlip,
}

/// Operations that are drawn for each training image, in torchvision's definition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AutoAugment {
    /// Several operations of one magnitude (Cubuk et al. 2020).
    RandAugment,
    /// One operation of any magnitude, from wide ranges (Müller and Hutter 2021).
    TrivialAugmentWide,
}

/// How operations of [`AutoAugment`] that move pixels find their values, as in Pillow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Interpolation {
    /// From the nearest pixel: the default of torchvision's policies.
    Nearest,
    /// From the four pixels around: as in torchvision's published trainings.
    Bilinear,
}

/// How much each class counts in the cross entropy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "WrittenWeights", into = "WrittenWeights")]
pub enum ClassWeights {
    /// In inverse proportion to its number of training images; the mean over the images is 1.
    Balanced,
    /// In the order of the labels.
    Given(Vec<f64>),
}

/// [`ClassWeights`] in JSON.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum WrittenWeights {
    Name(String),
    List(Vec<f64>),
}

/// The only name of class weights.
pub(super) const BALANCED: &str = "balanced";
/// What class weights may be.
pub(super) const CLASS_WEIGHTS: &str = "\"balanced\" or a list of one weight per class, in the order of the labels";

impl TryFrom<WrittenWeights> for ClassWeights {
    type Error = String;

    fn try_from(written: WrittenWeights) -> Result<Self, String> {
        match written {
            WrittenWeights::Name(name) if name == BALANCED => Ok(Self::Balanced),
            WrittenWeights::Name(name) => Err(format!("expected {CLASS_WEIGHTS}, found {name}", name = quoted(&name))),
            WrittenWeights::List(weights) => Ok(Self::Given(weights)),
        }
    }
}

impl From<ClassWeights> for WrittenWeights {
    fn from(weights: ClassWeights) -> Self {
        match weights {
            ClassWeights::Balanced => Self::Name(BALANCED.to_owned()),
            ClassWeights::Given(weights) => Self::List(weights),
        }
    }
}

impl ClassWeights {
    /// The weight of each class, given the number of its training images.
    ///
    /// # Errors
    /// The numbers of weights and classes differ.
    pub fn of_counts(&self, counts: &[u64]) -> Result<Vec<f64>, String> {
        self.check(counts.len())?;
        Ok(match self {
            Self::Given(weights) => weights.clone(),
            Self::Balanced => {
                let present = counts.iter().filter(|&&count| count > 0).count() as f64;
                let images = counts.iter().sum::<u64>() as f64;
                // A class without images counts only in smoothed labels.
                let weight = |&count: &u64| if count == 0 { 1.0 } else { images / (present * count as f64) };
                counts.iter().map(weight).collect()
            }
        })
    }

    /// Checks that there is a weight for each of `classes` classes.
    ///
    /// # Errors
    /// Their numbers differ.
    pub fn check(&self, classes: usize) -> Result<(), String> {
        match self {
            Self::Given(weights) if weights.len() != classes => Err(format!(
                "class_weights has {} entries for {classes} classes: give one per class in the order of the labels, or \
                 \"{BALANCED}\"",
                weights.len()
            )),
            _ => Ok(()),
        }
    }
}

/// The loss between the student's predictions and the labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum LabelLoss {
    /// Cross entropy of the softmax over the classes.
    CrossEntropy,
    /// Binary cross entropy of a sigmoid for each class, as the mean over the classes (Beyer et al. 2020).
    BinaryCrossEntropy,
}

/// How often an epoch shows the images of a class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Sampling {
    /// Each image once.
    Stored,
    /// As many images of each class, in an epoch of as many images.
    Balanced,
}

/// torchvision's defaults.
pub(super) const RAND_AUGMENT_OPS: u32 = 2;
pub(super) const RAND_AUGMENT_MAGNITUDE: u32 = 9;

/// [`AutoAugment`] with what it needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    RandAugment {
        /// Operations per image.
        operations: u32,
        /// From 0 to 30.
        magnitude: u32,
        interpolation: Interpolation,
    },
    TrivialAugmentWide {
        interpolation: Interpolation,
    },
}

impl Policy {
    #[must_use]
    pub fn interpolation(self) -> Interpolation {
        match self {
            Self::RandAugment { interpolation, .. } | Self::TrivialAugmentWide { interpolation } => interpolation,
        }
    }
}

/// Arithmetic of the networks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// The fastest that keeps accuracy on the device.
    Auto,
    /// IEEE single precision.
    Float32,
    /// Convolutions in bfloat16; weights, batch statistics and losses in float32.
    Bfloat16,
}

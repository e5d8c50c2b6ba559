//! The job specification: what a user asks for, with the published recipe as its defaults.
//!
//! One JSON document serves `POST /v1/jobs` and `distillery train`. [`parse()`] reports every fault of a document at
//! once, each with its JSON pointer (RFC 6901), and returns a [`JobSpec`] with every default filled in. No I/O here:
//! whether a data set or a checkpoint exists is for the caller to find out.

mod fields;
mod parse;
mod teacher_cache;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use parse::{Mode, parse, read};
pub use teacher_cache::TeacherCache;

/// One fault of a specification.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Fault {
    /// Where it is: a JSON pointer into the body that was sent (`/distillation/scales/1`).
    pub pointer: String,
    /// What is wrong and what to write instead.
    pub detail: String,
}

/// A complete specification: every default filled in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct JobSpec {
    /// For people; not unique.
    pub name: String,
    /// The network to learn from; absent exactly when the method is `none`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub teacher: Option<TeacherSpec>,
    /// The network to train.
    pub student: StudentSpec,
    /// The images to train and evaluate on.
    pub dataset: DatasetSpec,
    /// The distillation loss.
    pub distillation: DistillationSpec,
    /// The optimisation recipe.
    pub training: TrainingSpec,
    /// Higher runs first.
    pub priority: i32,
    /// How often the job may be started before a failure that could pass (a lost worker) becomes final.
    pub max_attempts: u32,
    /// For filtering.
    pub labels: BTreeMap<String, String>,
}

/// The network to learn from. Exactly one of `checkpoint` and `job` is given.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TeacherSpec {
    /// Known from the job when `job` is given, so it may be left out then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub architecture: Option<String>,
    /// Id of an uploaded checkpoint; for `distillery train`, a file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<String>,
    /// Id of a job whose student becomes this teacher.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
    /// Per-channel mean of the teacher's own normalisation, where it differs from the student's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mean: Option<[f64; 3]>,
    /// Per-channel standard deviation of the teacher's own normalisation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub std: Option<[f64; 3]>,
}

/// The network to train.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StudentSpec {
    /// A name of `GET /v1/architectures`.
    pub architecture: String,
    /// Start from these weights instead of random ones: id of an uploaded checkpoint; for `distillery train`, a file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<String>,
}

/// The images to train and evaluate on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DatasetSpec {
    /// A name of `GET /v1/datasets`; for `distillery train`, absent in favour of `path`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// A directory, for `distillery train` only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Split to train on; `train` where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub train_split: Option<String>,
    /// Split to evaluate on; `test`, `val` or `validation`, whichever there is, where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_split: Option<String>,
    /// Parquet only: the image column, where it cannot be told from the schema.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_column: Option<String>,
    /// Parquet only: the label column, where it cannot be told from the schema.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label_column: Option<String>,
    /// Side, in pixels, that images are brought to; by default what the student's architecture was made for.
    pub image_size: u32,
    /// Per-channel mean of pixel values in [0, 1]; the training split's own where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mean: Option<[f64; 3]>,
    /// Per-channel standard deviation of pixel values in [0, 1]; the training split's own where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub std: Option<[f64; 3]>,
    /// Train on the first so many images only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
}

/// How the student learns from the teacher.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// Plain training on the labels, without a teacher.
    None,
    /// Knowledge distillation (Hinton et al. 2015).
    Kd,
    /// Decoupled knowledge distillation (Zhao et al. 2022).
    Dkd,
    /// Normalised knowledge distillation (Yang et al. 2023).
    Nkd,
    /// Scale decoupled KD (Wei et al. 2024).
    SddKd,
    /// Scale decoupled DKD.
    SddDkd,
    /// Scale decoupled NKD.
    SddNkd,
}

/// The loss of one region, whatever the scales.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BaseLoss {
    /// Kullback-Leibler divergence at a temperature.
    Kd,
    /// Target-class and non-target-class parts, weighted apart.
    Dkd,
    /// Normalised non-target part plus the weighted target.
    Nkd,
}

impl Method {
    /// The loss of one region; none for plain training.
    #[must_use]
    pub fn base(self) -> Option<BaseLoss> {
        match self {
            Self::None => None,
            Self::Kd | Self::SddKd => Some(BaseLoss::Kd),
            Self::Dkd | Self::SddDkd => Some(BaseLoss::Dkd),
            Self::Nkd | Self::SddNkd => Some(BaseLoss::Nkd),
        }
    }

    /// Whether the method splits the feature map into regions.
    #[must_use]
    pub fn is_scale_decoupled(self) -> bool {
        matches!(self, Self::SddKd | Self::SddDkd | Self::SddNkd)
    }

    /// The name in a specification.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Kd => "kd",
            Self::Dkd => "dkd",
            Self::Nkd => "nkd",
            Self::SddKd => "sdd_kd",
            Self::SddDkd => "sdd_dkd",
            Self::SddNkd => "sdd_nkd",
        }
    }
}

/// When a region counts as consistent with the teacher's prediction for the whole image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Grouping {
    /// The teacher's local and global predictions are both right or both wrong about the label (the published code).
    Label,
    /// The teacher's local and global predictions are the same class (the paper's sentence).
    Class,
}

/// Weights of the parts of the loss; all are non-negative.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Weights {
    /// Of the cross entropy with the labels.
    pub cross_entropy: f64,
    /// Of the distillation loss.
    pub distillation: f64,
    /// Of regions that agree with the teacher's global prediction.
    pub consistent: f64,
    /// Of regions that do not.
    pub complementary: f64,
}

/// The distillation loss. Fields that the method does not use are absent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DistillationSpec {
    /// How the student learns from the teacher.
    pub method: Method,
    /// Scale m splits the final feature map into m×m regions; ascending. Empty for `none`, `[1]` for kd, dkd, nkd.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scales: Vec<u32>,
    /// One factor per scale; 1 for each by default. Empty for `none`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scale_weights: Vec<f64>,
    /// Weights of the parts of the loss.
    pub weights: Weights,
    /// When a region counts as consistent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grouping: Option<Grouping>,
    /// Softmax temperature.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// DKD: weight of the target-class part.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alpha: Option<f64>,
    /// DKD: weight of the non-target-class part.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub beta: Option<f64>,
    /// NKD: weight of the normalised part.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gamma: Option<f64>,
    /// The distillation weight grows linearly over so many epochs; 0 for none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmup_epochs: Option<u32>,
    /// NKD: leave the target class out of the normalised part, as in the paper's formula.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exclude_target: Option<bool>,
}

/// The optimisation recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TrainingSpec {
    /// Passes over the training split.
    pub epochs: u32,
    /// Images per optimisation step, of all devices together.
    pub batch_size: u32,
    /// Devices of one worker that train together, each on its part of every batch.
    #[serde(default = "one")]
    #[schema(default = 1, minimum = 1, maximum = 64)]
    pub devices: u32,
    /// The optimiser.
    pub optimizer: OptimizerSpec,
    /// How the learning rate changes.
    pub schedule: ScheduleSpec,
    /// What happens to a training image.
    pub augmentation: Augmentation,
    /// What is kept of the teacher's outputs from epoch to epoch; absent for plain training.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, pattern = "^(off|exact|views:[1-9][0-9]{0,2})$", example = "views:4")]
    pub teacher_cache: Option<TeacherCache>,
    /// Largest norm of the gradient over all parameters; `null` for no clipping.
    pub clip_grad_norm: Option<f64>,
    /// Arithmetic of the networks; losses and weights are float32 whatever this is.
    pub precision: Precision,
    /// Decides the initial weights, the order of the images and the augmentation.
    pub seed: u64,
    /// Epochs between two checkpoints to resume from.
    pub checkpoint_every_epochs: u32,
    /// Epochs between two evaluations.
    pub eval_every_epochs: u32,
}

/// The devices of specifications from before there was a choice.
fn one() -> u32 {
    1
}

/// The optimiser.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum OptimizerSpec {
    /// Stochastic gradient descent, in PyTorch's formulation.
    Sgd {
        /// Initial learning rate.
        learning_rate: f64,
        /// Momentum; 0 for none.
        momentum: f64,
        /// L2 penalty added to the gradient.
        weight_decay: f64,
        /// Nesterov's momentum.
        nesterov: bool,
    },
    /// Adam with decoupled weight decay.
    Adamw {
        /// Initial learning rate.
        learning_rate: f64,
        /// Decay of the first moment.
        beta1: f64,
        /// Decay of the second moment.
        beta2: f64,
        /// Decoupled weight decay.
        weight_decay: f64,
    },
}

impl OptimizerSpec {
    /// The initial learning rate.
    #[must_use]
    pub fn learning_rate(&self) -> f64 {
        match *self {
            Self::Sgd { learning_rate, .. } | Self::Adamw { learning_rate, .. } => learning_rate,
        }
    }
}

/// How the learning rate changes from epoch to epoch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ScheduleSpec {
    /// Multiplied by `gamma` after each milestone.
    Multistep {
        /// Epochs after which the rate drops; ascending.
        milestones: Vec<u32>,
        /// The factor.
        gamma: f64,
    },
    /// Half a cosine to zero, after a linear rise.
    Cosine {
        /// Length of the rise.
        warmup_epochs: u32,
    },
    /// The same throughout.
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

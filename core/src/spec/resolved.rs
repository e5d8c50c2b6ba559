//! A job's specification as it is stored and answered: every default filled in.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Augmentation, BaseLoss, Method, TrainingSpec};
use crate::architecture::Architecture;
use crate::dataset::{Fold, SelectionRequest};

/// The version of the format since which a network may be an exported one, and a classifier be replaced.
const EXPORTED_NETWORKS: i32 = 2;
/// The version of the format since which `training` has more than the published recipe and `dataset` folds, the
/// teacher's classes can have another order, and there are TTM, WTTM, DIST, standardised logits and iCD's term.
const RECIPES_AND_LOSSES: i32 = 3;

/// A complete specification: every default filled in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobSpec {
    pub name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub teacher: Option<TeacherSpec>,
    pub student: StudentSpec,
    pub dataset: DatasetSpec,
    pub distillation: DistillationSpec,
    pub training: TrainingSpec,
    pub priority: i32,
    pub max_attempts: u32,
    pub labels: BTreeMap<String, String>,
}

/// The network to learn from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TeacherSpec {
    /// `None` for an exported network, which is its own architecture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub architecture: Option<String>,
    #[serde(flatten)]
    pub source: TeacherSource,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mean: Option<[f64; 3]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub std: Option<[f64; 3]>,
    /// Names of the data set's classes in the order of the teacher's outputs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub classes: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_top1: Option<f64>,
}

/// Where the teacher's weights are: the id of a checkpoint, or of a job whose student becomes the teacher.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TeacherSource {
    Checkpoint(String),
    Job(String),
}

/// The network to train.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StudentSpec {
    /// `None` for an exported network, which is its own architecture: then `checkpoint` names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub architecture: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<String>,
    /// What becomes of the checkpoint's classifier; kept if it is `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head: Option<StudentHead>,
}

/// What becomes of a checkpoint's classifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum StudentHead {
    /// The student starts with it.
    Keep,
    /// It is replaced by one with random weights for the classes of the data set.
    New,
}

/// The images to train and evaluate on; `location` says where they are, and differs between a job and a
/// [plan](super::TrainingPlan).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DatasetSpec<Location = DatasetName> {
    #[serde(flatten)]
    pub location: Location,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub train_split: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_split: Option<String>,
    /// Never together with `eval_split`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_fraction: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_column: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label_column: Option<String>,
    pub image_size: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mean: Option<[f64; 3]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub std: Option<[f64; 3]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eval_crop: Option<EvalCrop>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eval_resize: Option<u32>,
    /// Never together with `limit`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit_per_class: Option<u64>,
    /// Never without `fold`, and never together with `eval_split` or `eval_fraction`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub folds: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fold: Option<u32>,
    /// Never without `eval_fraction` or `folds`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split_seed: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unlabelled_split: Option<String>,
}

/// A data set of the server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatasetName {
    pub name: String,
}

impl JobSpec {
    /// The version of the format that a program must know to run the job.
    #[must_use]
    pub fn version(&self) -> i32 {
        let is_exported = self.student.architecture.is_none()
            || self.teacher.as_ref().is_some_and(|teacher| teacher.architecture.is_none());
        let has_order = self.teacher.as_ref().is_some_and(|teacher| teacher.classes.is_some());
        let is_newer =
            has_order || self.training.is_newer() || self.dataset.is_newer() || self.distillation.has_more_losses();
        match (is_newer, is_exported || self.student.head.is_some()) {
            (true, _) => RECIPES_AND_LOSSES,
            (false, true) => EXPORTED_NETWORKS,
            (false, false) => 1,
        }
    }
}

impl TeacherSpec {
    /// The id of the checkpoint; `None` if the teacher is a job's student.
    #[must_use]
    pub fn checkpoint(&self) -> Option<&str> {
        if let TeacherSource::Checkpoint(id) = &self.source { Some(id) } else { None }
    }

    /// The id of the job whose student is the teacher; `None` if the teacher is an uploaded checkpoint.
    #[must_use]
    pub fn job(&self) -> Option<&str> {
        if let TeacherSource::Job(id) = &self.source { Some(id) } else { None }
    }
}

impl<Location> DatasetSpec<Location> {
    /// The same images at another location.
    pub fn at<Other>(self, location: Other) -> DatasetSpec<Other> {
        let Self { train_split, eval_split, eval_fraction, image_column, label_column, image_size, .. } = self;
        let Self { mean, std, limit, eval_crop, eval_resize, limit_per_class, folds, fold, .. } = self;
        let Self { split_seed, unlabelled_split, .. } = self;
        DatasetSpec {
            location,
            train_split,
            eval_split,
            eval_fraction,
            image_column,
            label_column,
            image_size,
            mean,
            std,
            limit,
            eval_crop,
            eval_resize,
            limit_per_class,
            folds,
            fold,
            split_seed,
            unlabelled_split,
        }
    }

    /// The images that the job wants.
    #[must_use]
    pub fn selection(&self) -> SelectionRequest<'_> {
        SelectionRequest {
            train_split: self.train_split.as_deref(),
            eval_split: self.eval_split.as_deref(),
            eval_fraction: self.eval_fraction,
            fold: self.folds.zip(self.fold).map(|(of, number)| Fold { number, of }),
            split_seed: self.split_seed,
            unlabelled_split: self.unlabelled_split.as_deref(),
            limit: self.limit,
            limit_per_class: self.limit_per_class,
        }
    }

    /// Whether programs that know the format's first versions only would use other images.
    fn is_newer(&self) -> bool {
        let is_drawn = self.folds.is_some() || self.split_seed.is_some();
        is_drawn || self.limit_per_class.is_some() || self.unlabelled_split.is_some()
    }

    /// The part of evaluation images, which follows the augmentation unless the specification says otherwise.
    #[must_use]
    pub fn eval_part(&self, augmentation: Augmentation) -> EvalPart {
        let is_centred = augmentation == Augmentation::ResizedCropFlip || self.eval_resize.is_some();
        let usual = if is_centred { EvalCrop::Centre } else { EvalCrop::Whole };
        match self.eval_crop.unwrap_or(usual) {
            EvalCrop::Whole => EvalPart::Whole,
            EvalCrop::Centre => {
                EvalPart::Centre { resize: self.eval_resize.unwrap_or_else(|| usual_resize(self.image_size)) }
            }
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
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Weights {
    pub cross_entropy: f64,
    pub distillation: f64,
    pub consistent: f64,
    pub complementary: f64,
    /// `None` without that part, so that programs and checkpoints of before there was one know the others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clustering: Option<f64>,
}

/// The distillation loss. Fields that the method does not use are absent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DistillationSpec {
    pub method: Method,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scales: Vec<u32>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scale_weights: Vec<f64>,
    pub weights: Weights,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grouping: Option<Grouping>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alpha: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub beta: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gamma: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmup_epochs: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exclude_target: Option<bool>,
    /// `None` for logits as they are, and never false, for the same reason as [`Weights::clustering`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logit_standardisation: Option<bool>,
}

impl DistillationSpec {
    /// Whether it has something that came with [`RECIPES_AND_LOSSES`].
    fn has_more_losses(&self) -> bool {
        let is_newer_base = matches!(self.method.base(), Some(BaseLoss::Ttm | BaseLoss::Wttm | BaseLoss::Dist));
        is_newer_base || self.logit_standardisation.is_some() || self.weights.clustering.is_some()
    }

    /// A warning for each scale that is finer than the final feature map of a network: its regions overlap, which is
    /// allowed, but rarely meant.
    pub fn fine_scales(&self, network: &Architecture, role: &str, image_size: u32) -> impl Iterator<Item = String> {
        let [_, side, _] = network.layout_at(1, image_size).feature_map;
        self.finer_than(side.into(), format!("{side}×{side}"), format!("{role} {}", network.name))
    }

    /// The same for a feature map with this shorter side.
    pub fn finer_than(&self, side: u64, map: String, network: String) -> impl Iterator<Item = String> {
        let too_fine = self.scales.iter().filter(move |&&scale| u64::from(scale) > side);
        too_fine.map(move |scale| {
            format!("scale {scale} is finer than the {map} feature map of the {network}: its regions overlap")
        })
    }
}

/// Part of each evaluation image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum EvalCrop {
    /// The whole image, resized to a square.
    Whole,
    /// The centre, as usual for ImageNet: the shorter side is resized, by default to 256 for an input of 224 pixels,
    /// and the central pixels are taken.
    #[serde(alias = "center")]
    #[value(alias = "center")]
    Centre,
}

/// [`EvalCrop`] with what it needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EvalPart {
    Whole,
    Centre {
        /// Pixels to which the shorter side is resized first.
        resize: u32,
    },
}

/// The side to which ImageNet's images are usually resized before the centre of `side` pixels is taken: 256 for 224.
#[must_use]
pub fn usual_resize(side: u32) -> u32 {
    (f64::from(side) * 256.0 / 224.0).round() as u32
}

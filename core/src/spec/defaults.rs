//! Defaults that follow from other fields: the published recipe's, or the field's usual ones.

use super::requested::{StudentRequest, TeacherRequest};
use super::{Augmentation, BaseLoss, DescribedNetwork};
use crate::architecture::Architecture;

/// Images up to this side are augmented like CIFAR's by default: Tiny ImageNet's size.
const LARGEST_SMALL_IMAGE: u32 = 64;

/// CIFAR's for small images. On larger ones a crop by 4 pixels changes next to nothing, so they get ImageNet's.
pub(super) fn usual_augmentation(image_size: u32) -> Augmentation {
    if image_size <= LARGEST_SMALL_IMAGE { Augmentation::CropFlip } else { Augmentation::ResizedCropFlip }
}

/// The published CIFAR-100 recipe: 0.01 for the light students, 0.05 for the others. An exported network may be light
/// or trained already.
pub(super) fn published_learning_rate(student: &StudentRequest) -> f64 {
    if student.exported.is_some() {
        return 0.01;
    }
    let name = student.architecture.map_or("", |student| student.name);
    if name.starts_with("shufflenet") || name.starts_with("mobilenet") { 0.01 } else { 0.05 }
}

/// 62.5, 75 and 87.5 % of the epochs: 150, 180, 210 of 240.
pub(super) fn published_milestones(epochs: u32) -> Vec<u32> {
    let mut milestones: Vec<u32> =
        [5, 6, 7].iter().map(|eighths| (epochs * eighths + 4) / 8).filter(|&epoch| epoch > 0).collect();
    milestones.dedup();
    milestones
}

/// The settings that are published for standardised logits.
#[derive(Debug, Clone, Copy)]
pub(super) struct Standardised {
    pub temperature: f64,
    /// Weight of the distillation loss.
    pub weight: f64,
}

impl Standardised {
    /// As the code of Sun et al. 2024 sets them: a weight of 9 for KD, where it is 0.9 without, and 9 times those of
    /// the parts of DKD; the same for NKD. Nothing is published for the others.
    pub(super) fn published(base: BaseLoss) -> Option<Self> {
        match base {
            BaseLoss::Kd | BaseLoss::Dkd | BaseLoss::Nkd => Some(Self { temperature: 2.0, weight: 9.0 }),
            BaseLoss::Ttm | BaseLoss::Wttm | BaseLoss::Dist => None,
        }
    }
}

/// How the teacher and the student of a job are related, which decides the published scales.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kinship {
    /// Both are of this family of architectures.
    Family(&'static str),
    /// Both are the same exported network, apart from their weights.
    Graph,
    /// One is an exported network, whose family nobody knows.
    Exported,
    /// They are of two families, or not known yet.
    Families,
}

/// The architecture and the exported network of a role, as far as they are known.
type KnownNetwork<'a> = (Option<&'static Architecture>, Option<&'a DescribedNetwork>);

impl Kinship {
    pub(super) fn of(teacher: Option<&TeacherRequest>, student: &StudentRequest) -> Self {
        let teacher: KnownNetwork<'_> =
            teacher.map_or((None, None), |teacher| (teacher.architecture, teacher.exported.as_ref()));
        match (teacher, (student.architecture, student.exported.as_ref())) {
            ((Some(one), _), (Some(other), _)) if one.family.name() == other.family.name() => {
                Self::Family(one.family.name())
            }
            ((_, Some(one)), (_, Some(other))) if one.is_graph_of(other) => Self::Graph,
            ((_, Some(_)), _) | (_, (_, Some(_))) => Self::Exported,
            _ => Self::Families,
        }
    }

    /// Wei et al. 2024, section 4: {1, 2} for teachers and students of one family, {1, 2, 4} for others.
    pub(super) fn published_scales(self) -> &'static [u32] {
        match self {
            Self::Family(_) | Self::Graph => &[1, 2],
            Self::Exported | Self::Families => &[1, 2, 4],
        }
    }

    /// For what pairs these are the published scales. `None` for two families that are known, which most published
    /// pairs are.
    pub(super) fn reason(self) -> Option<String> {
        match self {
            Self::Family(name) => Some(format!("a teacher and a student of one family (here {name})")),
            Self::Graph => Some(
                "a teacher and a student of one family: both are one exported network, apart from their weights"
                    .to_owned(),
            ),
            Self::Exported => Some(
                "a teacher and a student of two families: an exported network counts as a family of its own".to_owned(),
            ),
            Self::Families => None,
        }
    }
}

//! The methods of distillation, and the loss that each is built from.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

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
    /// Transformed teacher matching (Zheng and Yang 2024).
    Ttm,
    /// Weighted transformed teacher matching (Zheng and Yang 2024).
    Wttm,
    /// Distillation from a stronger teacher, by correlations (Huang et al. 2022).
    Dist,
    /// Scale decoupled KD (Wei et al. 2024).
    SddKd,
    /// Scale decoupled DKD.
    SddDkd,
    /// Scale decoupled NKD.
    SddNkd,
    /// Scale decoupled TTM.
    SddTtm,
    /// Scale decoupled WTTM.
    SddWttm,
    /// Scale decoupled DIST.
    SddDist,
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
    /// Kullback-Leibler divergence from the power-transformed teacher, without a temperature of the student.
    Ttm,
    /// The same, weighted by how smooth the transformed teacher is.
    Wttm,
    /// Correlations over the classes of an image and over the images of a batch.
    Dist,
}

impl Method {
    /// Every method.
    pub const ALL: [Self; 13] = [
        Self::None,
        Self::Kd,
        Self::Dkd,
        Self::Nkd,
        Self::Ttm,
        Self::Wttm,
        Self::Dist,
        Self::SddKd,
        Self::SddDkd,
        Self::SddNkd,
        Self::SddTtm,
        Self::SddWttm,
        Self::SddDist,
    ];

    /// The loss of one region; `None` for plain training.
    #[must_use]
    pub fn base(self) -> Option<BaseLoss> {
        match self {
            Self::None => None,
            Self::Kd | Self::SddKd => Some(BaseLoss::Kd),
            Self::Dkd | Self::SddDkd => Some(BaseLoss::Dkd),
            Self::Nkd | Self::SddNkd => Some(BaseLoss::Nkd),
            Self::Ttm | Self::SddTtm => Some(BaseLoss::Ttm),
            Self::Wttm | Self::SddWttm => Some(BaseLoss::Wttm),
            Self::Dist | Self::SddDist => Some(BaseLoss::Dist),
        }
    }

    /// Whether the method splits the feature map into regions.
    #[must_use]
    pub fn is_scale_decoupled(self) -> bool {
        match self {
            Self::None | Self::Kd | Self::Dkd | Self::Nkd | Self::Ttm | Self::Wttm | Self::Dist => false,
            Self::SddKd | Self::SddDkd | Self::SddNkd | Self::SddTtm | Self::SddWttm | Self::SddDist => true,
        }
    }

    /// The method of this name; `None` for one that this program does not know.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|method| method.name() == name)
    }

    /// The method as messages call it.
    pub(super) fn words(self, is_default: bool) -> String {
        format!("method \"{}\"{}", self.name(), if is_default { ", the default" } else { "" })
    }

    /// The name in a specification.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Kd => "kd",
            Self::Dkd => "dkd",
            Self::Nkd => "nkd",
            Self::Ttm => "ttm",
            Self::Wttm => "wttm",
            Self::Dist => "dist",
            Self::SddKd => "sdd_kd",
            Self::SddDkd => "sdd_dkd",
            Self::SddNkd => "sdd_nkd",
            Self::SddTtm => "sdd_ttm",
            Self::SddWttm => "sdd_wttm",
            Self::SddDist => "sdd_dist",
        }
    }
}

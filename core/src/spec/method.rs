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
    pub(super) const ALL: [Self; 7] =
        [Self::None, Self::Kd, Self::Dkd, Self::Nkd, Self::SddKd, Self::SddDkd, Self::SddNkd];

    /// The loss of one region; `None` for plain training.
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

    /// The method of this name; `None` for one that this program does not know.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|method| method.name() == name)
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

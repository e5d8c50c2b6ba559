//! The part of the [table](super::fields) about the distillation loss.

use super::BaseLoss;
use super::field::Kind::{Boolean, Choice, Integer, Integers, Number, Numbers};
use super::field::{Kind, Literal, MOST_EPOCHS, Object, UsedBy, field};

pub(super) const LARGEST_WEIGHT: f64 = 1e6;
const MOST_SCALES: usize = 16;
/// Most rows and columns of regions.
pub const FINEST_SCALE: i64 = 16;

pub(super) const DISTILLATION: Object = Object {
    name: "DistillationSpec",
    description: "The distillation loss. A job has only the fields that its method uses.",
    fields: &[
        field("method", Choice("Method"), "How the student learns from the teacher.").default(Literal::Text("sdd_kd")),
        field(
            "scales",
            Integers { longest: MOST_SCALES, each: 1..=FINEST_SCALE },
            "Scale m splits the final feature map into m×m regions; ascending. Only `sdd_` methods have a choice: by \
             default, as published, 1, 2 for a teacher and a student of one family and 1, 2, 4 for others, without scales \
             that are finer than the map of an exported network.",
        )
        .follows()
        .used_by(UsedBy::Distillation),
        field(
            "temperature",
            Number(1e-3..=1e3),
            "Softmax temperature; for `ttm` and `wttm` of the teacher alone, the inverse of their exponent. By default 2 for \
             `kd`, `dkd` and `nkd` with `logit_standardisation`.",
        )
        .default_of(|method| {
            Literal::Number(match method.base() {
                Some(BaseLoss::Ttm) => 10.0,
                Some(BaseLoss::Wttm) => 5.0,
                _ => 4.0,
            })
        })
        .used_by(UsedBy::Distillation),
        field(
            "logit_standardisation",
            Boolean,
            "Standardise the logits of each region over the classes before the loss, for both networks (Sun et al. 2024); \
             off by default.",
        )
        .used_by(UsedBy::Distillation),
        field(
            "warmup_epochs",
            Integer(0..=MOST_EPOCHS),
            "Epochs over which the weight of the distillation loss grows linearly from 0.",
        )
        .default_of(|method| {
            let is_warmed_up = matches!(method.base(), Some(BaseLoss::Dkd | BaseLoss::Nkd));
            Literal::Integer(if is_warmed_up { 20 } else { 0 })
        })
        .used_by(UsedBy::Distillation),
        field(
            "grouping",
            Choice("Grouping"),
            "When a region counts as consistent with the teacher's prediction for the whole image.",
        )
        .default(Literal::Text("label"))
        .used_by(UsedBy::Distillation),
        field(
            "scale_weights",
            Numbers { longest: MOST_SCALES, each: 0.0..=LARGEST_WEIGHT },
            "One factor per scale; 1 by default.",
        )
        .follows()
        .used_by(UsedBy::Distillation),
        field("alpha", WEIGHT, "Weight of the target-class part.").default(Literal::Number(1.0)).used_by(DKD),
        field(
            "beta",
            WEIGHT,
            "Weight of the non-target-class part of `dkd`; of the correlation over the classes of an image in `dist`.",
        )
        .default_of(|method| Literal::Number(if method.base() == Some(BaseLoss::Dkd) { 8.0 } else { 1.0 }))
        .used_by(UsedBy::Of(&[BaseLoss::Dkd, BaseLoss::Dist])),
        field(
            "gamma",
            WEIGHT,
            "Weight of the normalised part of `nkd`; of the correlation over the images of a batch in `dist`.",
        )
        .default_of(|method| Literal::Number(if method.base() == Some(BaseLoss::Nkd) { 8.0 } else { 1.0 }))
        .used_by(UsedBy::Of(&[BaseLoss::Nkd, BaseLoss::Dist])),
        field(
            "exclude_target",
            Boolean,
            "Leave the target class out of the normalised part, as in the paper's formula.",
        )
        .default(Literal::Boolean(false))
        .used_by(UsedBy::Of(&[BaseLoss::Nkd])),
        field("weights", Kind::Object(&WEIGHTS), "Weights of the parts of the loss.").default(Literal::Empty),
    ],
};

const WEIGHT: Kind = Number(0.0..=LARGEST_WEIGHT);
const DKD: UsedBy = UsedBy::Of(&[BaseLoss::Dkd]);

const WEIGHTS: Object = Object {
    name: "Weights",
    description: "Weights of the parts of the loss.",
    fields: &[
        field("cross_entropy", WEIGHT, "Weight of the cross entropy with the labels.")
            .default_of(|method| Literal::Number(if method.base() == Some(BaseLoss::Kd) { 0.1 } else { 1.0 })),
        field(
            "distillation",
            WEIGHT,
            "Weight of the distillation loss. By default 9 for `kd`, `dkd` and `nkd` with `logit_standardisation`.",
        )
        .default_of(|method| {
            Literal::Number(match method.base() {
                None => 0.0,
                Some(BaseLoss::Kd) => 0.9,
                Some(BaseLoss::Dkd | BaseLoss::Nkd) => 1.0,
                Some(BaseLoss::Ttm) => 45.0,
                Some(BaseLoss::Wttm) => 4.0,
                Some(BaseLoss::Dist) => 2.0,
            })
        })
        .used_by(UsedBy::Distillation)
        .ignored_elsewhere(),
        field("consistent", WEIGHT, "Weight of regions that agree with the teacher's prediction for the whole image.")
            .default(Literal::Number(1.0))
            .used_by(UsedBy::Distillation)
            .ignored_elsewhere(),
        field("complementary", WEIGHT, "Weight of the other regions.")
            .default(Literal::Number(2.0))
            .used_by(UsedBy::Distillation)
            .ignored_elsewhere(),
        field(
            "clustering",
            WEIGHT,
            "Weight of the difference between student and teacher in how similar the regions of an image are to each \
             other (iCD, Xue et al. 2025); without warm-up, and 0 by default.",
        )
        .used_by(UsedBy::ScaleDecoupled),
    ],
};

//! Published training recipes: values that take the place of the defaults of `training`.

use std::sync::LazyLock;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

/// A published training recipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum Recipe {
    /// The shortest of "ResNet strikes back", published with timm: LAMB, binary cross entropy, RandAugment, mixup and
    /// CutMix over 100 epochs.
    #[serde(rename = "timm-a3")]
    TimmA3,
    /// torchvision's for the weights `IMAGENET1K_V2`: TrivialAugment, random erasing, mixup, CutMix, label smoothing
    /// and EMA over 600 epochs.
    #[serde(rename = "torchvision-v2")]
    TorchvisionV2,
    /// DeiT's, as published with timm: AdamW, RandAugment, random erasing, mixup, CutMix and label smoothing over 300
    /// epochs.
    #[serde(rename = "deit")]
    Deit,
}

impl Recipe {
    /// The values of the recipe, as fields of `training`.
    pub(super) fn values(self) -> &'static Map<String, Value> {
        static VALUES: LazyLock<[Map<String, Value>; 3]> =
            LazyLock::new(|| [timm_a3(), torchvision_v2(), deit()].map(members));
        &VALUES[self as usize]
    }

    /// The name in a specification.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::TimmA3 => "timm-a3",
            Self::TorchvisionV2 => "torchvision-v2",
            Self::Deit => "deit",
        }
    }

    /// Where it was published.
    fn source(self) -> &'static str {
        match self {
            Self::TimmA3 => "Wightman et al. 2021, https://arxiv.org/abs/2110.00476, table 2",
            Self::TorchvisionV2 => {
                "https://pytorch.org/blog/how-to-train-state-of-the-art-models-using-torchvision-latest-primitives/ \
                 (Vryniotis 2021)"
            }
            Self::Deit => "Touvron et al. 2021, https://arxiv.org/abs/2012.12877, table 9",
        }
    }

    /// What the published recipe has and the trainer cannot do.
    fn lacks(self) -> &'static str {
        match self {
            Self::TimmA3 => {
                "training on 160 pixels and evaluation on 224 (set dataset.image_size and dataset.eval_resize for one of \
                 them), bicubic resizing, magnitudes of RandAugment that vary, and timm's variants of its operations"
            }
            Self::TorchvisionV2 => {
                "weight decay of the classifier's bias, four repetitions of each image per epoch, training on smaller \
                 images than evaluation (176 and 224 pixels), and an average that begins after the warm-up"
            }
            Self::Deit => {
                "stochastic depth (an exported network may have it), repeated augmentation, bicubic resizing, noise \
                 instead of the mean colour in erased rectangles, magnitudes of RandAugment that vary, and timm's \
                 variants of its operations"
            }
        }
    }

    /// The note for a job with this recipe: a sentence without a full stop.
    pub(super) fn note(self, is_changed: bool) -> String {
        let name = self.name();
        let names: Vec<&str> = self.values().keys().map(String::as_str).collect();
        format!(
            "training.recipe {name} sets {}{}, as published ({}). The published training also had {}",
            names.join(", "),
            if is_changed { " where the job does not" } else { "" },
            self.source(),
            self.lacks()
        )
    }
}

fn members(value: Value) -> Map<String, Value> {
    if let Value::Object(members) = value { members } else { unreachable!("a recipe is an object") }
}

/// LAMB clips the gradient at a norm of 1, which timm has as its default. The threshold is that of timm's commands for
/// these recipes (`--bce-target-thresh 0.2`): every class of a mixed image is to be recognised.
fn timm_a3() -> Value {
    json!({
        "epochs": 100,
        "batch_size": 2048,
        "augmentation": "resized_crop_flip",
        "optimizer": {"type": "lamb", "learning_rate": 8e-3, "weight_decay": 0.02},
        "schedule": {"type": "cosine", "warmup_epochs": 5},
        "label_loss": "binary_cross_entropy",
        "label_threshold": 0.2,
        "mixup_alpha": 0.1,
        "cutmix_alpha": 1.0,
        "auto_augment": "rand_augment",
        "rand_augment_ops": 2,
        "rand_augment_magnitude": 6,
        "clip_grad_norm": 1.0,
    })
}

/// The decay is that of the published average, which takes every 32nd step: 1 − 2e-5 · (1024 · 32 / 600) / 32.
fn torchvision_v2() -> Value {
    json!({
        "epochs": 600,
        "batch_size": 1024,
        "augmentation": "resized_crop_flip",
        "optimizer": {"type": "sgd", "learning_rate": 0.5, "momentum": 0.9, "weight_decay": 2e-5},
        "decay_biases_and_norms": false,
        "schedule": {"type": "cosine", "warmup_epochs": 5},
        "label_smoothing": 0.1,
        "mixup_alpha": 0.2,
        "cutmix_alpha": 1.0,
        "auto_augment": "trivial_augment_wide",
        "auto_augment_interpolation": "bilinear",
        "random_erasing": 0.1,
        "ema_decay": 0.999_966,
        "clip_grad_norm": null,
    })
}

/// The rate is 0.0005 · batch size / 512.
fn deit() -> Value {
    json!({
        "epochs": 300,
        "batch_size": 1024,
        "augmentation": "resized_crop_flip",
        "optimizer": {"type": "adamw", "learning_rate": 1e-3, "weight_decay": 0.05},
        "decay_biases_and_norms": false,
        "schedule": {"type": "cosine", "warmup_epochs": 5},
        "label_smoothing": 0.1,
        "mixup_alpha": 0.8,
        "cutmix_alpha": 1.0,
        "auto_augment": "rand_augment",
        "rand_augment_ops": 2,
        "rand_augment_magnitude": 9,
        "random_erasing": 0.25,
        "clip_grad_norm": null,
    })
}

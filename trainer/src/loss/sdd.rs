//! Scale decoupled distillation (Wei et al., CVPR 2024): the loss of every region of the feature map, weighed by
//! whether the teacher sees there what it sees in the whole image. Plain kd, dkd and nkd are the case of scale 1.

use tch::{Device, Kind, Tensor};

use crate::loss::region::Loss;
use distillery::spec::{BaseLoss, DistillationSpec, Grouping};

/// Logits of the regions of a batch.
#[derive(Debug)]
pub struct Regions {
    /// Of whole images: [B, K].
    pub global: Tensor,
    /// Of every region, scale by scale, each row by row: [B, N, K].
    pub local: Tensor,
}

impl Regions {
    /// From the logits of the whole image and then of all regions of finer `scales`.
    #[must_use]
    pub fn split(logits: &Tensor, scales: &[u32]) -> Self {
        let global = logits.select(1, 0);
        let local = if scales.contains(&1) { logits.shallow_clone() } else { logits.slice(1, 1, None, 1) };
        Self { global, local }
    }

    /// What [`split`](Self::split) took apart.
    pub fn joined(&self, scales: &[u32]) -> Tensor {
        if scales.contains(&1) {
            return self.local.shallow_clone();
        }
        Tensor::cat(&[&self.global.unsqueeze(1), &self.local], 1)
    }
}

/// So many logit vectors has an image at those scales, the whole image among them.
#[must_use]
pub fn region_count(scales: &[u32]) -> i64 {
    1 + scales.iter().filter(|&&scale| scale != 1).map(|&scale| i64::from(scale * scale)).sum::<i64>()
}

/// Pools the feature map [B, C, H, W] at every scale and lets `classify` ([*, C] to [*, K]) see the pooled vectors,
/// the whole image among them whether or not 1 is one of the `scales`.
#[must_use]
pub fn classify_regions(classify: impl Fn(&Tensor) -> Tensor, features: &Tensor, scales: &[u32]) -> Regions {
    // A mean that is rounded to bfloat16 moves regions from one group to the other.
    let features = if features.kind() == Kind::BFloat16 { &features.to_kind(Kind::Float) } else { features };
    let pool = |scale: i64| features.adaptive_avg_pool2d([scale, scale]).flatten(2, 3);
    let finer = scales.iter().filter(|&&scale| scale != 1).map(|&scale| pool(i64::from(scale)));
    let pooled: Vec<Tensor> = std::iter::once(pool(1)).chain(finer).collect();
    Regions::split(&classify(&Tensor::cat(&pooled, 2).transpose(1, 2)), scales)
}

/// The distillation part of the loss, with what is worth a curve.
#[derive(Debug)]
pub struct Distilled {
    /// Mean over images and regions of weight times loss: a scalar with gradient.
    pub loss: Tensor,
    /// What consistent regions contribute to it.
    pub consistent: Tensor,
    /// What complementary regions contribute to it.
    pub complementary: Tensor,
    /// Share of complementary regions.
    pub complementary_fraction: Tensor,
    /// Mean loss of each scale's regions, before weights: `[scales]`.
    pub per_scale: Tensor,
    /// Share of complementary regions of each scale: `[scales]`.
    pub complementary_per_scale: Tensor,
}

/// The distillation loss of a specification, ready to be applied.
#[derive(Debug)]
pub struct Distillation {
    /// Of one region.
    pub base: Loss,
    /// Ascending.
    pub scales: Vec<u32>,
    /// When a region counts as consistent.
    pub grouping: Grouping,
    /// Weights of consistent and complementary regions.
    pub weights: (f64, f64),
    /// The weight of each region's scale: `[N]`.
    region_weights: Tensor,
    /// Averages `[N]` to `[scales]`.
    scale_means: Tensor,
}

impl Distillation {
    /// None for plain training.
    #[must_use]
    pub fn new(spec: &DistillationSpec, device: Device) -> Option<Self> {
        let temperature = spec.temperature.unwrap_or(1.0);
        let base = match spec.method.base()? {
            BaseLoss::Kd => Loss::Kd { temperature },
            BaseLoss::Dkd => {
                Loss::Dkd { temperature, alpha: spec.alpha.unwrap_or(1.0), beta: spec.beta.unwrap_or(8.0) }
            }
            BaseLoss::Nkd => Loss::Nkd {
                temperature,
                gamma: spec.gamma.unwrap_or(8.0),
                exclude_target: spec.exclude_target.unwrap_or(false),
            },
        };
        let grouping = spec.grouping.unwrap_or(Grouping::Label);
        let weights = (spec.weights.consistent, spec.weights.complementary);
        Some(Self::from_parts(base, &spec.scales, &spec.scale_weights, grouping, weights, device))
    }

    /// With every parameter given.
    #[must_use]
    pub fn from_parts(
        base: Loss,
        scales: &[u32],
        scale_weights: &[f64],
        grouping: Grouping,
        weights: (f64, f64),
        device: Device,
    ) -> Self {
        let regions = || scales.iter().map(|&scale| (scale * scale) as usize);
        let total: usize = regions().sum();
        let mut region_weights = Vec::with_capacity(total);
        let mut scale_means = vec![0_f32; scales.len() * total];
        for (index, count) in regions().enumerate() {
            let start = index * total + region_weights.len();
            scale_means[start..start + count].fill(1.0 / count as f32);
            region_weights.extend(std::iter::repeat_n(scale_weights[index] as f32, count));
        }
        Self {
            base,
            scales: scales.to_vec(),
            grouping,
            weights,
            region_weights: Tensor::from_slice(&region_weights).to_device(device),
            scale_means: Tensor::from_slice(&scale_means).view([scales.len() as i64, total as i64]).to_device(device),
        }
    }

    /// The loss of a batch: student and teacher regions, and labels `[B]`.
    #[must_use]
    pub fn apply(&self, student: &Regions, teacher: &Regions, target: &Tensor) -> Distilled {
        let complementary = self.agrees(teacher, target).logical_not();
        let target = target.unsqueeze(1).expand([-1, student.local.size()[1]], false);
        let losses = self.base.of(&student.local, &teacher.local, &target);
        let complementary = complementary.to_kind(losses.kind());
        let (of_consistent, of_complementary) = self.weights;
        let group_weights = &complementary * (of_complementary - of_consistent) + of_consistent;
        let weighted = group_weights * &self.region_weights * &losses;
        let loss = weighted.mean(None::<Kind>);
        let contribution = (weighted.detach() * &complementary).mean(None::<Kind>);
        let of_scales = |values: &Tensor| {
            let mean = values.mean_dim([0_i64].as_slice(), false, None::<Kind>);
            self.scale_means.mv(&mean)
        };
        Distilled {
            consistent: loss.detach() - &contribution,
            complementary: contribution,
            complementary_fraction: complementary.mean(None::<Kind>),
            per_scale: of_scales(&losses.detach()),
            complementary_per_scale: of_scales(&complementary),
            loss,
        }
    }

    /// Whether each region agrees with the teacher's global prediction, for labels `[B]`: [B, N].
    pub fn agrees(&self, teacher: &Regions, target: &Tensor) -> Tensor {
        let target = target.unsqueeze(-1);
        let local = teacher.local.argmax(-1, false);
        let global = teacher.global.argmax(-1, true);
        match self.grouping {
            Grouping::Label => local.eq_tensor(&target).eq_tensor(&global.eq_tensor(&target)),
            Grouping::Class => local.eq_tensor(&global),
        }
    }
}

/// The share of the distillation weight in an epoch, counted from 1.
#[must_use]
pub fn warmup(epoch: u32, warmup_epochs: u32) -> f64 {
    if warmup_epochs == 0 { 1.0 } else { (f64::from(epoch) / f64::from(warmup_epochs)).min(1.0) }
}

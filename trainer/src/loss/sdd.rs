//! Scale decoupled distillation (Wei et al., CVPR 2024): the loss of every region of the feature map, weighted by
//! whether the teacher sees there what it sees in the whole image. Plain kd, dkd and nkd are the case of scale 1.

use tch::{Device, Kind, Tensor};

use crate::device::sdd_kernel::{Base, Computed, Parameters, SddKernel};
use crate::loss::clustering::clustering;
use crate::loss::region::{Loss, standardised};
use crate::loss::target::{MixedLabels, Target};
use distillery_core::spec::{BaseLoss, DistillationSpec, Grouping};

/// Logits of the regions of a batch.
#[derive(Debug)]
pub struct Regions {
    /// Of whole images: [B, K]
    pub global: Tensor,
    /// Of every region, scale by scale and row by row: [B, N, K]
    pub local: Tensor,
}

impl Regions {
    /// From the logits [B, 1 + finer regions, K] of the whole image, followed by the regions of the finer `scales`.
    #[must_use]
    pub fn split(logits: &Tensor, scales: &[u32]) -> Self {
        let global = logits.select(1, 0);
        let local = if scales.contains(&1) { logits.shallow_clone() } else { logits.slice(1, 1, None, 1) };
        Self { global, local }
    }

    /// The inverse of [`split`](Self::split).
    pub fn joined(&self, scales: &[u32]) -> Tensor {
        if scales.contains(&1) {
            return self.local.shallow_clone();
        }
        Tensor::cat(&[&self.global.unsqueeze(1), &self.local], 1)
    }
}

/// Number of logit vectors per image at these scales, including that of the whole image.
#[must_use]
pub fn region_count(scales: &[u32]) -> i64 {
    1 + scales.iter().filter(|&&scale| scale != 1).map(|&scale| i64::from(scale * scale)).sum::<i64>()
}

/// Pools feature maps [B, C, H, W] at every scale, and applies `classify` ([*, C] to [*, K]) to the pooled vectors.
/// That of the whole image is always among them, even if scale 1 is not.
#[must_use]
pub fn classify_regions(classify: impl Fn(&Tensor) -> Tensor, features: &Tensor, scales: &[u32]) -> Regions {
    Regions::split(&classify(&Tensor::cat(&pooled(features, scales), 2).transpose(1, 2)), scales)
}

/// Logits [B, 1 + finer regions, K] of the whole image and of the regions of the finer `scales`, as
/// [`joined`](Regions::joined) has them. Each scale is classified by itself, so that its logits do not depend on which
/// others there are: some kernels round differently for another number of vectors.
pub fn classify_by_scale(classify: impl Fn(&Tensor) -> Tensor, features: &Tensor, scales: &[u32]) -> Tensor {
    let logits: Vec<Tensor> =
        pooled(features, scales).iter().map(|vectors| classify(&vectors.transpose(1, 2))).collect();
    Tensor::cat(&logits, 1)
}

/// The means of feature maps [B, C, H, W] over the whole image and over the regions of the finer `scales`:
/// [B, C, regions] for each scale.
fn pooled(features: &Tensor, scales: &[u32]) -> Vec<Tensor> {
    // Rounding the means to bfloat16 would move regions between the groups.
    let features = if features.kind() == Kind::BFloat16 { &features.to_kind(Kind::Float) } else { features };
    let pool = |scale: i64| features.adaptive_avg_pool2d([scale, scale]).flatten(2, 3);
    let finer = scales.iter().filter(|&&scale| scale != 1).map(|&scale| pool(i64::from(scale)));
    std::iter::once(pool(1)).chain(finer).collect()
}

/// The logits [B, 1 + finer regions of `scales`, K] among those of more scales, [B, 1 + finer regions of `kept`, K].
pub fn of_scales(logits: &Tensor, kept: &[u32], scales: &[u32]) -> Tensor {
    if region_count(kept) == region_count(scales) {
        return logits.shallow_clone();
    }
    let (mut start, mut parts) = (1, vec![logits.narrow(1, 0, 1)]);
    for &scale in kept.iter().filter(|&&scale| scale != 1) {
        let count = i64::from(scale * scale);
        if scales.contains(&scale) {
            parts.push(logits.narrow(1, start, count));
        }
        start += count;
    }
    Tensor::cat(&parts, 1)
}

/// The distillation loss of a batch, with what is reported as metrics.
#[derive(Debug)]
pub struct Distilled {
    /// Mean over images and regions of weight times loss: a scalar with gradient
    pub loss: Tensor,
    /// The part of `loss` from consistent regions.
    pub consistent: Tensor,
    /// The part of `loss` from complementary regions.
    pub complementary: Tensor,
    /// Fraction of all regions that are complementary.
    pub complementary_fraction: Tensor,
    /// Mean unweighted loss of each scale's regions: `[scales]`
    pub per_scale: Tensor,
    /// Fraction of each scale's regions that are complementary: `[scales]`
    pub complementary_per_scale: Tensor,
    /// The [clustering] loss before its weight: a scalar with gradient. `None` without that part.
    pub clustering: Option<Tensor>,
}

impl Distilled {
    /// The weighted mean of this, with the weight `share` (a scalar), and `other`. Without the clustering.
    fn mixed_with(&self, other: &Self, share: &Tensor) -> Self {
        let mean = |own: &Tensor, other: &Tensor| other.lerp_tensor(own, &share.to_kind(own.kind()));
        Self {
            loss: mean(&self.loss, &other.loss),
            consistent: mean(&self.consistent, &other.consistent),
            complementary: mean(&self.complementary, &other.complementary),
            complementary_fraction: mean(&self.complementary_fraction, &other.complementary_fraction),
            per_scale: mean(&self.per_scale, &other.per_scale),
            complementary_per_scale: mean(&self.complementary_per_scale, &other.complementary_per_scale),
            clustering: None,
        }
    }
}

/// The weights of the two groups of regions.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GroupWeights {
    pub consistent: f64,
    pub complementary: f64,
}

/// The distillation loss of a specification.
#[derive(Debug)]
pub struct Distillation {
    /// The loss of one region.
    pub base: Loss,
    /// Ascending.
    pub scales: Vec<u32>,
    /// When a region counts as consistent.
    pub grouping: Grouping,
    pub weights: GroupWeights,
    /// Whether the logits are standardised before the loss.
    pub is_standardised: bool,
    /// Weight of the [clustering] loss, which is added to the distillation loss; `None` without it.
    pub clustering: Option<f64>,
    /// The weight of each region's scale: `[N]`
    region_weights: Tensor,
    /// Averages regions by scale: [scales, N]
    scale_means: Tensor,
    /// Computes everything but the clustering, in place of libtorch's operators.
    kernel: Option<SddKernel>,
}

impl Distillation {
    /// `None` for plain training.
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
            BaseLoss::Ttm => Loss::Ttm { temperature },
            BaseLoss::Wttm => Loss::Wttm { temperature },
            BaseLoss::Dist => {
                Loss::Dist { temperature, beta: spec.beta.unwrap_or(1.0), gamma: spec.gamma.unwrap_or(1.0) }
            }
        };
        let grouping = spec.grouping.unwrap_or(Grouping::Label);
        let weights = GroupWeights { consistent: spec.weights.consistent, complementary: spec.weights.complementary };
        Some(Self {
            is_standardised: spec.logit_standardisation.unwrap_or(false),
            clustering: spec.weights.clustering,
            ..Self::from_parts(base, &spec.scales, &spec.scale_weights, grouping, weights, device)
        })
    }

    /// Without standardised logits and clustering.
    #[must_use]
    pub fn from_parts(
        base: Loss,
        scales: &[u32],
        scale_weights: &[f64],
        grouping: Grouping,
        weights: GroupWeights,
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
            is_standardised: false,
            clustering: None,
            region_weights: Tensor::from_slice(&region_weights).to_device(device),
            scale_means: Tensor::from_slice(&scale_means).view([scales.len() as i64, total as i64]).to_device(device),
            kernel: None,
        }
    }

    /// From now on one kernel computes the loss and its gradient. Logits must be float32, or bfloat16 on the CPU.
    ///
    /// # Errors
    /// There is no kernel for this loss, or none for the device.
    pub fn use_kernel(&mut self, device: Device) -> Result<(), String> {
        let parameters = self.kernel_parameters()?;
        self.kernel = Some(SddKernel::new(parameters, device)?);
        Ok(())
    }

    fn kernel_parameters(&self) -> Result<Parameters, String> {
        let (base, temperature, [alpha, beta, gamma]) = match self.base {
            Loss::Kd { temperature } => (Base::Kd, temperature, [0.0; 3]),
            Loss::Dkd { temperature, alpha, beta } => (Base::Dkd, temperature, [alpha, beta, 0.0]),
            Loss::Nkd { temperature, gamma, exclude_target } => {
                let base = if exclude_target { Base::NkdWithoutTarget } else { Base::Nkd };
                (base, temperature, [0.0, 0.0, gamma])
            }
            Loss::Ttm { .. } | Loss::Wttm { .. } | Loss::Dist { .. } => {
                return Err("only kd, dkd and nkd have a kernel".to_owned());
            }
        };
        if self.is_standardised {
            return Err("there is no kernel for standardised logits".to_owned());
        }
        let GroupWeights { consistent, complementary } = self.weights;
        let (by_class, scales) = (self.grouping == Grouping::Class, self.scales.clone());
        Ok(Parameters { base, by_class, scales, temperature, alpha, beta, gamma, consistent, complementary })
    }

    /// The loss of a batch with labels `target` `[B]`.
    #[must_use]
    pub fn apply(&self, student: &Regions, teacher: &Regions, target: &Tensor) -> Distilled {
        self.apply_mixed(student, teacher, &Target::of(target))
    }

    /// The loss of a batch whose images may be mixed. It is then the mean of the losses with both labels, weighted by
    /// their shares, as for the cross entropy: a region that is consistent by only one of the labels counts as
    /// consistent with that label's share. The clustering is that of the mixed image.
    #[must_use]
    pub fn apply_mixed(&self, student: &Regions, teacher: &Regions, target: &Target) -> Distilled {
        let clustering = self.clustering.map(|_| clustering(&student.local, &teacher.local, &self.scales));
        Distilled { clustering, ..self.of_labels(student, teacher, target) }
    }

    fn of_labels(&self, student: &Regions, teacher: &Regions, target: &Target) -> Distilled {
        if let Some(kernel) = &self.kernel {
            let of = |labels: &Tensor| self.by_kernel(kernel, student, teacher, labels);
            let own = of(&target.labels);
            let Some(MixedLabels { labels, own_share }) = &target.mixed else { return own };
            return own.mixed_with(&of(labels), own_share);
        }
        let losses = self.losses(student, teacher, &target.labels);
        let own = self.of_losses(&losses, teacher, &target.labels);
        let Some(MixedLabels { labels, own_share }) = &target.mixed else { return own };
        let losses = if self.base.depends_on_label() { self.losses(student, teacher, labels) } else { losses };
        own.mixed_with(&self.of_losses(&losses, teacher, labels), own_share)
    }

    /// Everything but the clustering, by the kernel.
    fn by_kernel(&self, kernel: &SddKernel, student: &Regions, teacher: &Regions, labels: &Tensor) -> Distilled {
        let Computed { loss, consistent, complementary, complementary_fraction, per_scale, complementary_per_scale } =
            kernel.apply(&student.local, &teacher.local, &teacher.global, labels, &self.region_weights);
        Distilled {
            loss,
            consistent,
            complementary,
            complementary_fraction,
            per_scale,
            complementary_per_scale,
            clustering: None,
        }
    }

    /// The unweighted loss of each region: [B, N]
    fn losses(&self, student: &Regions, teacher: &Regions, target: &Tensor) -> Tensor {
        let target = target.unsqueeze(1).expand([-1, student.local.size()[1]], false);
        if self.is_standardised {
            return self.base.of(&standardised(&student.local), &standardised(&teacher.local), &target);
        }
        self.base.of(&student.local, &teacher.local, &target)
    }

    /// Everything but the clustering, which does not depend on labels.
    fn of_losses(&self, losses: &Tensor, teacher: &Regions, target: &Tensor) -> Distilled {
        let complementary = self.agrees(teacher, target).logical_not().to_kind(losses.kind());
        let GroupWeights { consistent, complementary: of_complementary } = self.weights;
        let group_weights = &complementary * (of_complementary - consistent) + consistent;
        let weighted = group_weights * &self.region_weights * losses;
        let loss = weighted.mean(None::<Kind>);
        let contribution = (weighted.detach() * &complementary).mean(None::<Kind>);
        let of_scales = |values: &Tensor| {
            let mean = values.mean_dim([0_i64].as_slice(), false, None::<Kind>);
            self.scale_means.to_kind(mean.kind()).mv(&mean)
        };
        Distilled {
            consistent: loss.detach() - &contribution,
            complementary: contribution,
            complementary_fraction: complementary.mean(None::<Kind>),
            per_scale: of_scales(&losses.detach()),
            complementary_per_scale: of_scales(&complementary),
            clustering: None,
            loss,
        }
    }

    /// Whether each region is consistent, that is, agrees with the teacher's global prediction: [B, N]. `target` are
    /// the labels `[B]`.
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

/// The factor of the distillation weight in an epoch, counted from 1: it rises linearly to 1 over the warm-up.
#[must_use]
pub fn warmup(epoch: u32, warmup_epochs: u32) -> f64 {
    if warmup_epochs == 0 { 1.0 } else { (f64::from(epoch) / f64::from(warmup_epochs)).min(1.0) }
}

//! The distillation losses of one region: Hinton et al. 2015 (kd), Zhao et al. 2022 (dkd), Yang et al. 2023 (nkd),
//! Zheng and Yang 2024 (ttm, wttm), Huang et al. 2022 (dist).
//!
//! Pure functions from logits of student and teacher [*, K] (float32) and labels `[*]` to one value per leading
//! position `[*]`. All but dist look at one position at a time, and stay in the log domain, so that a confident teacher
//! does not lead to log 0.

use tch::{Kind, Tensor};

/// A base loss with its parameters.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Loss {
    /// T² · KL(teacher ‖ student) at temperature T.
    Kd { temperature: f64 },
    /// alpha · (T² · KL of "target or not") + beta · (T² · KL over the classes other than the target).
    Dkd {
        temperature: f64,
        /// Weight of the target-class part.
        alpha: f64,
        /// Weight of the non-target-class part.
        beta: f64,
    },
    /// −q_y · log p_y − gamma · T² · Σ q̂ · log p̂, the second at temperature T.
    Nkd {
        temperature: f64,
        /// Weight of the distributed part.
        gamma: f64,
        /// Whether q̂ and p̂ are over the classes other than the target.
        exclude_target: bool,
    },
    /// KL(teacher at temperature T ‖ student at temperature 1).
    Ttm {
        /// 1 / γ of the power transform.
        temperature: f64,
    },
    /// Σ q^(1/T) · KL(teacher at temperature T ‖ student at temperature 1).
    Wttm { temperature: f64 },
    /// T² · (beta · (1 − correlation over classes) + gamma · (1 − mean correlation over images)).
    Dist {
        temperature: f64,
        /// Weight of the correlation over the classes of an image.
        beta: f64,
        /// Weight of the correlations over the images of a batch.
        gamma: f64,
    },
}

impl Loss {
    /// Whether the loss depends on the label.
    #[must_use]
    pub fn depends_on_label(&self) -> bool {
        match self {
            Self::Dkd { .. } | Self::Nkd { .. } => true,
            Self::Kd { .. } | Self::Ttm { .. } | Self::Wttm { .. } | Self::Dist { .. } => false,
        }
    }

    /// The loss `[*]` of `student` [*, K] against `teacher` [*, K] where the labels are `target` `[*]`. The first
    /// dimension is that of the images.
    pub fn of(&self, student: &Tensor, teacher: &Tensor, target: &Tensor) -> Tensor {
        match *self {
            Self::Kd { temperature } => kd(student, teacher, temperature),
            Self::Dkd { temperature, alpha, beta } => dkd(student, teacher, target, temperature, alpha, beta),
            Self::Nkd { temperature, gamma, exclude_target } => {
                nkd(student, teacher, target, temperature, gamma, exclude_target)
            }
            Self::Ttm { temperature } => ttm(student, teacher, temperature),
            Self::Wttm { temperature } => wttm(student, teacher, temperature),
            Self::Dist { temperature, beta, gamma } => dist(student, teacher, temperature, beta, gamma),
        }
    }
}

/// T² · KL(softmax(t/T) ‖ softmax(s/T)).
pub fn kd(student: &Tensor, teacher: &Tensor, temperature: f64) -> Tensor {
    divergence(&log_softmax(&(student / temperature)), &log_softmax(&(teacher / temperature)))
        * (temperature * temperature)
}

/// alpha · TCKD + beta · NCKD.
pub fn dkd(student: &Tensor, teacher: &Tensor, target: &Tensor, temperature: f64, alpha: f64, beta: f64) -> Tensor {
    let mask = target_mask(student, target);
    let (student, teacher) = (student / temperature, teacher / temperature);
    let target_or_not =
        divergence(&target_log_odds(&student, &mask, target), &target_log_odds(&teacher, &mask, target));
    let others = divergence_of_others(&student, &teacher, &mask);
    (target_or_not * alpha + others * beta) * (temperature * temperature)
}

/// −q_y · log p_y − gamma · T² · Σ q̂ · log p̂.
pub fn nkd(
    student: &Tensor,
    teacher: &Tensor,
    target: &Tensor,
    temperature: f64,
    gamma: f64,
    exclude_target: bool,
) -> Tensor {
    let at_target =
        |log_probabilities: &Tensor| log_probabilities.gather(-1, &target.unsqueeze(-1), false).squeeze_dim(-1);
    let of_target = at_target(&log_softmax(teacher)).exp() * at_target(&log_softmax(student));
    let (student, teacher) = (student / temperature, teacher / temperature);
    let distributed = if exclude_target {
        let mask = target_mask(&student, target);
        // At the target, 0 · −inf would not be 0.
        let log_p = without_target(&student, &mask).masked_fill(&mask, 0.0);
        without_target(&teacher, &mask).exp() * log_p
    } else {
        log_softmax(&teacher).exp() * log_softmax(&student)
    };
    -of_target - sum_classes(&distributed) * (gamma * temperature * temperature)
}

/// KL(q^γ / Σ q^γ ‖ p) with γ = 1/T, as in `distiller_zoo/ttm.py` of the authors: the power transform of a softmax is
/// the softmax at temperature T. There is no factor T².
pub fn ttm(student: &Tensor, teacher: &Tensor, temperature: f64) -> Tensor {
    divergence(&log_softmax(student), &log_softmax(&(teacher / temperature)))
}

/// Σ q^γ · KL(q^γ / Σ q^γ ‖ p) with γ = 1/T, as in `distiller_zoo/wttm.py` of the authors: a smooth teacher counts
/// more.
pub fn wttm(student: &Tensor, teacher: &Tensor, temperature: f64) -> Tensor {
    let log_powers = log_softmax(teacher) / temperature;
    let weight = log_powers.logsumexp([-1_i64].as_slice(), false).exp();
    weight * divergence(&log_softmax(student), &log_softmax(&log_powers))
}

/// T² · (beta · (1 − ρ over the classes) + gamma · mean over the classes of (1 − ρ over the images)), with ρ the
/// correlation of the softmaxes at temperature T, as in `dist_kd.py` of the authors. The second part is the same for
/// all images of a batch, and is taken for each position of [B, *, K] apart.
pub fn dist(student: &Tensor, teacher: &Tensor, temperature: f64, beta: f64, gamma: f64) -> Tensor {
    let softmax = |logits: &Tensor| (logits / temperature).softmax(-1, None::<Kind>);
    let (p, q) = (softmax(student), softmax(teacher));
    let over_classes = 1.0 - correlation(&p, &q, -1);
    let over_images = 1.0 - correlation(&p, &q, 0).mean_dim([-1_i64].as_slice(), false, None::<Kind>);
    (over_classes * beta + over_images * gamma) * (temperature * temperature)
}

/// Pearson's correlation along a dimension, which is dropped; 0 where one side does not vary.
fn correlation(one: &Tensor, other: &Tensor, dim: i64) -> Tensor {
    let dim = [dim];
    let dim = dim.as_slice();
    let centred = |values: &Tensor| values - values.mean_dim(dim, true, None::<Kind>);
    let (one, other) = (centred(one), centred(other));
    let norm = |values: &Tensor| values.norm_scalaropt_dim(2.0, dim, false);
    (&one * &other).sum_dim_intlist(dim, false, None::<Kind>) / (norm(&one) * norm(&other) + 1e-8)
}

/// (z − mean) / (std + 1e-7) over the classes of logits [*, K], with the deviation of a sample (Sun et al., CVPR 2024,
/// as in their code).
pub fn standardised(logits: &Tensor) -> Tensor {
    let classes = [-1_i64];
    let classes = classes.as_slice();
    (logits - logits.mean_dim(classes, true, None::<Kind>)) / (logits.std_dim(classes, true, true) + 1e-7)
}

fn log_softmax(logits: &Tensor) -> Tensor {
    logits.log_softmax(-1, None::<Kind>)
}

fn sum_classes(values: &Tensor) -> Tensor {
    values.sum_dim_intlist(-1, false, None::<Kind>)
}

/// KL(q ‖ p) of log-probabilities [*, K], for each leading position.
fn divergence(log_p: &Tensor, log_q: &Tensor) -> Tensor {
    sum_classes(&(log_q.exp() * (log_q - log_p)))
}

/// True at the label's class: [*, K]
fn target_mask(logits: &Tensor, target: &Tensor) -> Tensor {
    let classes = logits.size().last().copied().expect("logits have classes");
    Tensor::arange(classes, (Kind::Int64, logits.device())).eq_tensor(&target.unsqueeze(-1))
}

/// Log-probabilities over the classes other than the target; −inf at the target.
fn without_target(logits: &Tensor, mask: &Tensor) -> Tensor {
    log_softmax(&logits.masked_fill(mask, f64::NEG_INFINITY))
}

/// KL over the classes other than the target.
fn divergence_of_others(student: &Tensor, teacher: &Tensor, mask: &Tensor) -> Tensor {
    let (log_p, log_q) = (without_target(student, mask), without_target(teacher, mask));
    // At the target, −inf − −inf is not a number. Its probability is 0, and so is its contribution.
    sum_classes(&(log_q.exp() * (&log_q - &log_p).masked_fill(mask, 0.0)))
}

/// log p_y and log(1 − p_y): [*, 2]
fn target_log_odds(logits: &Tensor, mask: &Tensor, target: &Tensor) -> Tensor {
    let others = logits.masked_fill(mask, f64::NEG_INFINITY).logsumexp([-1_i64].as_slice(), true);
    let of_target = logits.gather(-1, &target.unsqueeze(-1), false);
    log_softmax(&Tensor::cat(&[of_target, others], -1))
}

//! The term of iCD (Xue et al. 2025, arXiv 2509.12553): the student's regions of an image should be as similar to each
//! other as the teacher's. As in `cluster_loss` of the authors' code.

use tch::{Kind, Tensor};

/// Temperature of the softmax over the similarities of a region.
const TEMPERATURE: f64 = 2.0;
/// Least length by which logit vectors are divided.
const SHORTEST: f64 = 1e-12;

/// The clustering loss of logits [B, N, K] of the regions at these scales: the mean over the images of Σ_m w_m Σ_i
/// KL(softmax_j(⟨t_i, t_j⟩/2) ‖ softmax_j(⟨s_i, s_j⟩/2)) over the regions i, j of scale m, with logit vectors s, t of
/// length 1. A scalar with gradient.
///
/// w_m = (1 + log₂ m) / Σ (1 + log₂ m): that is 1 : 2 : 3 for scales 1, 2 and 4, as published; other scales are not.
pub fn clustering(student: &Tensor, teacher: &Tensor, scales: &[u32]) -> Tensor {
    let rank = |scale: u32| 1.0 + f64::from(scale).log2();
    let total: f64 = scales.iter().map(|&scale| rank(scale)).sum();
    let (student, teacher) = (of_length_one(student), of_length_one(teacher));
    let mut sum = Tensor::zeros([], (student.kind(), student.device()));
    let mut start = 0;
    for &scale in scales {
        let regions = i64::from(scale) * i64::from(scale);
        // A single region is equally similar to itself in both networks.
        if regions > 1 {
            let of_scale = |logits: &Tensor| log_similarities(&logits.narrow(1, start, regions));
            let (log_p, log_q) = (of_scale(&student), of_scale(&teacher));
            let divergences =
                (log_q.exp() * (&log_q - &log_p)).sum_dim_intlist([1_i64, 2].as_slice(), false, None::<Kind>);
            sum += divergences.mean(None::<Kind>) * (rank(scale) / total);
        }
        start += regions;
    }
    sum
}

fn of_length_one(logits: &Tensor) -> Tensor {
    logits / logits.norm_scalaropt_dim(2.0, [-1_i64].as_slice(), true).clamp_min(SHORTEST)
}

/// The log-softmax over the similarities of each region with all of these: [B, R, K] to [B, R, R]
fn log_similarities(logits: &Tensor) -> Tensor {
    (logits.matmul(&logits.transpose(1, 2)) / TEMPERATURE).log_softmax(-1, None::<Kind>)
}

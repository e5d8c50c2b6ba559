//! The losses in float64 as the papers define them, in plain Rust, with bounds on the error of float32.
//!
//! The bounds hold on any processor: they do not depend on the order of sums, the width of vectors or fused operations.
//! u = 2⁻²⁴ is the unit roundoff of float32. Only terms of first order in u count; the next are 10⁴ times smaller, and
//! constants are rounded up. `exp` and `log` of vector libraries are correct to two units in the last place, 4u.
//!
//! **Logits.** Pooling sums A cells, and the classifier C products and a bias, so each term of z = Σ W x̄ + b is
//! rounded at most A + C + 3 times: |δz| ≤ (A + C + 3)·u·(Σ |W| mean |x| + |b|).
//!
//! **Log-softmax** ℓ of K logits z/T with |z/T| ≤ Z. Division: 2Zu in ℓ. Subtraction of the largest: 2Zu. In the sum of
//! K exponentials, relative to it: 2Zu from their arguments, 4u from `exp`, Ku from adding. Its logarithm: 4u·ln K. The
//! last subtraction: (2Z + ln K)·u. Where largest and logarithm are added first, (Z + ln K)·u instead of the second
//! 2Zu. Together |δℓ| ≤ E = (K + 8Z + 6 ln K + 8)·u.
//!
//! **Divergence** Σ q (log q − log p). δq/q = E + 4u, the difference is off by 2E + u·|log q − log p|, and the sum of K
//! terms adds (K + 2)·u ≤ E of their magnitudes. With A = Σ q |log q − log p| the error is at most 2E + (2E + 6u)·A ≤
//! 2(E + 3u)(1 + A). The same holds for the cross-entropy of NKD with A = Σ q |log p|. The bound follows the size of
//! the terms: a divergence of 0.005 is what is left when terms of about 1 cancel.
//!
//! **Gradient** of a divergence with respect to z/T: p − q, which automatic differentiation computes as p·Σq − q. The
//! errors of p, q and the sum give at most 4(E + 4u)(p + q).

use distillery_core::spec::Grouping;
use distillery_trainer::loss::region::Loss;
use distillery_trainer::loss::sdd::GroupWeights;

use crate::support::bounded::{Bounded, U};

/// Smaller numbers may be flushed to zero.
const TINY: f64 = f32::MIN_POSITIVE as f64;

/// The sum of weighted numbers over `count`, each rounded `roundings` times on the way.
fn mean(weighted: impl Iterator<Item = (f64, Bounded)> + Clone, count: usize, roundings: usize) -> Bounded {
    let (mut sum, mut size) = (Bounded::default(), 0.0);
    for (weight, number) in weighted {
        sum.add(number, weight);
        size += (weight * number.value).abs();
    }
    let count = count as f64;
    Bounded { value: sum.value / count, error: (sum.error + U * roundings as f64 * size) / count }
}

/// Log-probabilities and the bound E on the error of each.
struct LogSoftmax {
    logs: Vec<f64>,
    error: f64,
}

fn log_sum_exp(logits: &[f64]) -> f64 {
    let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    largest + logits.iter().map(|logit| (logit - largest).exp()).sum::<f64>().ln()
}

impl LogSoftmax {
    fn of(logits: &[f64]) -> Self {
        let total = log_sum_exp(logits);
        let largest = logits.iter().map(|logit| logit.abs()).fold(0.0, f64::max);
        let classes = logits.len() as f64;
        let error = U * (classes + 8.0 * largest + 6.0 * classes.ln() + 8.0);
        Self { logs: logits.iter().map(|logit| logit - total).collect(), error }
    }

    /// The label against all other classes together, whose joint logit is the log-sum-exp of theirs.
    fn label_or_not(logits: &[f64], label: usize) -> Self {
        let others = without(logits, label);
        let Self { logs, error } = Self::of(&[logits[label], log_sum_exp(&others)]);
        Self { logs, error: error + Self::of(&others).error }
    }
}

fn without(logits: &[f64], label: usize) -> Vec<f64> {
    logits.iter().enumerate().filter(|(class, _)| *class != label).map(|(_, logit)| *logit).collect()
}

/// Σ q·v(log p, log q) for a teacher q and a student p, and its gradient with respect to the student's logits, which is
/// p − q for a divergence and for a cross-entropy.
fn expectation(student: &LogSoftmax, teacher: &LogSoftmax, v: impl Fn(f64, f64) -> f64) -> (Bounded, Vec<Bounded>) {
    let error = student.error.max(teacher.error);
    let pairs = || student.logs.iter().zip(&teacher.logs);
    let terms = pairs().map(|(log_p, log_q)| log_q.exp() * v(*log_p, *log_q));
    let size: f64 = terms.clone().map(f64::abs).sum();
    let gradient = |(log_p, log_q): (&f64, &f64)| {
        let (p, q) = (log_p.exp(), log_q.exp());
        Bounded { value: p - q, error: 4.0 * (error + 4.0 * U) * (p + q) + TINY }
    };
    (Bounded { value: terms.sum(), error: 2.0 * (error + 3.0 * U) * (1.0 + size) }, pairs().map(gradient).collect())
}

fn divergence(student: &LogSoftmax, teacher: &LogSoftmax) -> (Bounded, Vec<Bounded>) {
    expectation(student, teacher, |log_p, log_q| log_q - log_p)
}

fn cross_entropy(student: &LogSoftmax, teacher: &LogSoftmax) -> (Bounded, Vec<Bounded>) {
    expectation(student, teacher, |log_p, _| -log_p)
}

/// The loss of one region and its gradient with respect to the student's logits.
pub fn of_region(loss: Loss, student: &[f64], teacher: &[f64], label: usize) -> (Bounded, Vec<Bounded>) {
    let mut sum = Bounded::default();
    let mut gradient = vec![Bounded::default(); student.len()];
    let others = || (0..student.len()).filter(|class| *class != label);
    match loss {
        Loss::Kd { temperature } => {
            let [student, teacher] = scaled([student, teacher], temperature).map(|logits| LogSoftmax::of(&logits));
            let (value, slopes) = divergence(&student, &teacher);
            sum.add(value, temperature.powi(2));
            (0..).zip(slopes).for_each(|(class, slope): (usize, _)| gradient[class].add(slope, temperature));
        }
        Loss::Dkd { temperature, alpha, beta } => {
            let logits = scaled([student, teacher], temperature);
            let [student, teacher] = logits.each_ref().map(|logits| LogSoftmax::label_or_not(logits, label));
            let (value, slopes) = divergence(&student, &teacher);
            sum.add(value, temperature.powi(2) * alpha);
            gradient[label].add(slopes[0], temperature * alpha);
            let [student, teacher] = logits.each_ref().map(|logits| LogSoftmax::of(&without(logits, label)));
            // The derivative of the joint logit with respect to each of the others.
            for (class, share) in others().zip(&student.logs) {
                gradient[class].add(slopes[1], temperature * alpha * share.exp());
            }
            let (value, slopes) = divergence(&student, &teacher);
            sum.add(value, temperature.powi(2) * beta);
            others().zip(slopes).for_each(|(class, slope)| gradient[class].add(slope, temperature * beta));
        }
        Loss::Nkd { temperature, gamma, exclude_target } => {
            let [log_p, log_q] = [student, teacher].map(LogSoftmax::of);
            let error = log_p.error.max(log_q.error);
            let q = log_q.logs[label].exp();
            let term = -q * log_p.logs[label];
            sum.add(Bounded { value: term, error: 2.0 * (error + 3.0 * U) * (1.0 + term) }, 1.0);
            for (class, log_p) in log_p.logs.iter().enumerate() {
                let (p, one) = (log_p.exp(), f64::from(u8::from(class == label)));
                let error = 4.0 * (error + 4.0 * U) * q * (p + one) + TINY;
                gradient[class].add(Bounded { value: q * (p - one), error }, 1.0);
            }
            let logits = scaled([student, teacher], temperature);
            let classes: Vec<usize> = if exclude_target { others().collect() } else { (0..student.len()).collect() };
            let [student, teacher] = logits
                .each_ref()
                .map(|logits| LogSoftmax::of(&classes.iter().map(|&class| logits[class]).collect::<Vec<_>>()));
            let (value, slopes) = cross_entropy(&student, &teacher);
            sum.add(value, gamma * temperature.powi(2));
            classes.into_iter().zip(slopes).for_each(|(class, slope)| gradient[class].add(slope, gamma * temperature));
        }
        Loss::Ttm { .. } | Loss::Wttm { .. } | Loss::Dist { .. } => panic!("later.rs has the formula of {loss:?}"),
    }
    (sum, gradient)
}

fn scaled(logits: [&[f64]; 2], temperature: f64) -> [Vec<f64>; 2] {
    logits.map(|logits| logits.iter().map(|logit| logit / temperature).collect())
}

/// Logits of whole images `[B][K]` and of their regions `[B·N][K]`.
pub struct Regions {
    pub global: Vec<Vec<f64>>,
    pub local: Vec<Vec<f64>>,
}

/// The settings of a distillation loss.
#[derive(Clone, Copy)]
pub struct Settings<'a> {
    pub loss: Loss,
    pub scales: &'a [u32],
    /// One for each scale.
    pub scale_weights: &'a [f64],
    pub grouping: Grouping,
    /// Of consistent and complementary regions.
    pub weights: GroupWeights,
}

/// The loss of a batch.
pub struct Distilled {
    pub loss: Bounded,
    pub consistent: Bounded,
    pub complementary: Bounded,
    /// Number of complementary regions.
    pub complementary_regions: usize,
    /// Mean loss of each scale, before weights.
    pub per_scale: Vec<Bounded>,
    /// With respect to the student's logits of each region: `[B·N][K]`.
    pub gradient: Vec<Vec<Bounded>>,
}

/// The first index of the largest number.
fn largest(logits: &[f64]) -> usize {
    // Adding zero makes −0 a 0, which it equals.
    let order = |one: &usize, other: &usize| (logits[*one] + 0.0).total_cmp(&(logits[*other] + 0.0));
    (0..logits.len()).rev().max_by(order).unwrap()
}

impl Settings<'_> {
    /// L_SDD: the mean over images and regions of weight times loss.
    pub fn apply(&self, student: &Regions, teacher: &Regions, labels: &[usize]) -> Distilled {
        let scale_of: Vec<usize> = (0..self.scales.len())
            .flat_map(|index| std::iter::repeat_n(index, self.scales[index].pow(2) as usize))
            .collect();
        let (regions, count) = (scale_of.len(), student.local.len());
        let (mut losses, mut gradient, mut is_complementary) = (Vec::new(), Vec::new(), Vec::new());
        let mut weights = Vec::new();
        for (number, (student, local)) in student.local.iter().zip(&teacher.local).enumerate() {
            let (image, scale) = (number / regions, scale_of[number % regions]);
            let (label, local_class, class) = (labels[image], largest(local), largest(&teacher.global[image]));
            let agrees = match self.grouping {
                Grouping::Label => (local_class == label) == (class == label),
                Grouping::Class => local_class == class,
            };
            let group = if agrees { self.weights.consistent } else { self.weights.complementary };
            let weight = group * self.scale_weights[scale];
            let (loss, slopes) = of_region(self.loss, student, local, label);
            let slope = |slope: Bounded| {
                let factor = weight / count as f64;
                // Four factors and two additions.
                Bounded { value: slope.value * factor, error: (slope.error + 6.0 * U * slope.value.abs()) * factor }
            };
            gradient.push(slopes.into_iter().map(slope).collect());
            losses.push(loss);
            weights.push(weight);
            is_complementary.push(!agrees);
        }
        // Three factors, a sum over all regions and a division.
        let of = |group: &dyn Fn(usize) -> bool| {
            let members = (0..count).filter(|&number| group(number));
            mean(members.map(|number| (weights[number], losses[number])), count, count + 4)
        };
        let images = count / regions;
        let of_scale = |scale: usize| {
            let members = (0..count).filter(|number| scale_of[number % regions] == scale);
            let places = self.scales[scale].pow(2) as usize;
            // A mean over images, then a product with a row of weights.
            mean(members.map(|number| (1.0, losses[number])), images * places, images + regions + 3)
        };
        let loss = of(&|_| true);
        let complementary = of(&|number| is_complementary[number]);
        let mut consistent = of(&|number| !is_complementary[number]);
        // Computed as the difference of the two.
        consistent.error = loss.error + complementary.error + U * loss.value.abs();
        Distilled {
            consistent,
            complementary,
            complementary_regions: is_complementary.iter().filter(|is| **is).count(),
            per_scale: (0..self.scales.len()).map(of_scale).collect(),
            gradient,
            loss,
        }
    }
}

/// A classifier: weights `[K][C]` and biases `[K]`.
pub struct Classifier {
    pub weight: Vec<Vec<f64>>,
    pub bias: Vec<f64>,
}

/// Feature maps [B, C, H, W], row by row.
pub struct Maps {
    pub values: Vec<f64>,
    pub shape: [usize; 4],
}

impl Maps {
    /// The cells of every region of a scale, as in adaptive average pooling.
    fn cells(&self, scale: u32) -> Vec<Vec<usize>> {
        let [.., height, width] = self.shape;
        let scale = scale as usize;
        let range = |index: usize, size: usize| index * size / scale..((index + 1) * size).div_ceil(scale);
        let region = |number: usize| {
            let (rows, columns) = (range(number / scale, height), range(number % scale, width));
            rows.flat_map(|row| columns.clone().map(move |column| row * width + column)).collect()
        };
        (0..scale * scale).map(region).collect()
    }

    /// The logits of all regions, image by image: `[B·N][K]`.
    pub fn classified(&self, classifier: &Classifier, scales: &[u32]) -> Vec<Vec<Bounded>> {
        let [images, channels, height, width] = self.shape;
        let area = height * width;
        let cells: Vec<Vec<usize>> = scales.iter().flat_map(|&scale| self.cells(scale)).collect();
        let mut logits = Vec::new();
        for (image, cells) in (0..images).flat_map(|image| cells.iter().map(move |cells| (image, cells))) {
            let pooled = |of: fn(f64) -> f64| -> Vec<f64> {
                let channel = |channel| {
                    let start = (image * channels + channel) * area;
                    cells.iter().map(|cell| of(self.values[start + cell])).sum::<f64>() / cells.len() as f64
                };
                (0..channels).map(channel).collect()
            };
            let (means, sizes) = (pooled(|value| value), pooled(f64::abs));
            let roundings = U * (cells.len() + channels + 3) as f64;
            let logit = |(weights, bias): (&Vec<f64>, &f64)| {
                let products = weights.iter().zip(&means).map(|(weight, mean)| weight * mean);
                let size = weights.iter().zip(&sizes).map(|(weight, size)| weight.abs() * size);
                Bounded { value: products.sum::<f64>() + bias, error: roundings * (size.sum::<f64>() + bias.abs()) }
            };
            logits.push(classifier.weight.iter().zip(&classifier.bias).map(logit).collect());
        }
        logits
    }

    /// The gradient with respect to these maps, given the one with respect to the logits of their regions, `[B·N][K]`.
    pub fn gradient(&self, classifier: &Classifier, scales: &[u32], gradient: &[Vec<Bounded>]) -> Vec<Bounded> {
        let [_, channels, height, width] = self.shape;
        let area = height * width;
        let cells: Vec<Vec<usize>> = scales.iter().flat_map(|&scale| self.cells(scale)).collect();
        let classes = classifier.bias.len();
        // Products with a column of weights, the division by the cells of a region, and the sum over the regions of a
        // cell.
        let roundings = U * (classes + 2 + 4 * scales.len()) as f64;
        let mut features = vec![Bounded::default(); self.values.len()];
        for (number, gradient) in gradient.iter().enumerate() {
            let (image, cells) = (number / cells.len(), &cells[number % cells.len()]);
            for channel in 0..channels {
                let mut sum = Bounded::default();
                for (weights, slope) in classifier.weight.iter().zip(gradient) {
                    sum.add(*slope, weights[channel]);
                    sum.error += roundings * (weights[channel] * slope.value).abs();
                }
                let start = (image * channels + channel) * area;
                cells.iter().for_each(|cell| features[start + cell].add(sum, 1.0 / cells.len() as f64));
            }
        }
        features
    }
}

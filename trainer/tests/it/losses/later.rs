//! Losses that came after the paper of SDD: TTM, WTTM, DIST, standardised logits and iCD's clustering, against their
//! formulas in plain Rust and against values of their authors' code. In float64, so that nothing depends on the
//! processor, and in float32 within what rounding explains.

use distillery_core::spec::Grouping;
use distillery_trainer::loss::clustering::clustering;
use distillery_trainer::loss::region::{Loss, dist, standardised, ttm, wttm};
use distillery_trainer::loss::sdd::{Distillation, GroupWeights, Regions};
use tch::{Device, Kind, Tensor};

use super::reference::{self, Settings};
use super::{numbers, rows, value};
use crate::support::rounding::Rounding;
use crate::support::torch::{hashed, one_thread};

const IMAGES: usize = 6;
/// Of scales 1 and 2.
const REGIONS: usize = 5;
const CLASSES: usize = 10;
/// How often logits are moved to see how far a loss follows: in some directions it stays where it is.
const DIRECTIONS: usize = 8;

/// Logits of student and teacher, float64 [6, 5, 10].
fn logits() -> [Tensor; 2] {
    one_thread();
    let of = |salt| hashed(&[IMAGES as i64, REGIONS as i64, CLASSES as i64], salt);
    [of(1) * 3.0, of(2) * 4.0]
}

fn labels() -> Tensor {
    Tensor::arange(IMAGES as i64, (Kind::Int64, Device::Cpu))
}

fn softmax(logits: &[f64]) -> Vec<f64> {
    let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let powers: Vec<f64> = logits.iter().map(|logit| (logit - largest).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.into_iter().map(|power| power / sum).collect()
}

fn softmax_at(logits: &[f64], temperature: f64) -> Vec<f64> {
    softmax(&logits.iter().map(|logit| logit / temperature).collect::<Vec<_>>())
}

fn divergence(p: &[f64], q: &[f64]) -> f64 {
    p.iter().zip(q).map(|(p, q)| q * (q / p).ln()).sum()
}

/// Zheng and Yang 2024: the teacher's probabilities to the power γ, their sum, and the divergence from them.
fn transformed(student: &[f64], teacher: &[f64], gamma: f64) -> (f64, f64) {
    let powers: Vec<f64> = softmax(teacher).into_iter().map(|q| q.powf(gamma)).collect();
    let sum: f64 = powers.iter().sum();
    let normalised: Vec<f64> = powers.into_iter().map(|power| power / sum).collect();
    (sum, divergence(&softmax(student), &normalised))
}

fn correlation(one: &[f64], other: &[f64]) -> f64 {
    let centred = |values: &[f64]| {
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        values.iter().map(|value| value - mean).collect::<Vec<_>>()
    };
    let (one, other) = (centred(one), centred(other));
    let dot = |one: &[f64], other: &[f64]| one.iter().zip(other).map(|(one, other)| one * other).sum::<f64>();
    dot(&one, &other) / (dot(&one, &one).sqrt() * dot(&other, &other).sqrt() + 1e-8)
}

/// Huang et al. 2022, for each region apart. Rows are image by image, region by region.
fn of_correlations(student: &[Vec<f64>], teacher: &[Vec<f64>], temperature: f64, beta: f64, gamma: f64) -> Vec<f64> {
    let [p, q] = [student, teacher].map(|rows| rows.iter().map(|row| softmax_at(row, temperature)).collect::<Vec<_>>());
    let over_images = |region: usize| {
        let of_class = |class: usize| {
            let column =
                |rows: &[Vec<f64>]| rows.iter().skip(region).step_by(REGIONS).map(|row| row[class]).collect::<Vec<_>>();
            1.0 - correlation(&column(&p), &column(&q))
        };
        (0..CLASSES).map(of_class).sum::<f64>() / CLASSES as f64
    };
    let of_row = |row: usize| {
        let over_classes = 1.0 - correlation(&p[row], &q[row]);
        temperature.powi(2) * (beta * over_classes + gamma * over_images(row % REGIONS))
    };
    (0..p.len()).map(of_row).collect()
}

/// Xue et al. 2025 for scales 1 and 2.
fn of_similarities(student: &[Vec<f64>], teacher: &[Vec<f64>]) -> f64 {
    let similarities = |rows: &[Vec<f64>]| {
        let length = |row: &[f64]| row.iter().map(|value| value * value).sum::<f64>().sqrt();
        let cosine = |one: &[f64], other: &[f64]| {
            one.iter().zip(other).map(|(one, other)| one * other).sum::<f64>() / (length(one) * length(other))
        };
        let of_region =
            |one: &Vec<f64>| softmax_at(&rows.iter().map(|other| cosine(one, other)).collect::<Vec<_>>(), 2.0);
        rows.iter().map(of_region).collect::<Vec<_>>()
    };
    let of_image = |image: usize| {
        // The first region is the whole image.
        let finer = image * REGIONS + 1..(image + 1) * REGIONS;
        let [p, q] = [student, teacher].map(|rows| similarities(&rows[finer.clone()]));
        p.iter().zip(&q).map(|(p, q)| divergence(p, q)).sum::<f64>()
    };
    2.0 / 3.0 * (0..IMAGES).map(of_image).sum::<f64>() / IMAGES as f64
}

/// Compares values with a formula of the student's rows, and the gradient of their sum with its central differences.
fn assert_follows(what: &str, found: impl Fn(&Tensor) -> Tensor, formula: impl Fn(&[Vec<f64>]) -> Vec<f64>) {
    let [student, _] = logits();
    let exact = formula(&rows(&student));
    let near = |found: f64, exact: f64, tolerance: f64| (found - exact).abs() <= tolerance * (1.0 + exact.abs());
    let leaf = student.copy().set_requires_grad(true);
    let losses = found(&leaf);
    assert_eq!((losses.kind(), losses.numel()), (Kind::Double, exact.len()), "{what}");
    for (found, exact) in numbers(&losses).into_iter().zip(&exact) {
        assert!(near(found, *exact, 1e-10), "{what}: {found} instead of {exact}");
    }
    losses.sum(Kind::Double).backward();
    let gradient = numbers(&leaf.grad());
    assert!(gradient.iter().any(|slope| slope.abs() > 1e-4), "{what}: no gradient");
    for (number, found) in gradient.into_iter().enumerate() {
        let at = |step: f64| {
            let mut rows = rows(&student);
            rows[number / CLASSES][number % CLASSES] += step;
            formula(&rows).iter().sum::<f64>()
        };
        let slope = (at(1e-5) - at(-1e-5)) / 2e-5;
        assert!(near(found, slope, 1e-7), "{what}: slope {found} instead of {slope}");
    }
    // A run computes in float32.
    let student = student.to_kind(Kind::Float);
    let single = numbers(&found(&student));
    let exact = formula(&rows(&student));
    let rounding = Rounding::of(Kind::Float, student.numel() as i64);
    let moved: Vec<Vec<f64>> = (1..=DIRECTIONS).map(|salt| formula(&rows(&rounding.moved(&student, salt)))).collect();
    for (number, (single, exact)) in single.into_iter().zip(exact).enumerate() {
        let reach = moved.iter().map(|moved| (moved[number] - exact).abs()).fold(0.0, f64::max);
        let (off, allowed) = ((single - exact).abs(), reach + rounding.relative * exact.abs());
        assert!(off <= allowed, "{what} in float32: {single} instead of {exact}, {off:e} off, not {allowed:e}");
    }
}

#[test]
fn transformed_teachers_are_matched_as_their_formulas_say() {
    let [_, teacher] = logits();
    let target = labels().unsqueeze(1).expand([-1, REGIONS as i64], false);
    for temperature in [1.0, 5.0, 10.0] {
        for (loss, is_weighted) in [(Loss::Ttm { temperature }, false), (Loss::Wttm { temperature }, true)] {
            let formula = |student: &[Vec<f64>]| {
                let pairs = student.iter().zip(rows(&teacher));
                let of_pair = |(student, teacher): (&Vec<f64>, Vec<f64>)| {
                    let (sum, divergence) = transformed(student, &teacher, 1.0 / temperature);
                    if is_weighted { sum * divergence } else { divergence }
                };
                pairs.map(of_pair).collect::<Vec<_>>()
            };
            let found = |student: &Tensor| loss.of(student, &teacher.to_kind(student.kind()), &target);
            assert_follows(&format!("{loss:?}"), found, formula);
        }
    }
}

#[test]
fn correlations_are_those_of_the_formula_in_each_region() {
    let [_, teacher] = logits();
    let target = labels().unsqueeze(1).expand([-1, REGIONS as i64], false);
    for (temperature, beta, gamma) in [(4.0, 1.0, 2.0), (1.0, 1.0, 0.0), (1.0, 0.0, 1.0)] {
        let loss = Loss::Dist { temperature, beta, gamma };
        let found = |student: &Tensor| loss.of(student, &teacher.to_kind(student.kind()), &target);
        let formula = |student: &[Vec<f64>]| of_correlations(student, &rows(&teacher), temperature, beta, gamma);
        assert_follows(&format!("{loss:?}"), found, formula);
    }
}

#[test]
fn the_clustering_is_that_of_the_formula() {
    let [_, teacher] = logits();
    let found = |student: &Tensor| clustering(student, &teacher.to_kind(student.kind()), &[1, 2]);
    let formula = |student: &[Vec<f64>]| vec![of_similarities(student, &rows(&teacher))];
    assert_follows("clustering", found, formula);
    assert_eq!(value(&clustering(&teacher.narrow(1, 0, 1), &teacher.narrow(1, 0, 1), &[1])), 0.0);
}

/// The deviation is that of a sample: K − 1 in the denominator.
fn standardised_row(row: &[f64]) -> Vec<f64> {
    let mean = row.iter().sum::<f64>() / row.len() as f64;
    let deviation = (row.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (row.len() as f64 - 1.0)).sqrt();
    row.iter().map(|value| (value - mean) / (deviation + 1e-7)).collect()
}

#[test]
fn logits_are_standardised_over_the_classes_before_every_loss() {
    let [_, teacher] = logits();
    let weights = GroupWeights { consistent: 1.0, complementary: 2.0 };
    let (scales, scale_weights) = ([1, 2], [1.0, 0.5]);
    let label_of: Vec<usize> = numbers(&labels()).into_iter().map(|label| label as usize).collect();
    let losses = [
        Loss::Kd { temperature: 2.0 },
        Loss::Dkd { temperature: 2.0, alpha: 1.0, beta: 8.0 },
        Loss::Nkd { temperature: 2.0, gamma: 8.0, exclude_target: true },
    ];
    for loss in losses {
        let grouping = Grouping::Label;
        let mut distillation = Distillation::from_parts(loss, &scales, &scale_weights, grouping, weights, Device::Cpu);
        distillation.is_standardised = true;
        let settings = Settings { loss, scales: &scales, scale_weights: &scale_weights, grouping, weights };
        let regions = |local: &Tensor| Regions { global: local.select(1, 0), local: local.shallow_clone() };
        let found = |student: &Tensor| {
            distillation.apply(&regions(student), &regions(&teacher.to_kind(student.kind())), &labels()).loss
        };
        let formula = |student: &[Vec<f64>]| {
            let of = |rows: &[Vec<f64>]| {
                let local: Vec<_> = rows.iter().map(|row| standardised_row(row)).collect();
                reference::Regions { global: local.iter().step_by(REGIONS).cloned().collect(), local }
            };
            vec![settings.apply(&of(student), &of(&rows(&teacher)), &label_of).loss.value]
        };
        assert_follows(&format!("{loss:?}"), found, formula);
    }
}

/// Computed by the authors' code in PyTorch, in float64, from the same logits.
#[test]
fn the_authors_code_computes_the_same() {
    let [student, teacher] = logits().map(|logits| logits.select(1, 0));
    let assert_published = |what: &str, found: &Tensor, published: f64| {
        let found = value(&found.mean(Kind::Double));
        assert!((found - published).abs() < 1e-8 * published, "{what}: {found} instead of {published}");
    };
    assert_published("TTM", &ttm(&student, &teacher, 10.0), 1.111_476_161_834_901_6);
    assert_published("WTTM", &wttm(&student, &teacher, 5.0), 5.338_341_683_599_981);
    assert_published("DIST", &dist(&student, &teacher, 4.0, 1.0, 2.0), 31.351_788_085_713_665);
    assert_published("DIST", &dist(&student, &teacher, 1.0, 1.0, 1.0), 1.605_788_394_878_782_8);
    let kd = Loss::Kd { temperature: 2.0 }.of(&standardised(&student), &standardised(&teacher), &labels());
    assert_published("KD of standardised logits", &kd, 0.698_186_564_424_883_9);
    let [student, teacher] = logits();
    assert_published("scales 1, 2", &clustering(&student, &teacher, &[1, 2]), 0.036_151_947_543_277_184);
    for (scales, regions, published) in
        [(&[1, 2, 4][..], 21, 0.186_928_277_547_031_65), (&[1, 4], 17, 0.255_251_955_885_926_86)]
    {
        let of = |salt| hashed(&[3, regions, CLASSES as i64], salt);
        assert_published("clustering", &clustering(&(of(1) * 3.0), &(of(2) * 4.0), scales), published);
    }
}

#[test]
fn a_student_equal_to_its_teacher_has_nothing_to_learn_and_extremes_stay_finite() {
    let [logits, _] = logits();
    let most = |loss: &Tensor| value(&loss.abs().max());
    assert!(most(&ttm(&logits, &logits, 1.0)) < 1e-12 && most(&wttm(&logits, &logits, 1.0)) < 1e-12);
    assert!(most(&dist(&logits, &logits, 4.0, 1.0, 1.0)) < 1e-3, "more than the 1e-8 in the denominator");
    assert!(most(&clustering(&logits, &logits, &[1, 2])) < 1e-12);
    let student = (&logits * 4e3).to_kind(Kind::Float).set_requires_grad(true);
    let teacher = (&logits * -4e3).to_kind(Kind::Float);
    // One image varies over no images, and equal logits over no classes.
    let flat = Tensor::zeros([1, REGIONS as i64, CLASSES as i64], (Kind::Float, Device::Cpu)).set_requires_grad(true);
    let of = |student: &Tensor, teacher: &Tensor| {
        let single = |loss: Tensor| loss.sum(Kind::Float);
        let kd = Loss::Kd { temperature: 2.0 }.of(&standardised(student), &standardised(teacher), &labels());
        single(ttm(student, teacher, 10.0))
            + single(wttm(student, teacher, 5.0))
            + single(dist(student, teacher, 4.0, 1.0, 1.0))
            + single(clustering(student, teacher, &[1, 2]))
            + single(kd)
    };
    for (leaf, loss) in [(&student, of(&student, &teacher)), (&flat, of(&flat, &teacher.narrow(0, 0, 1)))] {
        assert!(value(&loss).is_finite(), "{}", value(&loss));
        loss.backward();
        assert_eq!(value(&leaf.grad().isfinite().all()), 1.0);
    }
}

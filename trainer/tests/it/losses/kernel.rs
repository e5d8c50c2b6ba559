//! The kernel of the distillation loss on the CPU, from the source that GPUs run: values and gradients against float64.

use distillery_core::spec::Grouping;
use distillery_trainer::loss::region::Loss;
use distillery_trainer::loss::sdd::{Distillation, Distilled, GroupWeights, Regions, region_count};
use distillery_trainer::loss::target::{MixedLabels, Target};
use tch::{Device, Kind, Tensor};

use super::reference::Settings;
use super::{as_computed, cases, numbers, rows, value};
use crate::support::bounded::Bounded;
use crate::support::rounding::Rounding;
use crate::support::torch::{hashed, one_thread};

const WEIGHTS: GroupWeights = GroupWeights { consistent: 1.0, complementary: 2.0 };
/// How often logits are moved to see how far results follow: in some directions a number stays where it is.
const DIRECTIONS: usize = 8;
/// All that have a kernel, with T = 3 and 4: the first is rounded when logits are divided by it.
const LOSSES: [Loss; 5] = [
    Loss::Kd { temperature: 4.0 },
    Loss::Kd { temperature: 3.0 },
    Loss::Dkd { temperature: 3.0, alpha: 0.5, beta: 8.0 },
    Loss::Nkd { temperature: 3.0, gamma: 8.0, exclude_target: false },
    Loss::Nkd { temperature: 4.0, gamma: 1.5, exclude_target: true },
];

fn distillation(settings: &Settings<'_>) -> Distillation {
    let Settings { loss, scales, scale_weights, grouping, weights } = *settings;
    Distillation::from_parts(loss, scales, scale_weights, grouping, weights, Device::Cpu)
}

fn with_kernel(settings: &Settings<'_>) -> Distillation {
    let mut distillation = distillation(settings);
    distillation.use_kernel(Device::Cpu).unwrap();
    distillation
}

/// Compares the kernel with float64 for logits [B, 1 + finer regions, K] of student and teacher, of one kind.
fn assert_kernel_follows(student: &Tensor, teacher: &Tensor, labels: &[i64], settings: &Settings<'_>, what: &str) {
    let scales = settings.scales;
    let leaf = student.detach().copy().set_requires_grad(true);
    let (student, teacher) = (Regions::split(&leaf, scales), Regions::split(teacher, scales));
    let found = with_kernel(settings).apply(&student, &teacher, &Tensor::from_slice(labels));
    found.loss.backward();

    let classes: Vec<usize> = labels.iter().map(|&label| label as usize).collect();
    let exact = settings.apply(&as_computed(&student), &as_computed(&teacher), &classes);
    let of = |part: &'static str| format!("{what}, {:?}: {part}", settings.loss);
    exact.loss.assert(value(&found.loss), &of("loss"));
    exact.consistent.assert(value(&found.consistent), &of("consistent"));
    exact.complementary.assert(value(&found.complementary), &of("complementary"));
    assert_eq!(found.per_scale.size(), [scales.len() as i64]);
    for (exact, found) in exact.per_scale.iter().zip(numbers(&found.per_scale)) {
        exact.assert(found, &of("scale"));
    }
    let all = student.local.size()[..2].iter().product::<i64>() as f64;
    let fraction = exact.complementary_regions as f64 / all;
    assert!((value(&found.complementary_fraction) - fraction).abs() < 1e-6, "{}", of("fraction"));

    // The whole image has a gradient only if it is one of the regions.
    let gradient = leaf.grad();
    let own = if scales.contains(&1) { gradient } else { gradient.slice(1, 1, None, 1) };
    // That of bfloat16 logits is rounded once more, to 8 bits.
    let rounding = if leaf.kind() == Kind::BFloat16 { 1.0 / 256.0 } else { 0.0 };
    let found = rows(&own);
    assert_eq!(found.len(), exact.gradient.len());
    for (exact, found) in exact.gradient.iter().flatten().zip(found.iter().flatten()) {
        Bounded { error: exact.error + rounding * (exact.value.abs() + exact.error), ..*exact }
            .assert(*found, &format_args!("{what}, {:?}: gradient", settings.loss));
    }
}

#[test]
fn the_kernel_matches_the_formulas_in_float64_on_the_published_cases() {
    for case in cases() {
        let labels: Vec<i64> = Vec::try_from(&case.target).unwrap();
        for (key, settings) in case.published_settings() {
            let joined = |regions: Regions| regions.joined(settings.scales);
            let student = joined(case.student.regions(settings.scales));
            let teacher = joined(case.teacher.regions(settings.scales));
            assert_kernel_follows(&student, &teacher, &labels, &settings, &format!("{} {key}", case.name));
        }
    }
}

/// Logits [B, 1 + finer regions, K], times a number.
fn noise(images: i64, scales: &[u32], classes: i64, salt: usize, size: f64) -> Tensor {
    (hashed(&[images, region_count(scales), classes], salt) * size).to_kind(Kind::Float)
}

#[test]
fn the_kernel_matches_float64_for_odd_sizes_extreme_logits_and_both_kinds() {
    one_thread();
    let scale_weights = [1.0, 0.5, 2.0];
    for (images, scales) in [(3, &[1, 2, 4][..]), (1, &[1]), (5, &[2, 3])] {
        for classes in [2, 3, 33, 100, 1000] {
            let labels: Vec<i64> = (0..images).map(|image| image * 7 % classes).collect();
            let student = noise(images, scales, classes, 1, 50.0);
            let teachers = [
                ("another teacher", noise(images, scales, classes, 2, 50.0)),
                ("nearly the same", &student + noise(images, scales, classes, 3, 0.2)),
                ("the same", student.copy()),
            ];
            for (what, teacher) in teachers {
                for loss in LOSSES {
                    let scale_weights = &scale_weights[..scales.len()];
                    let grouping = if classes % 2 == 0 { Grouping::Label } else { Grouping::Class };
                    let settings = Settings { loss, scales, scale_weights, grouping, weights: WEIGHTS };
                    for kind in [Kind::Float, Kind::BFloat16] {
                        let name = format!("{images} images, {classes} classes, {kind:?}, {what}");
                        let [student, teacher] = [&student, &teacher].map(|logits| logits.to_kind(kind));
                        assert_kernel_follows(&student, &teacher, &labels, &settings, &name);
                    }
                }
            }
        }
    }
}

#[test]
fn of_equal_largest_logits_the_first_decides_the_group() {
    one_thread();
    let (images, scales, classes) = (16, &[1, 2, 4][..], 5);
    let labels: Vec<i64> = (0..images).map(|image| image % classes).collect();
    let student = noise(images, scales, classes, 1, 3.0);
    // −1, 0 or 1, so that many regions have several largest ones.
    let teacher = noise(images, scales, classes, 2, 1.2).round();
    let is_largest = teacher.eq_tensor(&teacher.amax([-1_i64].as_slice(), true));
    let has_several = is_largest.sum_dim_intlist(-1, false, Kind::Int64).gt(1).to_kind(Kind::Float);
    assert!(value(&has_several.mean(None::<Kind>)) > 0.3);
    for grouping in [Grouping::Label, Grouping::Class] {
        let loss = Loss::Kd { temperature: 4.0 };
        let settings = Settings { loss, scales, scale_weights: &[1.0; 3], grouping, weights: WEIGHTS };
        assert_kernel_follows(&student, &teacher, &labels, &settings, "equal logits");
    }
}

/// The numbers of a loss, and the gradient of its sum with the clustering.
fn outcome(found: &Distilled, leaf: &Tensor) -> Vec<f64> {
    let clustering = found.clustering.as_ref().map_or_else(|| Tensor::from(0.0_f32), Tensor::shallow_clone);
    (&found.loss * 3.0 + &clustering).backward();
    let parts = [&found.loss, &found.consistent, &found.complementary, &found.complementary_fraction];
    let mut all: Vec<f64> = parts.iter().map(|part| value(part)).collect();
    for numbers_of in [&found.per_scale, &found.complementary_per_scale, &leaf.grad()] {
        all.extend(numbers(numbers_of));
    }
    all
}

#[test]
fn mixed_images_and_clustering_are_computed_as_without_the_kernel() {
    one_thread();
    let (images, scales, classes) = (6, &[1, 2][..], 10);
    let (student, teacher) = (noise(images, scales, classes, 1, 3.0), noise(images, scales, classes, 2, 4.0));
    let labels = Tensor::arange(images, (Kind::Int64, Device::Cpu));
    let mixed = || MixedLabels { labels: labels.flip([0]), own_share: Tensor::from(0.7_f32) };
    for loss in LOSSES {
        let settings =
            Settings { loss, scales, scale_weights: &[1.0, 0.5], grouping: Grouping::Label, weights: WEIGHTS };
        let of = |mut distillation: Distillation, [student, teacher]: &[Tensor; 2]| {
            distillation.clustering = Some(2.0);
            let leaf = student.copy().set_requires_grad(true);
            let target = Target { labels: labels.shallow_clone(), mixed: Some(mixed()) };
            let regions = [&leaf, teacher].map(|logits| Regions::split(logits, scales));
            outcome(&distillation.apply_mixed(&regions[0], &regions[1], &target), &leaf)
        };
        let logits = [&student, &teacher].map(Tensor::shallow_clone);
        let in_float64 = |logits: &[Tensor; 2]| of(distillation(&settings), logits);
        let found = of(with_kernel(&settings), &logits);
        let wanted = in_float64(&logits.each_ref().map(|tensor| tensor.to_kind(Kind::Double)));
        assert_eq!(found.len(), wanted.len());
        let reach = reach(&logits, &wanted, in_float64);
        for (index, (found, wanted)) in found.iter().zip(&wanted).enumerate() {
            let (off, allowed) = ((found - wanted).abs(), reach[index]);
            assert!(off <= allowed, "{loss:?}, {index}: {found} instead of {wanted}, {off:e} off, not {allowed:e}");
        }
    }
}

/// How far each of the numbers that float64 gives for student's and teacher's logits moves at most when roundings move
/// the logits, and is rounded itself.
fn reach(logits: &[Tensor; 2], wanted: &[f64], in_float64: impl Fn(&[Tensor; 2]) -> Vec<f64>) -> Vec<f64> {
    let rounding = Rounding::of(Kind::Float, logits[0].numel() as i64);
    let mut reach: Vec<f64> = wanted.iter().map(|wanted| rounding.relative * wanted.abs()).collect();
    let moved = |salt| in_float64(&[rounding.moved(&logits[0], salt), rounding.moved(&logits[1], salt + 1)]);
    let moved: Vec<Vec<f64>> = (0..DIRECTIONS).map(|at| moved(2 * at + 1)).collect();
    for (index, reach) in reach.iter_mut().enumerate() {
        *reach += moved.iter().map(|moved| (moved[index] - wanted[index]).abs()).fold(0.0, f64::max);
    }
    reach
}

#[test]
fn a_label_that_is_no_class_makes_a_loss_that_depends_on_it_not_a_number() {
    one_thread();
    let (student, teacher) = (noise(2, &[1], 4, 1, 3.0), noise(2, &[1], 4, 2, 3.0));
    for (loss, is_finite) in LOSSES.into_iter().zip([true, true, false, false, false]) {
        let settings =
            Settings { loss, scales: &[1], scale_weights: &[1.0], grouping: Grouping::Label, weights: WEIGHTS };
        for label in [-1_i64, 4] {
            let regions = [&student, &teacher].map(|logits| Regions::split(logits, &[1]));
            let found = with_kernel(&settings).apply(&regions[0], &regions[1], &Tensor::from_slice(&[1, label]));
            assert_eq!(value(&found.loss).is_finite(), is_finite, "{loss:?} with label {label}");
        }
    }
}

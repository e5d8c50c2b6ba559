//! Losses and gradients match the formulas of the papers and the values of the published implementation.

mod kernel;
mod later;
mod reference;

use distillery_core::spec::Grouping;
use distillery_trainer::loss::region::{Loss, dkd, kd, nkd};
use distillery_trainer::loss::sdd::{Distillation, GroupWeights, Regions, classify_regions, warmup};
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use tch::{Device, Kind, Tensor};

use self::reference::{Classifier, Maps, Settings};
use crate::support::bounded::Bounded;
use crate::support::process::{LESSER_PROCESSORS, run_again};
use crate::support::torch::{hashed, one_thread};

/// A case of the published implementation, with what it computed in float32. `nkd` was computed with T = 1 and gamma =
/// 1.5, whatever the defaults are.
struct Case {
    name: String,
    published: Value,
    scales: Vec<u32>,
    losses: [Loss; 3],
    teacher: Side,
    student: Side,
    target: Tensor,
}

/// Feature maps [B, C, H, W] of a network and its classifier.
struct Side {
    features: Tensor,
    weight: Tensor,
    bias: Tensor,
}

fn cases() -> Vec<Case> {
    one_thread();
    let tensors = SafeTensors::deserialize(include_bytes!("../fixtures/sdd_losses.safetensors")).unwrap();
    let tensor = |name: &str| {
        let view = tensors.tensor(name).unwrap();
        let shape: Vec<i64> = view.shape().iter().map(|&size| size as i64).collect();
        let kind = if view.dtype() == Dtype::I64 { Kind::Int64 } else { Kind::Float };
        Tensor::from_data_size(view.data(), &shape, kind)
    };
    let cases: serde_json::Map<String, Value> =
        serde_json::from_str(include_str!("../fixtures/sdd_losses.json")).unwrap();
    assert_eq!(cases.len(), 12);
    let case = |(name, case): (String, Value)| {
        let side = |side: &str| {
            let tensor = |part: &str| tensor(&format!("{name}.{side}_{part}"));
            Side { features: tensor("features"), weight: tensor("fc_weight"), bias: tensor("fc_bias") }
        };
        let number = |method: &str, parameter: &str| case[method][parameter].as_f64().unwrap();
        Case {
            teacher: side("teacher"),
            student: side("student"),
            target: tensor(&format!("{name}.target")),
            scales: serde_json::from_value(case["scales"].clone()).unwrap(),
            losses: [
                Loss::Kd { temperature: number("kd", "T") },
                Loss::Dkd {
                    temperature: number("dkd", "T"),
                    alpha: number("dkd", "alpha"),
                    beta: number("dkd", "beta"),
                },
                Loss::Nkd { temperature: number("nkd", "T"), gamma: number("nkd", "gamma"), exclude_target: false },
            ],
            published: case["expected"].clone(),
            name,
        }
    };
    cases.into_iter().map(case).collect()
}

fn numbers(tensor: &Tensor) -> Vec<f64> {
    Vec::try_from(tensor.to_kind(Kind::Double).contiguous().view(-1)).unwrap()
}

/// The vectors along the last dimension.
fn rows(tensor: &Tensor) -> Vec<Vec<f64>> {
    let size = *tensor.size().last().unwrap();
    Vec::try_from(tensor.to_kind(Kind::Double).contiguous().view([-1, size])).unwrap()
}

impl Side {
    fn regions(&self, scales: &[u32]) -> Regions {
        classify_regions(|xs| xs.linear(&self.weight, Some(&self.bias)), &self.features, scales)
    }

    fn with(&self, features: Tensor) -> Self {
        Self { features, weight: self.weight.shallow_clone(), bias: self.bias.shallow_clone() }
    }

    fn maps(&self) -> Maps {
        let shape: Vec<usize> = self.features.size().into_iter().map(|size| size as usize).collect();
        Maps { values: numbers(&self.features), shape: shape.try_into().unwrap() }
    }

    fn classifier(&self) -> Classifier {
        Classifier { weight: rows(&self.weight), bias: numbers(&self.bias) }
    }

    /// Logits computed in float64.
    fn exact_regions(&self, scales: &[u32]) -> reference::Regions {
        let logits = |scales: &[u32]| {
            let logits = self.maps().classified(&self.classifier(), scales);
            logits.into_iter().map(|row| row.into_iter().map(|logit| logit.value).collect()).collect()
        };
        reference::Regions { global: logits(&[1]), local: logits(scales) }
    }
}

/// Float32 logits, converted to float64 exactly.
fn as_computed(regions: &Regions) -> reference::Regions {
    reference::Regions { global: rows(&regions.global), local: rows(&regions.local) }
}

impl Case {
    fn labels(&self) -> Vec<usize> {
        numbers(&self.target).into_iter().map(|label| label as usize).collect()
    }

    fn published(&self, key: &str) -> f64 {
        self.published[key].as_f64().unwrap_or_else(|| panic!("{} has no {key}", self.name))
    }

    /// Fails if `found` differs from the published value by more than `tolerance`, relative to it.
    fn assert_published(&self, key: &str, found: f64, tolerance: f64) {
        let published = self.published(key);
        let off = (found - published).abs() / published;
        assert!(off <= tolerance, "{} {key}: {found}, published {published}: {off:e} off", self.name);
    }

    /// The keys of the published values, with the settings that they were computed with.
    fn published_settings(&self) -> Vec<(&'static str, Settings<'_>)> {
        let [kd, dkd, nkd] = self.losses;
        let settings = |loss, grouping, weights| Settings {
            loss,
            scales: &self.scales,
            scale_weights: &[1.0; 3][..self.scales.len()],
            grouping,
            weights,
        };
        let (label, published) = (Grouping::Label, GroupWeights { consistent: 1.0, complementary: 2.0 });
        let of_whole_images =
            |loss| Settings { scales: &[1], scale_weights: &[1.0], ..settings(loss, label, published) };
        vec![
            ("sd_kd", settings(kd, label, published)),
            ("sd_dkd", settings(dkd, label, published)),
            ("sd_nkd_as_published", settings(nkd, label, published)),
            ("sd_nkd_target_excluded", settings(excluding_target(nkd), label, published)),
            ("sd_kd_grouped_by_class", settings(kd, Grouping::Class, published)),
            (
                "sd_kd_consistent_3_complementary_5",
                settings(kd, label, GroupWeights { consistent: 3.0, complementary: 5.0 }),
            ),
            ("kd", of_whole_images(kd)),
            ("dkd", of_whole_images(dkd)),
            ("nkd_as_published", of_whole_images(nkd)),
            ("nkd_target_excluded", of_whole_images(excluding_target(nkd))),
        ]
    }
}

fn value(tensor: &Tensor) -> f64 {
    tensor.double_value(&[])
}

fn excluding_target(loss: Loss) -> Loss {
    match loss {
        Loss::Nkd { temperature, gamma, .. } => Loss::Nkd { temperature, gamma, exclude_target: true },
        other => other,
    }
}

fn norm(gradient: &[Bounded]) -> f64 {
    gradient.iter().map(|slope| slope.value.powi(2)).sum::<f64>().sqrt()
}

/// Compares two sets of constants, so that the result does not depend on the processor: the published values, computed
/// in float32, and the formulas in float64. They differ by up to 1.5e-5, since terms of about 16 cancel to 0.45.
#[test]
fn the_formulas_in_float64_give_the_published_values() {
    for case in cases() {
        let (maps, classifier) = (case.student.maps(), case.student.classifier());
        for (key, settings) in case.published_settings() {
            let [student, teacher] = [&case.student, &case.teacher].map(|side| side.exact_regions(settings.scales));
            let distilled = settings.apply(&student, &teacher, &case.labels());
            case.assert_published(key, distilled.loss.value, 2e-5);
            if let Some(norm_of_gradient) = case.published.get(format!("grad_norm_{key}")) {
                let gradient = maps.gradient(&classifier, settings.scales, &distilled.gradient);
                let (found, published) = (norm(&gradient), norm_of_gradient.as_f64().unwrap());
                let off = (found - published).abs() / published;
                assert!(off < 1e-6, "{} {key}: norm {found}, published {published}: {off:e} off", case.name);
            }
            if settings.grouping == Grouping::Label && settings.scales.len() > 1 {
                assert_eq!(distilled.complementary_regions as f64, case.published("complementary"), "{}", case.name);
            }
        }
    }
}

/// The other tests start from these logits.
#[test]
fn region_logits_match_float64_and_no_region_is_on_the_border_of_its_group() {
    for case in cases() {
        for (side, name) in [(&case.teacher, "teacher"), (&case.student, "student")] {
            let Regions { global, local } = side.regions(&case.scales);
            let exact = |scales: &[u32]| side.maps().classified(&side.classifier(), scales);
            for (found, exact) in [(rows(&global), exact(&[1])), (rows(&local), exact(&case.scales))] {
                assert_eq!(found.len(), exact.len());
                for (found, exact) in found.iter().zip(&exact) {
                    for (found, exact) in found.iter().zip(exact) {
                        exact.assert(*found, &format_args!("{} {name}", case.name));
                    }
                    let best = exact.iter().max_by(|one, other| one.value.total_cmp(&other.value)).unwrap();
                    let is_apart = |other: &Bounded| best.value - other.value > best.error + other.error;
                    let rivals = exact.iter().filter(|logit| logit.value < best.value);
                    assert!(name == "student" || rivals.clone().all(is_apart), "{}: a region on the border", case.name);
                }
            }
        }
    }
}

#[test]
fn losses_and_gradients_match_the_formulas_in_float64() {
    for case in cases() {
        for (key, settings) in case.published_settings() {
            assert_follows(&case, Kind::Float, &settings, key);
        }
    }
}

/// Compares the loss of a case, its parts and its gradient with float64. Both start from the same float32 logits, so
/// that only the loss is compared. Feature maps are of `kind`.
fn assert_follows(case: &Case, kind: Kind, settings: &Settings<'_>, name: &str) {
    let of = |what: &'static str| format!("{} {name}: {what}", case.name);
    let features = case.student.features.to_kind(kind).detach().set_requires_grad(true);
    let classified = |side: &Side, features: &Tensor| {
        let classify = |xs: &Tensor| xs.to_kind(Kind::Float).linear(&side.weight, Some(&side.bias));
        classify_regions(classify, features, settings.scales)
    };
    let teacher = classified(&case.teacher, &case.teacher.features.to_kind(kind));
    let student = classified(&case.student, &features);
    let Settings { loss, scales, scale_weights, grouping, weights } = *settings;
    let distillation = Distillation::from_parts(loss, scales, scale_weights, grouping, weights, Device::Cpu);
    let found = distillation.apply(&student, &teacher, &case.target);
    assert_eq!(found.loss.kind(), Kind::Float);
    found.loss.backward();

    let exact = settings.apply(&as_computed(&student), &as_computed(&teacher), &case.labels());
    // A wider bound could hide a wrong formula.
    assert!(exact.loss.error < 2e-3 * exact.loss.value, "{}: {:?}", of("bound"), exact.loss);
    exact.loss.assert(value(&found.loss), &of("loss"));
    exact.consistent.assert(value(&found.consistent), &of("consistent"));
    exact.complementary.assert(value(&found.complementary), &of("complementary"));
    for (exact, found) in exact.per_scale.iter().zip(numbers(&found.per_scale)) {
        exact.assert(found, &of("scale"));
    }
    // A quotient of two integers, rounded once or twice.
    let fraction = exact.complementary_regions as f64 / student.local.size()[..2].iter().product::<i64>() as f64;
    assert!((value(&found.complementary_fraction) - fraction).abs() < 1e-6, "{}", of("complementary fraction"));

    let side = case.student.with(features.detach().to_kind(Kind::Float));
    let gradient = side.maps().gradient(&side.classifier(), scales, &exact.gradient);
    let largest = gradient.iter().map(|slope| slope.error).fold(0.0, f64::max) / norm(&gradient);
    assert!(largest < 1e-4, "{}: {largest}", of("bound of the gradient"));
    // The gradient of a bfloat16 map is rounded once more, to 8 bits.
    let rounding = if kind == Kind::BFloat16 { 1.0 / 256.0 } else { 0.0 };
    for (exact, found) in gradient.into_iter().zip(numbers(&features.grad())) {
        Bounded { error: exact.error + rounding * (exact.value.abs() + exact.error), ..exact }
            .assert(found, &format_args!("{} {name}: gradient", case.name));
    }
}

#[test]
fn losses_match_float64_on_processors_with_fewer_instructions() {
    let tests = [
        "losses::region_logits_match_float64_and_no_region_is_on_the_border_of_its_group",
        "losses::losses_and_gradients_match_the_formulas_in_float64",
        "losses::bfloat16_feature_maps_give_the_published_values_to_their_precision",
        "losses::extreme_logits_match_float64",
    ];
    for variables in LESSER_PROCESSORS {
        run_again(&tests, variables);
    }
}

#[test]
fn bfloat16_feature_maps_give_the_published_values_to_their_precision() {
    let mut moved = 0;
    for case in cases() {
        let with_gradient = |key: &&str| case.published.get(format!("grad_norm_{key}")).is_some();
        for (key, settings) in case.published_settings().iter().filter(|(key, _)| with_gradient(key)) {
            assert_follows(&case, Kind::BFloat16, settings, key);
            // The effect of rounding the maps to bfloat16, computed in float64 to be the same on every processor.
            let rounded = |side: &Side| side.with(side.features.to_kind(Kind::BFloat16).to_kind(Kind::Float));
            let [student, teacher] = [&case.student, &case.teacher].map(rounded);
            let regions = [&student, &teacher].map(|side| side.exact_regions(settings.scales));
            let exact = settings.apply(&regions[0], &regions[1], &case.labels());
            if exact.complementary_regions as f64 != case.published("complementary") {
                // A region whose two largest logits are close may change its group, which doubles its weight.
                moved += 1;
                continue;
            }
            case.assert_published(key, exact.loss.value, 2e-3);
            let gradient = student.maps().gradient(&student.classifier(), settings.scales, &exact.gradient);
            case.assert_published(&format!("grad_norm_{key}"), norm(&gradient), 2e-3);
        }
    }
    // Of 36.
    assert!(moved <= 3, "{moved}");
}

/// Published values are for alpha = 1, and for T = 1 in NKD.
#[test]
fn every_parameter_and_scale_weight_is_applied() {
    let nkd = Loss::Nkd { temperature: 2.0, gamma: 3.0, exclude_target: false };
    let losses = [Loss::Kd { temperature: 2.0 }, Loss::Dkd { temperature: 2.0, alpha: 0.5, beta: 3.0 }, nkd];
    let weights = GroupWeights { consistent: 1.0, complementary: 1.0 };
    for case in cases() {
        let scale_weights: Vec<f64> = (0..case.scales.len()).map(|index| 0.5 + index as f64).collect();
        for loss in losses.into_iter().chain([excluding_target(nkd)]) {
            let (scales, scale_weights) = (case.scales.as_slice(), scale_weights.as_slice());
            let settings = Settings { loss, scales, scale_weights, grouping: Grouping::Label, weights };
            assert_follows(&case, Kind::Float, &settings, &format!("{loss:?}"));
        }
    }
}

#[test]
fn a_confident_teacher_and_a_wrong_student_give_a_finite_loss_and_gradient() {
    let student = Tensor::from_slice(&[-4e3_f32, 4e3, 0.0, 1.0]).view([1, 1, 4]).set_requires_grad(true);
    let teacher = Tensor::from_slice(&[4e3_f32, -4e3, 0.0, 1.0]).view([1, 1, 4]);
    let target = Tensor::from_slice(&[0_i64]).view([1, 1]);
    let all = kd(&student, &teacher, 4.0)
        + dkd(&student, &teacher, &target, 4.0, 1.0, 8.0)
        + nkd(&student, &teacher, &target, 1.0, 1.5, false)
        + nkd(&student, &teacher, &target, 1.0, 1.5, true);
    assert_eq!(all.size(), [1, 1]);
    all.sum(Kind::Float).backward();
    assert!(value(&all) > 1e4 && value(&all).is_finite(), "{}", value(&all));
    assert_eq!(value(&student.grad().isfinite().all()), 1.0);
}

#[test]
fn a_student_equal_to_its_teacher_has_no_loss() {
    let logits = Tensor::from_slice(&[0.3_f32, -1.0, 2.0, 0.1, 0.2, 5.0]).view([2, 1, 3]);
    let target = Tensor::from_slice(&[2_i64, 0]).view([2, 1]);
    assert!(value(&kd(&logits, &logits, 4.0).abs().max()) < 1e-6);
    assert!(value(&dkd(&logits, &logits, &target, 4.0, 1.0, 8.0).abs().max()) < 1e-6);
}

#[test]
fn scale_one_is_optional_and_a_scale_may_be_finer_than_the_map() {
    let features = Tensor::arange(2 * 3 * 2 * 2, (Kind::Float, Device::Cpu)).view([2, 3, 2, 2]);
    let Regions { global, local } = classify_regions(Tensor::shallow_clone, &features, &[2, 4]);
    assert_eq!(global, features.mean_dim([2_i64, 3].as_slice(), false, None::<Kind>));
    assert_eq!(local.size(), [2, 20, 3]);
    // Row-major: the second region of scale 2 is the top right pixel.
    assert_eq!(local.select(1, 1), features.select(2, 0).select(2, 1));
    // Each pixel fills four regions of scale 4.
    assert_eq!(local.select(1, 4), local.select(1, 9));
}

#[test]
fn the_distillation_weight_grows_over_the_warm_up() {
    assert_eq!([1, 10, 20, 21].map(|epoch| warmup(epoch, 20)), [0.05, 0.5, 1.0, 1.0]);
    assert_eq!(warmup(1, 0), 1.0);
}

#[test]
fn extreme_logits_match_float64() {
    one_thread();
    let count = 64_i64;
    let nkd = Loss::Nkd { temperature: 4.0, gamma: 8.0, exclude_target: false };
    let losses = [Loss::Kd { temperature: 4.0 }, Loss::Dkd { temperature: 4.0, alpha: 1.0, beta: 8.0 }, nkd];
    for classes in [2_i64, 3, 10, 100, 1000] {
        let noise = |salt| hashed(&[count, classes], salt).to_kind(Kind::Float);
        let (student, teacher) = (noise(1) * 50.0, noise(2) * 50.0);
        let near = &student + noise(3) * 0.2;
        let target = Tensor::arange(count, (Kind::Int64, Device::Cpu)).remainder(classes);
        let labels: Vec<i64> = Vec::try_from(&target).unwrap();
        for loss in losses.into_iter().chain([excluding_target(nkd)]) {
            for (teacher, what) in [(&teacher, "another"), (&near, "nearly the same"), (&student, "the same")] {
                let found: Vec<f64> = Vec::try_from(loss.of(&student, teacher, &target).to_kind(Kind::Double)).unwrap();
                for (row, (student, teacher)) in rows(&student).iter().zip(&rows(teacher)).enumerate() {
                    let (exact, _) = reference::of_region(loss, student, teacher, labels[row] as usize);
                    exact.assert(found[row], &format_args!("{classes} classes, {what}, {loss:?}"));
                }
            }
        }
    }
}

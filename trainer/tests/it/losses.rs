//! The losses and their gradients are those of the published implementation.

use distillery::spec::Grouping;
use distillery_trainer::loss::region::{Loss, dkd, kd, nkd};
use distillery_trainer::loss::sdd::{Distillation, Distilled, GroupWeights, Regions, classify_regions, warmup};
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use tch::{Device, Kind, Tensor};

use crate::support::torch::{hashed, one_thread};

/// One case of the fixture. `nkd` was computed with T = 1 and gamma = 1.5, whatever the defaults are.
struct Case {
    name: String,
    expected: Value,
    scales: Vec<u32>,
    losses: [Loss; 3],
    tensors: [Tensor; 7],
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
        let names =
            ["teacher_features", "teacher_fc_weight", "teacher_fc_bias", "student_features", "student_fc_weight"];
        let names = names.iter().chain(&["student_fc_bias", "target"]);
        let tensors: Vec<Tensor> = names.map(|part| tensor(&format!("{name}.{part}"))).collect();
        let number = |method: &str, parameter: &str| case[method][parameter].as_f64().unwrap();
        Case {
            tensors: tensors.try_into().unwrap(),
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
            expected: case["expected"].clone(),
            name,
        }
    };
    cases.into_iter().map(case).collect()
}

impl Case {
    /// The loss, and the norm of its gradient with respect to the student's feature map.
    fn run(&self, loss: Loss, scales: &[u32], grouping: Grouping, weights: GroupWeights) -> (Distilled, f64) {
        self.run_in(Kind::Float, loss, scales, grouping, weights)
    }

    /// The same of feature maps in that kind; the classifiers take float32.
    fn run_in(
        &self,
        kind: Kind,
        loss: Loss,
        scales: &[u32],
        grouping: Grouping,
        weights: GroupWeights,
    ) -> (Distilled, f64) {
        let [teacher, teacher_weight, teacher_bias, student, student_weight, student_bias, target] = &self.tensors;
        let student = student.to_dtype(kind, false, true).set_requires_grad(true);
        let classify = |xs: &Tensor, weight, bias| xs.to_kind(Kind::Float).linear(weight, Some(bias));
        let teacher = teacher.to_kind(kind);
        let teacher = classify_regions(|xs| classify(xs, teacher_weight, teacher_bias), &teacher, scales);
        let regions = classify_regions(|xs| classify(xs, student_weight, student_bias), &student, scales);
        let ones = vec![1.0; scales.len()];
        let distillation = Distillation::from_parts(loss, scales, &ones, grouping, weights, Device::Cpu);
        let distilled = distillation.apply(&regions, &teacher, target);
        distilled.loss.backward();
        let norm = student.grad().to_kind(Kind::Float).norm().double_value(&[]);
        (distilled, norm)
    }

    fn assert_close(&self, key: &str, found: f64) {
        let expected = self.expected[key].as_f64().unwrap_or_else(|| panic!("{} has no {key}", self.name));
        assert!((found - expected).abs() <= 1e-5 * expected.abs(), "{} {key}: {found}, expected {expected}", self.name);
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

#[test]
fn losses_gradients_and_groups_are_those_of_the_published_code() {
    let published = GroupWeights { consistent: 1.0, complementary: 2.0 };
    for case in cases() {
        let keys = [("sd_kd", "kd"), ("sd_dkd", "dkd"), ("sd_nkd_as_published", "nkd_as_published")];
        for (loss, (decoupled, plain)) in case.losses.into_iter().zip(keys) {
            let (distilled, gradient) = case.run(loss, &case.scales, Grouping::Label, published);
            case.assert_close(decoupled, value(&distilled.loss));
            case.assert_close(&format!("grad_norm_{decoupled}"), gradient);
            // The global region is consistent always, so that its weight is 1.
            case.assert_close(plain, value(&case.run(loss, &[1], Grouping::Label, published).0.loss));
            let parts = value(&distilled.consistent) + value(&distilled.complementary);
            case.assert_close(decoupled, parts);
        }
        let [kd, _, nkd] = case.losses;
        let (distilled, _) = case.run(kd, &case.scales, Grouping::Label, published);
        let (consistent, complementary) =
            (case.expected["consistent"].as_f64().unwrap(), case.expected["complementary"].as_f64().unwrap());
        let fraction = value(&distilled.complementary_fraction);
        assert!((fraction - complementary / (consistent + complementary)).abs() < 1e-6, "{}: {fraction}", case.name);
        let by_class = case.run(kd, &case.scales, Grouping::Class, published).0;
        case.assert_close("sd_kd_grouped_by_class", value(&by_class.loss));
        let heavy = case.run(kd, &case.scales, Grouping::Label, GroupWeights { consistent: 3.0, complementary: 5.0 }).0;
        case.assert_close("sd_kd_consistent_3_complementary_5", value(&heavy.loss));
        let nkd = excluding_target(nkd);
        let excluded = case.run(nkd, &case.scales, Grouping::Label, published).0;
        case.assert_close("sd_nkd_target_excluded", value(&excluded.loss));
        case.assert_close("nkd_target_excluded", value(&case.run(nkd, &[1], Grouping::Label, published).0.loss));
    }
}

#[test]
fn losses_and_gradients_of_maps_in_bfloat16_are_the_published_ones_to_its_precision() {
    let mut moved = 0;
    for case in cases() {
        let [consistent, complementary] =
            ["consistent", "complementary"].map(|key| case.expected[key].as_f64().unwrap());
        let keys = ["sd_kd", "sd_dkd", "sd_nkd_as_published"];
        for (loss, key) in case.losses.into_iter().zip(keys) {
            let (distilled, gradient) = case.run_in(
                Kind::BFloat16,
                loss,
                &case.scales,
                Grouping::Label,
                GroupWeights { consistent: 1.0, complementary: 2.0 },
            );
            assert_eq!(distilled.loss.kind(), Kind::Float);
            let fraction = value(&distilled.complementary_fraction);
            if (fraction - complementary / (consistent + complementary)).abs() > 1e-6 {
                // A region whose two best classes are next to each other may change its group, and its weight doubles.
                moved += 1;
                continue;
            }
            for (key, found) in [(key.to_owned(), value(&distilled.loss)), (format!("grad_norm_{key}"), gradient)] {
                let expected = case.expected[&key].as_f64().unwrap();
                let error = (found - expected).abs() / expected;
                assert!(error < 2e-3, "{} {key}: {found}, expected {expected}", case.name);
            }
        }
    }
    // Of 36.
    assert!(moved <= 3, "{moved}");
}

#[test]
fn each_scale_has_a_weight_and_a_curve_of_its_own() {
    for case in cases() {
        let [kd, ..] = case.losses;
        let [teacher, teacher_weight, teacher_bias, student, student_weight, student_bias, target] = &case.tensors;
        let apply = |scales: &[u32], weights: &[f64]| {
            let teacher = classify_regions(|xs| xs.linear(teacher_weight, Some(teacher_bias)), teacher, scales);
            let student = classify_regions(|xs| xs.linear(student_weight, Some(student_bias)), student, scales);
            Distillation::from_parts(
                kd,
                scales,
                weights,
                Grouping::Label,
                GroupWeights { consistent: 1.0, complementary: 1.0 },
                Device::Cpu,
            )
            .apply(&student, &teacher, target)
        };
        let (scales, count) = (&case.scales, case.scales.len());
        let weights: Vec<f64> = (0..count).map(|index| 0.5 + index as f64).collect();
        let together = apply(scales, &weights);
        let regions: f64 = scales.iter().map(|&scale| f64::from(scale * scale)).sum();
        let mut expected = 0.0;
        for (index, &scale) in scales.iter().enumerate() {
            let alone = value(&apply(&[scale], &[1.0]).loss);
            let curve = together.per_scale.double_value(&[index as i64]);
            // Small divergences are differences of numbers near 1: float32 leaves them about 1e-5.
            assert!((curve - alone).abs() <= 1e-4 * alone, "{} scale {scale}: {curve}, alone {alone}", case.name);
            expected += weights[index] * alone * f64::from(scale * scale) / regions;
        }
        let found = value(&together.loss);
        assert!((found - expected).abs() <= 1e-4 * expected, "{}: {found}, expected {expected}", case.name);
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
fn a_student_that_equals_its_teacher_has_nothing_to_learn() {
    let logits = Tensor::from_slice(&[0.3_f32, -1.0, 2.0, 0.1, 0.2, 5.0]).view([2, 1, 3]);
    let target = Tensor::from_slice(&[2_i64, 0]).view([2, 1]);
    assert!(value(&kd(&logits, &logits, 4.0).abs().max()) < 1e-6);
    assert!(value(&dkd(&logits, &logits, &target, 4.0, 1.0, 8.0).abs().max()) < 1e-6);
}

#[test]
fn scale_one_is_not_needed_among_the_scales_and_a_scale_may_be_finer_than_the_map() {
    let features = Tensor::arange(2 * 3 * 2 * 2, (Kind::Float, Device::Cpu)).view([2, 3, 2, 2]);
    let Regions { global, local } = classify_regions(Tensor::shallow_clone, &features, &[2, 4]);
    assert_eq!(global, features.mean_dim([2_i64, 3].as_slice(), false, None::<Kind>));
    assert_eq!(local.size(), [2, 20, 3]);
    // Row by row: the second region of scale 2 is the top right pixel.
    assert_eq!(local.select(1, 1), features.select(2, 0).select(2, 1));
    // Each pixel fills four regions of scale 4.
    assert_eq!(local.select(1, 4), local.select(1, 9));
}

#[test]
fn the_distillation_weight_grows_over_the_warm_up() {
    assert_eq!([1, 10, 20, 21].map(|epoch| warmup(epoch, 20)), [0.05, 0.5, 1.0, 1.0]);
    assert_eq!(warmup(1, 0), 1.0);
}

/// log-softmax in float64, number by number.
fn log_softmax(logits: &[f64]) -> Vec<f64> {
    let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let total = largest + logits.iter().map(|logit| (logit - largest).exp()).sum::<f64>().ln();
    logits.iter().map(|logit| logit - total).collect()
}

fn divergence(student: &[f64], teacher: &[f64]) -> f64 {
    let (log_p, log_q) = (log_softmax(student), log_softmax(teacher));
    log_q.iter().zip(&log_p).map(|(q, p)| q.exp() * (q - p)).sum()
}

/// The formulas of one region, written down as the papers have them.
fn reference(loss: Loss, student: &[f64], teacher: &[f64], label: usize) -> f64 {
    let scaled = |logits: &[f64], temperature: f64| -> Vec<f64> { logits.iter().map(|l| l / temperature).collect() };
    let without = |logits: &[f64]| -> Vec<f64> {
        logits.iter().enumerate().filter(|(class, _)| *class != label).map(|(_, logit)| *logit).collect()
    };
    match loss {
        Loss::Kd { temperature } => {
            temperature.powi(2) * divergence(&scaled(student, temperature), &scaled(teacher, temperature))
        }
        Loss::Dkd { temperature, alpha, beta } => {
            let (student, teacher) = (scaled(student, temperature), scaled(teacher, temperature));
            // The label against all others together, whose logit is the log of the sum of their exponentials.
            let two = |logits: &[f64]| {
                let others = without(logits);
                let largest = others.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                vec![logits[label], largest + others.iter().map(|logit| (logit - largest).exp()).sum::<f64>().ln()]
            };
            let target = divergence(&two(&student), &two(&teacher));
            let others = divergence(&without(&student), &without(&teacher));
            temperature.powi(2) * (alpha * target + beta * others)
        }
        Loss::Nkd { temperature, gamma, exclude_target } => {
            let target = log_softmax(teacher)[label].exp() * log_softmax(student)[label];
            let part = |logits: &[f64]| {
                let logits = scaled(logits, temperature);
                log_softmax(&if exclude_target { without(&logits) } else { logits })
            };
            let (log_p, log_q) = (part(student), part(teacher));
            let distributed: f64 = log_q.iter().zip(&log_p).map(|(q, p)| q.exp() * p).sum();
            -target - gamma * temperature.powi(2) * distributed
        }
    }
}

/// What multiplies the terms of a loss.
fn scale(loss: Loss) -> f64 {
    match loss {
        Loss::Kd { temperature } => temperature.powi(2),
        Loss::Dkd { temperature, alpha, beta } => temperature.powi(2) * (alpha + beta),
        Loss::Nkd { temperature, gamma, .. } => 1.0 + temperature.powi(2) * gamma,
    }
}

#[test]
fn extreme_logits_give_what_float64_gives() {
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
                let rows = |logits: &Tensor| -> Vec<Vec<f64>> { Vec::try_from(logits.to_kind(Kind::Double)).unwrap() };
                for (row, (student, teacher)) in rows(&student).iter().zip(&rows(teacher)).enumerate() {
                    let expected = reference(loss, student, teacher, labels[row] as usize);
                    // Where probabilities are 0 or 1 the terms cancel: what is left is as exact as they are.
                    let error = (found[row] - expected).abs() / expected.abs().max(scale(loss));
                    assert!(error <= 1e-6, "{classes} classes, {what}: {}, expected {expected}, {loss:?}", found[row]);
                }
            }
        }
    }
}

//! The parts of a recipe against torchvision and PyTorch, whose numbers `tests/fixtures/recipe/make.py` wrote.

mod runs;
mod unlabelled;

use distillery_core::spec::{Grouping, Interpolation, OptimizerSpec, Policy};
use distillery_trainer::data::erase::erase;
use distillery_trainer::data::mix::mix;
use distillery_trainer::data::policy::operation;
use distillery_trainer::data::{DrawSource, Erasures, MixSource, Mixes};
use distillery_trainer::loss::region::Loss;
use distillery_trainer::loss::sdd::{Distillation, GroupWeights, Regions};
use distillery_trainer::loss::target::{CrossEntropy, MixedLabels, Target};
use distillery_trainer::models;
use distillery_trainer::run::average::WeightAverage;
use distillery_trainer::run::optim::Optimizer;
use serde_json::Value;
use sha2::{Digest, Sha256};
use tch::{Device, Kind, Tensor, no_grad};

use crate::support::bounded::U;
use crate::support::torch::{hashed, one_thread};

fn expected() -> Value {
    serde_json::from_str(include_str!("../../../tests/fixtures/recipe/expected.json")).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

/// The image of `make.py`: three planes of `side`×`side` bytes.
fn image(side: usize) -> Vec<u8> {
    let pixel = |place: usize| {
        let (row, column) = (place / side % side, place % side);
        let smooth = (column * 5 + place / side * 3) % 256;
        if row < side / 2 { place * 7919 % 251 } else { smooth / 2 + 40 }
    };
    (0..3 * side * side).map(|place| pixel(place) as u8).collect()
}

#[test]
fn operations_change_the_same_pixels_as_torchvisions_at_every_magnitude() {
    compare_operations("operations", 800, Interpolation::Nearest);
}

#[test]
fn operations_that_interpolate_change_the_same_pixels_as_torchvisions() {
    compare_operations("interpolated", 300, Interpolation::Bilinear);
}

/// Compares at least this number of cases.
fn compare_operations(name: &str, least: usize, interpolation: Interpolation) {
    let expected = expected();
    let cases = expected[name].as_array().unwrap();
    assert!(cases.len() > least, "{}", cases.len());
    let mut wrong = Vec::new();
    for case in cases {
        let number = |at: usize| case[at].as_u64().unwrap();
        let (side, kind, magnitude) = (number(0) as usize, number(2) as u32, number(4) as u32);
        let policy = match case[1].as_str().unwrap() {
            "rand_augment" => Policy::RandAugment { operations: 2, magnitude: 9, interpolation },
            _ => Policy::TrivialAugmentWide { interpolation },
        };
        let mut image = image(side);
        let mut spare = vec![0; image.len()];
        let operation = operation(policy, side, kind, magnitude, case[5].as_bool().unwrap());
        operation.apply(&mut image, &mut spare, side, interpolation);
        if hex::encode(Sha256::digest(&image))[..16] != *case[6].as_str().unwrap() {
            wrong.push(case);
        }
    }
    assert!(wrong.is_empty(), "{} of {}: {wrong:?}", wrong.len(), cases.len());
}

fn close(found: &Tensor, expected: f64) {
    let found = found.double_value(&[]);
    assert!((found - expected).abs() < 1e-9, "{found}, not {expected}");
}

fn logits() -> Tensor {
    (Tensor::arange(24, (Kind::Double, Device::Cpu)) * 1.7).sin().view([4, 6]) * 3
}

/// Labels of four images, each mixed with the one before it.
fn mixed(own_share: f32) -> Target {
    let labels = Tensor::from_slice(&[0_i64, 3, 5, 2]);
    let partners = Tensor::from_slice(&[2_i64, 0, 3, 5]);
    Target { labels, mixed: Some(MixedLabels { labels: partners, own_share: Tensor::from(own_share) }) }
}

#[test]
fn smoothed_and_mixed_labels_have_pytorchs_cross_entropy() {
    one_thread();
    let expected = &expected()["losses"];
    for case in expected["smoothed"].as_array().unwrap() {
        let [smoothing, loss] = numbers(case)[..] else { panic!("{case}") };
        let target = Target::of(&mixed(1.0).labels);
        close(&CrossEntropy { smoothing, ..CrossEntropy::default() }.of(&logits(), &target), loss);
    }
    for case in expected["mixed"].as_array().unwrap() {
        let [smoothing, loss] = numbers(case)[..] else { panic!("{case}") };
        let found = CrossEntropy { smoothing, ..CrossEntropy::default() }.of(&logits(), &mixed(0.7)).double_value(&[]);
        // The share is a float32.
        assert!((found - loss).abs() < 1e-6, "{found}, not {loss}");
    }
}

#[test]
fn weighted_classes_have_pytorchs_sum_over_the_number_of_images() {
    one_thread();
    let weights = Tensor::from_slice(&[0.5_f32, 1.0, 2.0, 0.25, 3.0, 1.5]);
    let loss = CrossEntropy { smoothing: 0.1, class_weights: Some(weights), ..CrossEntropy::default() };
    let labels = mixed(1.0).labels;
    close(&loss.of(&logits(), &Target::of(&labels)), expected()["losses"]["weighted"].as_f64().unwrap());
    // The batch is the mean of its halves.
    let half = |start: i64| {
        let target = Target::of(&labels.narrow(0, start, 2));
        loss.of(&logits().narrow(0, start, 2), &target).double_value(&[])
    };
    close(&loss.of(&logits(), &Target::of(&labels)), (half(0) + half(2)) / 2.0);
}

#[test]
fn mixup_and_cutmix_mix_like_torchvision() {
    let expected = &expected()["mixes"];
    let image = Tensor::from_slice(&image(4)).view([3, 4, 4]).to_kind(Kind::Float);
    let images = Tensor::stack(&[image.shallow_clone(), image.flip([0]), image.neg() + 255.0], 0);
    let borders = numbers(&expected["box"]);
    let [left, top, right, bottom] = [0, 1, 2, 3].map(|at| borders[at] as f32);
    for (name, row) in [("mixup", [0.3, 0.3, 0.0, 0.0, 0.0, 0.0]), ("cutmix", [0.5, 1.0, top, bottom, left, right])] {
        let found = Vec::<f32>::try_from(mix(&images, &Tensor::from_slice(&row)).flatten(0, -1)).unwrap();
        for (found, expected) in found.into_iter().zip(numbers(&expected[name])) {
            assert!((f64::from(found) - expected).abs() < 1e-3, "{name}: {found}, not {expected}");
        }
    }
}

#[test]
fn a_mix_depends_only_on_seed_epoch_and_batch_and_takes_both_kinds() {
    let source = MixSource { seed: 3, mixup: Some(0.2), cutmix: Some(1.0), side: 8 };
    let row = |source, epoch, first, batch| {
        let mixes = Mixes::of_epoch(source, epoch, first, 40, Device::Cpu);
        Vec::<f32>::try_from(mixes.of_batch(batch)).unwrap()
    };
    assert_eq!(row(source, 1, 0, 7), row(source, 1, 5, 7), "a resumed epoch");
    assert_ne!(row(source, 1, 0, 7), row(source, 2, 0, 7));
    assert_ne!(row(source, 1, 0, 7), row(MixSource { seed: 4, ..source }, 1, 0, 7));
    let outside: Vec<f32> = (0..40).map(|batch| row(source, 0, 0, batch)[1]).collect();
    let boxes = outside.iter().filter(|&&outside| outside == 1.0).count();
    assert!((8..33).contains(&boxes), "{boxes} of 40 are CutMix");
}

#[test]
fn erased_rectangles_have_the_mean_colour_and_torchvisions_sizes() {
    let source = DrawSource { seed: 1, images: 2000, side: 32, device: Device::Cpu };
    let all = Tensor::arange(2000, (Kind::Int64, Device::Cpu));
    let erasures = Erasures::of_view(source, 0.25, 0).of_batch(0, 0, &all);
    let images = Tensor::full([2000, 3, 32, 32], 200.0, (Kind::Float, Device::Cpu));
    let blank = Tensor::from_slice(&[10_f32, 20.0, 30.0]).view([1, 3, 1, 1]);
    let erased = erase(&images, &erasures, &blank);
    let areas =
        erased.select(1, 1).eq(20.0).to_kind(Kind::Double).sum_dim_intlist([1_i64, 2].as_slice(), false, Kind::Double);
    assert!(erased.select(1, 1).eq(20.0).equal(&erased.select(1, 2).eq(30.0)));
    let areas: Vec<f64> = Vec::try_from(areas).unwrap();
    let hit: Vec<f64> = areas.into_iter().filter(|&area| area > 0.0).map(|area| area / 1024.0).collect();
    assert!((420..580).contains(&hit.len()), "{} of 2000 images", hit.len());
    // The margins allow for rounding to whole pixels.
    assert!(hit.iter().all(|area| (0.015..0.36).contains(area)), "{hit:?}");
    let mean = hit.iter().sum::<f64>() / hit.len() as f64;
    assert!((mean - 0.17).abs() < 0.02, "{mean}");
    // By batches it depends on their place, and not on where an attempt began.
    let of_epoch = |first| Erasures::of_epoch(source, 0.5, 2, first, 64).of_batch(5, 3, &all.narrow(0, 0, 10));
    assert!(of_epoch(0).equal(&of_epoch(4)));
}

#[test]
fn the_average_of_weights_is_pytorchs() {
    one_thread();
    let network = models::build(distillery_core::architecture::find("resnet8").unwrap(), 2, 0);
    // The classifier's bias.
    let index = network.weights().len() - 1;
    let set = |one: f64, other: f64| network.set(index, &Tensor::from_slice(&[one as f32, other as f32]));
    set(1.0, -2.0);
    let average = WeightAverage::new(&network, 0.9);
    for (step, expected) in (1..).map(f64::from).zip(expected()["average"].as_array().unwrap()) {
        set(1.0 + step * step, -2.0 / step);
        average.update();
        let averaged = average.network(&network);
        let found: Vec<f32> = Vec::try_from(&averaged.weights()[index].tensor).unwrap();
        // Each step rounds a product, a sum and a difference of numbers up to the largest.
        let allowed = 4.0 * step * U * (1.0 + step * step);
        for (found, expected) in found.into_iter().zip(numbers(expected)) {
            assert!((f64::from(found) - expected).abs() < allowed, "step {step}: {found}, not {expected}");
        }
    }
}

#[test]
fn the_body_learns_at_its_part_of_the_rate() {
    let spec = OptimizerSpec::Sgd { learning_rate: 0.1, momentum: 0.0, weight_decay: 0.0, nesterov: false };
    let parameter = |name: &str| (name.to_owned(), Tensor::from_slice(&[1_f32]).set_requires_grad(true));
    let named = [parameter("body.weight"), parameter("fc.weight")];
    let shared = named.iter().map(|(name, tensor)| (name.clone(), tensor.shallow_clone())).collect();
    let mut optimizer = Optimizer::new(&spec, shared).with_body_rate(0.25, |name| name.starts_with("fc"));
    (&named[0].1 * 2 + &named[1].1 * 2).sum(Kind::Float).backward();
    optimizer.step(&Tensor::from(0.1_f32));
    let values = named.map(|(_, tensor)| tensor.double_value(&[0]));
    // Of numbers up to 1: the rate, its part, the product and the difference.
    assert!((values[0] - 0.95).abs() < 4.0 * U && (values[1] - 0.8).abs() < 4.0 * U, "{values:?}");
}

#[test]
fn biases_and_norms_can_go_without_weight_decay() {
    let sgd = OptimizerSpec::Sgd { learning_rate: 0.1, momentum: 0.9, weight_decay: 0.5, nesterov: false };
    let adamw = OptimizerSpec::Adamw { learning_rate: 0.1, beta1: 0.9, beta2: 0.999, weight_decay: 0.5 };
    // From a weight of 1, after two steps with a gradient of 2. The second of SGD is 0.9 of the first and the new one;
    // AdamW's is the learning rate, after the weight has lost a twentieth.
    let first = 1.0 - 0.1 * 2.5;
    let second = first - 0.1 * (0.9 * 2.5 + 2.0 + 0.5 * first);
    let plain = 1.0 - 0.1 * 2.0 - 0.1 * (0.9 * 2.0 + 2.0);
    let adapted = (0.95 - 0.1) * 0.95 - 0.1;
    for (spec, of_matrix, of_vector) in [(sgd, second, plain), (adamw, adapted, 0.8)] {
        for (is_spared, of_vector) in [(true, of_vector), (false, of_matrix)] {
            let ones = |shape: &[i64]| Tensor::ones(shape, (Kind::Float, Device::Cpu)).set_requires_grad(true);
            let named = [("w".to_owned(), ones(&[1, 1])), ("b".to_owned(), ones(&[1]))];
            let shared = named.iter().map(|(name, tensor)| (name.clone(), tensor.shallow_clone())).collect();
            let mut optimizer = Optimizer::new(&spec, shared);
            if is_spared {
                optimizer = optimizer.without_decay_of_vectors();
            }
            for _ in 0..2 {
                optimizer.drop_gradients();
                named.iter().map(|(_, tensor)| (tensor * 2).sum(Kind::Float)).sum::<Tensor>().backward();
                optimizer.step(&Tensor::from(0.1_f32));
            }
            let [matrix, vector] = named.map(|(_, tensor)| tensor.sum(Kind::Double).double_value(&[]));
            let off = (matrix - of_matrix).abs().max((vector - of_vector).abs());
            // Two steps of up to 16 roundings of numbers up to 1.
            assert!(off < 32.0 * U, "{spec:?}: {matrix} and {vector}");
        }
    }
}

/// The logits of two images with five regions each, as student's or teacher's.
fn regions(salt: usize) -> Regions {
    Regions::split(&(hashed(&[2, 5, 6], salt) * 4), &[1, 2])
}

#[test]
fn the_loss_of_a_mixed_image_is_that_mix_of_the_losses_with_its_labels() {
    let weights = GroupWeights { consistent: 1.0, complementary: 2.0 };
    let bases = [
        Loss::Kd { temperature: 4.0 },
        Loss::Dkd { temperature: 4.0, alpha: 1.0, beta: 8.0 },
        Loss::Nkd { temperature: 4.0, gamma: 8.0, exclude_target: false },
        Loss::Wttm { temperature: 5.0 },
        Loss::Dist { temperature: 4.0, beta: 1.0, gamma: 1.0 },
    ];
    for base in bases {
        for grouping in [Grouping::Label, Grouping::Class] {
            let mut loss = Distillation::from_parts(base, &[1, 2], &[1.0, 1.0], grouping, weights, Device::Cpu);
            loss.clustering = Some(2.0);
            let teacher = regions(2);
            // The teacher's class for the whole image, and another one, so that the groups differ.
            let own = teacher.global.argmax(-1, false);
            let other = (&own + 1).remainder(6);
            let of = |labels: &Tensor| no_grad(|| loss.apply(&regions(1), &teacher, labels));
            let (one, two) = (of(&own), of(&other));
            let mixed = MixedLabels { labels: other.shallow_clone(), own_share: Tensor::from(0.75_f32) };
            let target = Target { labels: own.shallow_clone(), mixed: Some(mixed) };
            let found = no_grad(|| loss.apply_mixed(&regions(1), &teacher, &target));
            let mean = |one: &Tensor, two: &Tensor| 0.75 * one.double_value(&[]) + 0.25 * two.double_value(&[]);
            close(&found.loss, mean(&one.loss, &two.loss));
            close(&found.complementary, mean(&one.complementary, &two.complementary));
            close(&found.complementary_fraction, mean(&one.complementary_fraction, &two.complementary_fraction));
            // It does not depend on the labels.
            close(found.clustering.as_ref().unwrap(), one.clustering.as_ref().unwrap().double_value(&[]));
            let whole = Target { labels: own.shallow_clone(), mixed: None };
            close(&no_grad(|| loss.apply_mixed(&regions(1), &teacher, &whole)).loss, one.loss.double_value(&[]));
        }
    }
}

#[test]
fn an_image_without_a_label_has_no_cross_entropy_and_the_teachers_class_in_its_place() {
    one_thread();
    let loss = CrossEntropy { smoothing: 0.1, has_unlabelled: true, ..CrossEntropy::default() };
    let whole = CrossEntropy { smoothing: 0.1, ..CrossEntropy::default() };
    let labels = Tensor::from_slice(&[0_i64, -1, 5, -1]);
    let labelled = Tensor::from_slice(&[0_i64, 2]);
    let of_labelled = whole.of(&logits().index_select(0, &labelled), &Target::of(&Tensor::from_slice(&[0_i64, 5])));
    // Only two of the four images have a loss.
    close(&loss.of(&logits(), &Target::of(&labels)), of_labelled.double_value(&[]) / 2.0);
    let teacher = hashed(&[4, 6], 5);
    let completed = Vec::<i64>::try_from(Target::of(&labels).completed(&teacher).labels).unwrap();
    let predicted = Vec::<i64>::try_from(teacher.argmax(-1, false)).unwrap();
    assert_eq!(completed, [0, predicted[1], 5, predicted[3]]);
}

#[test]
fn the_binary_cross_entropy_is_timms() {
    one_thread();
    let expected = &expected()["losses"];
    for case in expected["binary"].as_array().unwrap() {
        let [smoothing, loss] = numbers(case)[..] else { panic!("{case}") };
        let binary = CrossEntropy { is_binary: true, smoothing, ..CrossEntropy::default() };
        close(&binary.of(&logits(), &Target::of(&mixed(1.0).labels)), loss);
    }
    let binary = CrossEntropy { is_binary: true, ..CrossEntropy::default() };
    let found = binary.of(&logits(), &mixed(0.7)).double_value(&[]);
    let loss = expected["binary_mixed"].as_f64().unwrap();
    assert!((found - loss).abs() < 1e-6, "{found}, not {loss}");
    // Without a label there is no loss, but the image counts.
    let unlabelled = CrossEntropy { is_binary: true, has_unlabelled: true, ..CrossEntropy::default() };
    let labels = Tensor::from_slice(&[0_i64, 3, -1, -1]);
    let half = binary.of(&logits().narrow(0, 0, 2), &Target::of(&labels.narrow(0, 0, 2))).double_value(&[]);
    close(&unlabelled.of(&logits(), &Target::of(&labels)), half / 2.0);
}

#[test]
fn a_threshold_counts_each_label_of_a_mixed_image_as_a_whole_or_not_at_all_as_in_timm() {
    one_thread();
    let binary = CrossEntropy { is_binary: true, threshold: Some(0.2), ..CrossEntropy::default() };
    for case in expected()["losses"]["binary_thresholded"].as_array().unwrap() {
        let [share, loss] = numbers(case)[..] else { panic!("{case}") };
        close(&binary.of(&logits(), &mixed(share as f32)), loss);
    }
    // Images that are not mixed have the loss without a threshold.
    let plain = CrossEntropy { is_binary: true, ..CrossEntropy::default() };
    let labels = mixed(1.0).labels;
    close(&binary.of(&logits(), &Target::of(&labels)), plain.of(&logits(), &Target::of(&labels)).double_value(&[]));
    // Of the first two images one label is known, with shares of 0.75 and 0.25; of the third, neither; of the last,
    // both.
    let unlabelled = CrossEntropy { has_unlabelled: true, ..binary };
    let labels = Tensor::from_slice(&[0_i64, -1, -1, 2]);
    let partners = Tensor::from_slice(&[-1_i64, 3, -1, 5]);
    let mixed = MixedLabels { labels: partners, own_share: Tensor::from(0.75_f32) };
    let found = unlabelled.of(&logits(), &Target { labels, mixed: Some(mixed) });
    let logits: Vec<f64> = Vec::try_from(logits().flatten(0, -1)).unwrap();
    let of_image = |image: usize, hot: &[usize]| {
        let of_class = |class: usize| {
            let logit = logits[image * 6 + class];
            (1.0 + logit.exp()).ln() - if hot.contains(&class) { logit } else { 0.0 }
        };
        (0..6).map(of_class).sum::<f64>() / 6.0
    };
    close(&found, (0.75 * of_image(0, &[0]) + 0.25 * of_image(1, &[3]) + of_image(3, &[2, 5])) / 4.0);
}

#[test]
fn lamb_is_timms() {
    one_thread();
    let spec = OptimizerSpec::Lamb { learning_rate: 0.1, beta1: 0.9, beta2: 0.99, weight_decay: 0.1 };
    let values = |count: i64, salt: f64| (Tensor::arange(count, (Kind::Double, Device::Cpu)) * 1.3 + salt).sin();
    let parameter = |shape: &[i64], salt: f64| {
        values(shape.iter().product(), salt).view(shape).to_kind(Kind::Float).set_requires_grad(true)
    };
    let [matrix, vector] = [parameter(&[3, 2], 0.5), parameter(&[3], 1.5)];
    let named = vec![("w".to_owned(), matrix.shallow_clone()), ("b".to_owned(), vector.shallow_clone())];
    let mut optimizer = Optimizer::new(&spec, named);
    for (step, expected) in (1..).zip(expected()["lamb"].as_array().unwrap()) {
        optimizer.drop_gradients();
        let slope = |shape: &[i64], salt: f64| {
            values(shape.iter().product(), salt + f64::from(step)).view(shape).to_kind(Kind::Float)
        };
        ((&matrix * slope(&[3, 2], 2.0)).sum(Kind::Float) + (&vector * slope(&[3], 3.0)).sum(Kind::Float)).backward();
        optimizer.step(&Tensor::from(0.1_f32));
        let found = Tensor::cat(&[matrix.detach().flatten(0, -1), vector.detach()], 0);
        for (found, expected) in Vec::<f32>::try_from(found).unwrap().into_iter().zip(numbers(expected)) {
            // A step adds up norms of six numbers at most, for an update of less than the weights.
            let allowed = 64.0 * f64::from(step) * U * (1.0 + expected.abs());
            assert!((f64::from(found) - expected).abs() < allowed, "step {step}: {found}, not {expected}");
        }
    }
}

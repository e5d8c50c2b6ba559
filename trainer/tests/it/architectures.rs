//! Networks on libtorch have the state dicts and logits of the published code.

use distillery_core::architecture::{self, LayoutOp};
use distillery_trainer::models::{self, Network};
use serde_json::Value;
use tch::{Device, Kind, Tensor};

use crate::support::rounding::Rounding;
use crate::support::torch::{hashed, one_thread};

fn fixture(text: &str) -> serde_json::Map<String, Value> {
    serde_json::from_str(text).unwrap()
}

fn architectures() -> serde_json::Map<String, Value> {
    fixture(include_str!("../../../tests/fixtures/architectures.json"))
}

/// A float64 network with the weights of the fixture. `statistics` makes the running statistics from noise.
fn with_fixed_weights(name: &str, classes: u32, statistics: impl Fn(&str, Tensor) -> Tensor) -> Network {
    one_thread();
    let mut network = models::build(architecture::find(name).unwrap(), classes, 0);
    network.place(Device::Cpu, Kind::Double);
    for (k, weight) in network.weights().iter().enumerate() {
        let shape = weight.tensor.size();
        let noise = hashed(&shape, k);
        let value = match (weight.name.rsplit('.').next().unwrap(), shape.len()) {
            (kind @ ("running_mean" | "running_var"), _) => statistics(kind, noise),
            ("weight", 1) => noise * 0.2 + 1.0,
            (_, 1) => noise * 0.2,
            _ => noise * (6.0 / shape[1..].iter().product::<i64>() as f64).sqrt(),
        };
        network.set(k, &value);
    }
    network
}

fn fixed_input(side: i64) -> Tensor {
    hashed(&[4, 3, side, side], 1000)
}

/// The most numbers that a convolution or linear layer adds up for an output, or a batch norm for its statistics.
fn most_terms(network: &Network) -> i64 {
    let fan_in = |tensor: &Tensor| tensor.size()[1..].iter().product::<i64>();
    let layers = network.weights().iter().map(|weight| &weight.tensor).filter(|tensor| tensor.dim() > 1);
    layers.map(fan_in).fold(4 * 32 * 32, i64::max)
}

/// Moves the weights of a float64 network by roundings.
fn move_weights(network: &Network, rounding: Rounding) {
    for (index, weight) in network.weights().iter().enumerate().filter(|(_, weight)| weight.is_float) {
        network.set(index, &rounding.moved(&weight.tensor, index));
    }
}

/// The network of the fixture for evaluation.
fn evaluated(name: &str) -> Network {
    with_fixed_weights(name, 100, |kind, noise| match kind {
        "running_mean" => noise * 0.1,
        _ => noise * 0.2 + 1.0,
    })
}

/// Compares the first eight logits of each image and the norm of all logits with the fixture.
fn assert_logits(name: &str, logits: &Tensor, first_8: &Value, l2: &Value, relative: f64) {
    let norm = logits.to_kind(Kind::Double).norm().double_value(&[]);
    let expected_norm = l2.as_f64().unwrap();
    assert!((norm - expected_norm).abs() <= relative * expected_norm, "{name}: norm {norm}, expected {expected_norm}");
    let typical = expected_norm / (logits.numel() as f64).sqrt();
    for (image, row) in first_8.as_array().unwrap().iter().enumerate() {
        for (class, expected) in row.as_array().unwrap().iter().enumerate() {
            let (found, expected) = (logits.double_value(&[image as i64, class as i64]), expected.as_f64().unwrap());
            // The fixture is rounded to nine decimal places.
            let tolerance = 0.51e-9 + relative * typical.max(expected.abs());
            assert!((found - expected).abs() <= tolerance, "{name}[{image}, {class}]: {found}, expected {expected}");
        }
    }
}

#[test]
fn every_network_has_the_state_dict_of_its_architecture() {
    for described in architecture::all() {
        let network = models::build(described, 7, 0);
        let layout = described.layout(7);
        let found: Vec<_> = network
            .weights()
            .iter()
            .map(|weight| (weight.name.as_str(), weight.tensor.size(), weight.trained))
            .collect();
        let expected: Vec<_> = layout
            .entries
            .iter()
            .map(|entry| {
                let shape: Vec<i64> = entry.shape.iter().map(|&size| size as i64).collect();
                (entry.key.as_str(), shape, entry.role.is_trained())
            })
            .collect();
        assert_eq!(found, expected, "{}", described.name);
        assert_eq!(network.parameters(), layout.parameters, "{}", described.name);
    }
}

#[test]
fn training_mode_logits_match_the_published_code() {
    let _guard = tch::no_grad_guard();
    for (name, expected) in architectures() {
        let side = expected["input"][1].as_i64().unwrap();
        let classes = expected["classes"].as_u64().unwrap() as u32;
        let mut network = with_fixed_weights(&name, classes, |kind, noise| match kind {
            "running_mean" => noise.zeros_like(),
            _ => noise.ones_like(),
        });
        let features = network.features(&fixed_input(side), true);
        let map: Vec<i64> = serde_json::from_value(expected["feature_map"].clone()).unwrap();
        assert_eq!(features.size()[1..], map, "{name}");
        let logits = network.classify(&features.mean_dim([2_i64, 3].as_slice(), false, None::<Kind>), true);
        assert_logits(&name, &logits, &expected["logits_first_8"], &expected["logits_l2"], 1e-9);
        // The same weights and input, in float32.
        network.place(Device::Cpu, Kind::Float);
        let single = network.logits(&fixed_input(side), true);
        let rounding = Rounding::of(Kind::Float, most_terms(&network));
        network.place(Device::Cpu, Kind::Double);
        move_weights(&network, rounding);
        let moved = network.logits(&rounding.moved(&fixed_input(side), 1000), true);
        rounding.assert(&single, &logits, &moved, &format_args!("{name} in float32"));
    }
}

#[test]
fn evaluation_mode_logits_match_pytorch() {
    let _guard = tch::no_grad_guard();
    let side = 32;
    for (name, expected) in fixture(include_str!("../fixtures/architectures_evaluation.json")) {
        let mut network = evaluated(&name);
        let logits = network.logits(&fixed_input(side), false);
        assert_logits(&name, &logits, &expected["logits_first_8"], &expected["logits_l2"], 1e-9);
        let [of_single, of_rough] = [Kind::Float, Kind::BFloat16].map(|kind| Rounding::of(kind, most_terms(&network)));
        let moved = |rounding: Rounding| {
            let network = evaluated(&name);
            move_weights(&network, rounding);
            network.logits(&rounding.moved(&fixed_input(side), 1000), false)
        };
        let [moved_by_single, moved_by_rough] = [of_single, of_rough].map(moved);
        let assert_near = |rounding: Rounding, found: &Tensor, moved: &Tensor, what: &str| {
            rounding.assert(found, &logits, moved, &format_args!("{name} {what}"));
        };
        network.place(Device::Cpu, Kind::Float);
        let single = network.logits(&fixed_input(side), false);
        assert_near(of_single, &single, &moved_by_single, "in float32");
        // In bfloat16, frozen or not, the logits agree to the precision of bfloat16.
        network.compute_in(Kind::BFloat16);
        let rough = network.logits(&fixed_input(side), false);
        assert_eq!(rough.kind(), Kind::Float);
        let norm = |tensor: &Tensor| tensor.norm().double_value(&[]);
        let is_rough = |found: &Tensor| norm(&(found - &single)) > of_single.relative * norm(&single);
        assert!(is_rough(&rough), "{name} is computed in float32");
        assert_near(of_rough, &rough, &moved_by_rough, "in bfloat16");
        assert!(network.freeze(4, side as u32).is_none(), "what cuDNN fuses is for GPUs");
        let frozen = network.logits(&fixed_input(side), false);
        assert!(is_rough(&frozen), "{name} is computed in float32 when it is frozen");
        assert_near(of_rough, &frozen, &moved_by_rough, "in bfloat16, frozen");
        // Folding costs nothing in float32; sizes that it was not compiled for give the same.
        network.compute_in(Kind::Float);
        network.freeze(7, 40);
        assert_near(of_single, &network.logits(&fixed_input(side), false), &moved_by_single, "in float32, frozen");
    }
}

#[test]
fn gradients_of_every_family_match_float64() {
    // In float64 libtorch computes all of it; in float32 and bfloat16 the trainer's own loops do their part on the CPU.
    // A number close to zero that rounds to the other side of it moves a gradient by far more than its rounding.
    for name in
        ["resnet20", "resnet20_a", "wrn_16_1", "vgg8", "mobilenet_v2", "shufflenet_v1", "shufflenet_v2", "resnet18"]
    {
        let network = |kind: Kind, rounding: Option<Rounding>| {
            let mut network = with_fixed_weights(name, 10, |kind, noise| match kind {
                "running_mean" => noise.zeros_like(),
                _ => noise.ones_like(),
            });
            rounding.into_iter().for_each(|rounding| move_weights(&network, rounding));
            network.place(Device::Cpu, kind);
            network
        };
        // Large enough that each map has several values and no variance is close to zero.
        let side = if name == "resnet18" { 64 } else { 32 };
        let images = hashed(&[8, 3, side, side], 1000);
        let exact = network(Kind::Double, None);
        let terms = most_terms(&exact);
        let (exact, exact_statistics) = gradients(&exact, &images);
        // The other networks' random weights carry a rounding of bfloat16 too far for a comparison to tell anything.
        let bears_bfloat16 = ["resnet20", "resnet20_a", "wrn_16_1", "vgg8"].contains(&name);
        for compute in [Kind::Float].into_iter().chain(bears_bfloat16.then_some(Kind::BFloat16)) {
            let rounding = Rounding::of(compute, terms);
            let moved = network(Kind::Double, Some(rounding));
            let (moved, moved_statistics) = gradients(&moved, &rounding.moved(&images, 1000));
            let mut network = network(Kind::Float, None);
            network.compute_in(compute);
            let (found, statistics) = gradients(&network, &images.to_kind(Kind::Float));
            rounding.assert(&found, &exact, &moved, &format_args!("{name} in {compute:?}"));
            let what = format!("{name} in {compute:?}: statistics");
            rounding.assert(&statistics, &exact_statistics, &moved_statistics, &what);
            // Otherwise gradients of another network would pass.
            let reach = ((&moved - &exact).norm() / exact.norm()).double_value(&[]);
            assert!(reach < 0.7, "{name} in {compute:?}: {reach}");
        }
    }
}

/// The gradients of the sum of squared logits, and the running statistics after it, in float64.
fn gradients(network: &Network, images: &Tensor) -> (Tensor, Tensor) {
    network.logits(images, true).to_kind(Kind::Double).square().sum(Kind::Double).backward();
    let trained = network.trained().map(|tensor| tensor.grad().to_kind(Kind::Double).flatten(0, -1));
    let statistics = network.weights().iter().filter(|weight| !weight.trained);
    let statistics: Vec<Tensor> = statistics.map(|weight| weight.tensor.to_kind(Kind::Double)).collect();
    (Tensor::cat(&trained.collect::<Vec<_>>(), 0), Tensor::cat(&statistics, 0))
}

#[test]
fn evaluation_with_batch_statistics_equals_training_mode() {
    // Training-mode logits match the published code, so evaluation mode does as well.
    let _guard = tch::no_grad_guard();
    for described in architecture::all() {
        let side = i64::from(described.input_side.min(64));
        let network = with_fixed_weights(described.name, 10, |kind, noise| match kind {
            "running_mean" => noise.zeros_like(),
            _ => noise.ones_like(),
        });
        let trained = network.logits(&fixed_input(side), true);
        let layout = described.layout_at(10, side as u32);
        for node in &layout.nodes {
            let LayoutOp::BatchNorm { weight } = node.op else { continue };
            // Running statistics moved a tenth of the way from 0 and 1; the running variance is the unbiased one.
            let count = 4.0 * f64::from(node.map.side).powi(2);
            let [mean, variance] = [2, 3].map(|part| network.weights()[weight + part].tensor.shallow_clone());
            network.set(weight + 2, &(mean * 10.0));
            network.set(weight + 3, &((variance - 0.9) * 10.0 * ((count - 1.0) / count)));
        }
        let evaluated = network.logits(&fixed_input(side), false);
        let difference = (&trained - &evaluated).norm().double_value(&[]) / trained.norm().double_value(&[]);
        assert!(difference < 1e-9, "{}: {difference}", described.name);
    }
}

#[test]
fn a_seed_determines_initial_weights_of_the_published_distributions() {
    let described = architecture::find("resnet32x4").unwrap();
    let network = models::build(described, 100, 7);
    let again = models::build(described, 100, 7);
    let other = models::build(described, 100, 8);
    for ((weight, again), other) in network.weights().iter().zip(again.weights()).zip(other.weights()) {
        let tensor = &weight.tensor;
        assert_eq!(*tensor, again.tensor, "{}", weight.name);
        let (mean, deviation) = (tensor.mean(Kind::Double), tensor.to_kind(Kind::Double).std(true));
        let (mean, deviation) = (mean.double_value(&[]), deviation.double_value(&[]));
        let count = tensor.numel() as f64;
        let expected = match tensor.size().as_slice() {
            &[outputs, _, height, width] => (2.0 / (outputs * height * width) as f64).sqrt(),
            // Uniform between ±1/sqrt(256).
            [100, 256] => 1.0 / 16.0 / 3_f64.sqrt(),
            [100] => {
                assert!(tensor.abs().max().double_value(&[]) <= 1.0 / 16.0);
                continue;
            }
            _ => {
                let one = weight.name.ends_with("weight") || weight.name.ends_with("running_var");
                assert_eq!((mean, deviation), (f64::from(u8::from(one)), 0.0), "{}", weight.name);
                continue;
            }
        };
        assert_ne!(*tensor, other.tensor, "{}", weight.name);
        assert!(mean.abs() < 5.0 * expected / count.sqrt(), "{}: mean {mean}", weight.name);
        assert!((deviation / expected - 1.0).abs() < 5.0 / count.sqrt(), "{}: deviation {deviation}", weight.name);
    }
}

#[test]
fn each_family_is_initialised_like_its_published_code() {
    // Deviation of the weights, and whether they are uniform.
    let normal = |fan: f64| ((2.0 / fan).sqrt(), false);
    let uniform = |fan_in: f64| (1.0 / (3.0 * fan_in).sqrt(), true);
    let small = (0.01, false);
    for (name, key, (deviation, is_uniform), bias_is_zero) in [
        ("wrn_40_2", "block3.layer.1.conv1", normal(9.0 * 128.0), None),
        ("wrn_40_2", "fc", uniform(128.0), Some(true)),
        ("vgg13", "block3.0", normal(9.0 * 512.0), Some(true)),
        ("vgg13", "classifier", small, Some(true)),
        ("mobilenet_v2", "conv2.0", normal(1280.0), None),
        ("mobilenet_v2", "blocks.5.1.conv.3", normal(9.0 * 480.0), None),
        ("mobilenet_v2_224", "classifier.1", small, Some(true)),
        ("mobilenet_v1", "fc", small, Some(true)),
        ("shufflenet_v1", "layer3.1.conv3", uniform(80.0), None),
        ("shufflenet_v2", "conv2", uniform(464.0), None),
        ("shufflenet_v2", "linear", uniform(1024.0), Some(false)),
        ("resnet18_cifar", "layer4.1.conv2", normal(9.0 * 512.0), None),
        ("resnet50", "conv1", normal(49.0 * 64.0), None),
        ("resnet50", "fc", uniform(2048.0), Some(false)),
    ] {
        let network = models::build(architecture::find(name).unwrap(), 100, 3);
        let get = |part: &str| network.weights().iter().find(|weight| weight.name == format!("{key}.{part}"));
        let weight = &get("weight").unwrap().tensor.to_kind(Kind::Double);
        let found = weight.std(true).double_value(&[]);
        let count = weight.numel() as f64;
        assert!((found / deviation - 1.0).abs() < 5.0 / count.sqrt(), "{name} {key}: {found}, expected {deviation}");
        // The largest of many normal values exceeds three standard deviations; uniform values stay below √3 of them.
        let largest = weight.abs().max().double_value(&[]) / deviation;
        assert_eq!(largest < 1.74, is_uniform, "{name} {key}: {largest}");
        let zero = get("bias").map(|bias| bias.tensor.abs().max().double_value(&[]) == 0.0);
        assert_eq!(zero, bias_is_zero, "{name} {key}");
    }
}

#[test]
fn classes_and_input_side_are_free_in_every_family() {
    let _guard = tch::no_grad_guard();
    for name in
        ["resnet20_a", "wrn_16_1", "vgg8", "mobilenet_v2", "shufflenet_v1", "shufflenet_v2", "resnet18", "mobilenet_v1"]
    {
        let described = architecture::find(name).unwrap();
        let network = models::build(described, 37, 0);
        let smallest = (2..).find(|&side| described.layout_at(37, side).feature_map[1] > 0).unwrap();
        for side in [smallest, 24, 33, 64] {
            let images = hashed(&[2, 3, side.into(), side.into()], 5);
            let images = images.to_kind(Kind::Float);
            let map: Vec<u32> = network.features(&images, true).size()[1..].iter().map(|&size| size as u32).collect();
            assert_eq!(map, described.layout_at(37, side).feature_map, "{name} at {side}");
            assert_eq!(network.logits(&images, true).size(), [2, 37]);
        }
    }
}

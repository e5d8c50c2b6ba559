//! The networks on libtorch are the published ones: same state dict, same logits.

use distillery::architecture;
use distillery_trainer::models::{self, Network};
use serde_json::Value;
use tch::{Device, Kind, Tensor};

fn fixture(text: &str) -> serde_json::Map<String, Value> {
    serde_json::from_str(text).unwrap()
}

fn architectures() -> serde_json::Map<String, Value> {
    fixture(include_str!("../../tests/fixtures/architectures.json"))
}

/// The fixture's deterministic noise in [-1, 1).
fn hashed(count: i64, k: usize) -> Tensor {
    let value = |i: i64| {
        let v = (12.9898 * i as f64 + 78.233 * k as f64).sin() * 43758.5453;
        2.0 * (v - v.floor()) - 1.0
    };
    Tensor::from_slice(&(0..count).map(value).collect::<Vec<f64>>())
}

/// Fills the network with the fixture's weights, in float64; `statistics` are the running ones.
fn with_fixed_weights(name: &str, classes: u32, statistics: impl Fn(&str, Tensor) -> Tensor) -> Network {
    let mut network = models::build(architecture::find(name).unwrap(), classes, 0);
    network.place(Device::Cpu, Kind::Double);
    for (k, weight) in network.weights().iter().enumerate() {
        let shape = weight.tensor.size();
        let noise = hashed(weight.tensor.numel() as i64, k).view(shape.as_slice());
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

fn fixed_input() -> Tensor {
    hashed(4 * 3 * 32 * 32, 1000).view([4, 3, 32, 32])
}

/// The first eight logits of each image against the expected ones, and the norm of all.
fn assert_logits(name: &str, logits: &Tensor, first_8: &Value, l2: &Value, relative: f64) {
    let norm = logits.to_kind(Kind::Double).norm().double_value(&[]);
    let expected_norm = l2.as_f64().unwrap();
    assert!((norm - expected_norm).abs() <= relative * expected_norm, "{name}: norm {norm}, expected {expected_norm}");
    let typical = expected_norm / (logits.numel() as f64).sqrt();
    for (image, row) in first_8.as_array().unwrap().iter().enumerate() {
        for (class, expected) in row.as_array().unwrap().iter().enumerate() {
            let (found, expected) = (logits.double_value(&[image as i64, class as i64]), expected.as_f64().unwrap());
            // The fixture rounds to nine places.
            let tolerance = 0.51e-9 + relative * typical.max(expected.abs());
            assert!((found - expected).abs() <= tolerance, "{name}[{image}, {class}]: {found}, expected {expected}");
        }
    }
}

#[test]
fn every_network_has_the_state_dict_that_architecture_describes() {
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
fn training_mode_logits_are_the_published_ones() {
    let _guard = tch::no_grad_guard();
    for (name, expected) in architectures() {
        let mut network = with_fixed_weights(&name, 100, |kind, noise| match kind {
            "running_mean" => noise.zeros_like(),
            _ => noise.ones_like(),
        });
        let features = network.features(&fixed_input(), true);
        let map: Vec<i64> = serde_json::from_value(expected["feature_map"].clone()).unwrap();
        assert_eq!(features.size()[1..], map, "{name}");
        let logits = network.classify(&features.mean_dim([2_i64, 3].as_slice(), false, None::<Kind>));
        assert_logits(&name, &logits, &expected["logits_first_8"], &expected["logits_l2"], 1e-9);
        // The same weights and input, in float32.
        network.place(Device::Cpu, Kind::Float);
        let logits = network.logits(&fixed_input(), true);
        assert_logits(&name, &logits, &expected["logits_first_8"], &expected["logits_l2"], 1e-4);
    }
}

#[test]
fn evaluation_mode_logits_are_pytorchs() {
    let _guard = tch::no_grad_guard();
    for (name, expected) in fixture(include_str!("fixtures/architectures_evaluation.json")) {
        let mut network = with_fixed_weights(&name, 100, |kind, noise| match kind {
            "running_mean" => noise * 0.1,
            _ => noise * 0.2 + 1.0,
        });
        let logits = network.logits(&fixed_input(), false);
        assert_logits(&name, &logits, &expected["logits_first_8"], &expected["logits_l2"], 1e-9);
        network.place(Device::Cpu, Kind::Float);
        let logits = network.logits(&fixed_input(), false);
        assert_logits(&name, &logits, &expected["logits_first_8"], &expected["logits_l2"], 1e-4);
        // Computed in bfloat16 it is the same network up to the precision of bfloat16, frozen or not.
        network.compute_in(Kind::BFloat16);
        let rough = network.logits(&fixed_input(), false);
        assert_eq!(rough.kind(), Kind::Float);
        let difference = (&rough - &logits).norm().double_value(&[]) / logits.norm().double_value(&[]);
        assert!(difference > 1e-5 && difference < 0.05, "{name}: {difference}");
        network.freeze();
        assert_eq!(network.logits(&fixed_input(), false), rough);
    }
}

#[test]
fn a_seed_decides_the_initial_weights_and_they_are_the_published_distributions() {
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
fn classes_and_input_side_are_free() {
    let network = models::build(architecture::find("resnet20_a").unwrap(), 37, 0);
    let _guard = tch::no_grad_guard();
    for side in [24, 33, 64] {
        let images = hashed(2 * 3 * side * side, 5).view([2, 3, side, side]).to_kind(Kind::Float);
        assert_eq!(network.logits(&images, true).size(), [2, 37]);
    }
}

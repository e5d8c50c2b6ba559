//! timm's networks compute what PyTorch computes: logits, gradients, running statistics, maps, and logits of regions.
//!
//! `tests/fixtures/exported` has networks of timm 1.0.22 with random weights, and beside each what PyTorch 2.11
//! computed with it in float64: for images with the labels 0, 1, 2, 3 in evaluation and in training mode, and the head
//! applied to the mean of the map and to those of 2×2 regions.

use std::path::{Path, PathBuf};

use distillery_trainer::models::{self, Network};
use tch::{Device, Kind, Reduction, Tensor};

use super::networks::distance;
use crate::support::bounded::U;
use crate::support::rounding::Rounding;
use crate::support::torch::one_thread;

const NAMES: [&str; 4] = ["test_efficientnet", "test_convnext", "test_byobnet", "test_vit_avg"];

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/exported").join(name)
}

/// What PyTorch computed, by name.
struct Expected(Vec<(String, Tensor)>);

impl Expected {
    fn of(name: &str) -> Self {
        let tensors = Tensor::read_safetensors(path(&format!("{name}.safetensors"))).unwrap();
        Self(tensors.into_iter().map(|(name, tensor)| (name, tensor.to_kind(Kind::Double))).collect())
    }

    fn get(&self, name: &str) -> Option<&Tensor> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, tensor)| tensor)
    }

    fn images(&self) -> &Tensor {
        self.get("images").unwrap()
    }
}

fn network(name: &str, kind: Kind) -> Network {
    one_thread();
    let file = path(&format!("{name}.pt2"));
    let mut network = models::exported::build(&file, &models::exported::open(&file).unwrap().0).unwrap();
    network.place(Device::Cpu, kind);
    network
}

/// Asserts that a tensor is PyTorch's, if that was recorded.
fn assert_near(name: &str, what: &str, found: &Tensor, expected: &Expected, tolerance: f64) {
    if let Some(wanted) = expected.get(what) {
        let distance = distance(found, wanted);
        assert!(distance < tolerance, "{name}: {what} is {distance:e} off");
    }
}

const KINDS: [Kind; 2] = [Kind::Float, Kind::Double];
/// No sum of these networks has more terms.
const TERMS: i64 = 4096;

/// How far a result in a kind may be from PyTorch's, relative to its norm: as far as float64 moves with roundings of
/// the weights and images. Images and results are stored in single precision.
fn tolerance(name: &str, kind: Kind, result: impl Fn(&Network, &Tensor) -> Tensor) -> f64 {
    let rounding = Rounding { relative: Rounding::of(kind, TERMS).relative.max(2.0 * U) };
    let images = Expected::of(name).images().shallow_clone();
    let exact = result(&network(name, Kind::Double), &images);
    let moved = network(name, Kind::Double);
    for (index, weight) in moved.weights().iter().enumerate().filter(|(_, weight)| weight.is_float) {
        moved.set(index, &rounding.moved(&weight.tensor, index));
    }
    rounding.relative + distance(&result(&moved, &rounding.moved(&images, 1000)), &exact)
}

#[test]
fn evaluation_gives_pytorchs_logits_maps_and_logits_of_regions() {
    let _guard = tch::no_grad_guard();
    let logits = |network: &Network, images: &Tensor| network.logits(images, false);
    let features = |network: &Network, images: &Tensor| network.features(images, false);
    let regions = |network: &Network, images: &Tensor| {
        network.regions(&network.features(images, false), &[2], false).joined(&[2])
    };
    for name in NAMES {
        let expected = Expected::of(name);
        for kind in KINDS {
            let network = network(name, kind);
            let images = expected.images();
            assert_near(name, "eval_logits", &logits(&network, images), &expected, tolerance(name, kind, logits));
            assert_near(name, "feature_map", &features(&network, images), &expected, tolerance(name, kind, features));
            assert_near(name, "region_logits", &regions(&network, images), &expected, tolerance(name, kind, regions));
        }
    }
}

#[test]
fn a_frozen_network_gives_pytorchs_logits_in_float32_and_nearly_in_bfloat16() {
    let _guard = tch::no_grad_guard();
    let logits = |network: &Network, images: &Tensor| network.logits(images, false);
    for name in NAMES {
        let expected = Expected::of(name);
        let network = network(name, Kind::Float);
        let constant = network.constant(Kind::Float, 4, 64);
        let allowed = tolerance(name, Kind::Float, logits);
        assert_near(name, "eval_logits", &constant.logits(expected.images(), false), &expected, allowed);
        // Frozen, it does not train.
        assert_near(name, "eval_logits", &constant.logits(expected.images(), true), &expected, allowed);
        let rough = network.constant(Kind::BFloat16, 4, 64).logits(expected.images(), false);
        assert_eq!(rough.kind(), Kind::Float);
        assert_near(name, "eval_logits", &rough, &expected, tolerance(name, Kind::BFloat16, logits));
    }
}

fn training_logits(network: &Network, images: &Tensor) -> Tensor {
    network.logits(images, true)
}

/// The norms of the gradients of the cross-entropy for the labels 0, 1, 2, 3.
fn gradient_norms(network: &Network, images: &Tensor) -> Tensor {
    let labels = Tensor::arange(4, (Kind::Int64, Device::Cpu));
    training_logits(network, images).cross_entropy_loss::<Tensor>(&labels, None, Reduction::Mean, -100, 0.0).backward();
    let norms: Vec<Tensor> = network.trained().map(|tensor| tensor.grad().to_kind(Kind::Double).norm()).collect();
    Tensor::stack(&norms, 0)
}

/// The running statistics, if a network has any.
fn running_statistics(network: &Network) -> Option<Tensor> {
    let statistics = network.weights().iter().filter(|weight| weight.name.contains("running_"));
    let statistics: Vec<Tensor> = statistics.map(|weight| weight.tensor.to_kind(Kind::Double)).collect();
    (!statistics.is_empty()).then(|| Tensor::cat(&statistics, 0))
}

#[test]
fn training_gives_pytorchs_logits_gradients_and_running_statistics() {
    for name in NAMES {
        let expected = Expected::of(name);
        let Some(norms) = expected.get("grad_norms") else { continue };
        for kind in KINDS {
            let tolerance = |result: &dyn Fn(&Network, &Tensor) -> Tensor| tolerance(name, kind, result);
            let logits = training_logits(&network(name, kind), expected.images());
            assert_near(name, "train_logits", &logits, &expected, tolerance(&training_logits));
            let network = network(name, kind);
            let counters = || network.weights().iter().filter(|weight| weight.name.ends_with("num_batches_tracked"));
            let counts = || counters().map(|weight| i64::try_from(&weight.tensor).unwrap()).collect::<Vec<_>>();
            let in_the_file = counts();
            let distance = distance(&gradient_norms(&network, expected.images()), norms);
            let allowed = tolerance(&gradient_norms);
            assert!(distance < allowed, "{name}: gradients are {distance:e} off in {kind:?}, not {allowed:e}");
            if let Some(statistics) = running_statistics(&network) {
                let after = |network: &Network, images: &Tensor| {
                    let _ = training_logits(network, images);
                    running_statistics(network).expect("it has some")
                };
                assert_near(name, "running_after", &statistics, &expected, tolerance(&after));
            }
            assert_eq!(counts(), in_the_file.iter().map(|count| count + 1).collect::<Vec<_>>(), "{name}");
        }
    }
}

#[test]
fn bfloat16_training_has_float32_weights_and_gradients_near_those_of_float32() {
    for name in ["test_efficientnet", "test_convnext", "test_byobnet"] {
        let expected = Expected::of(name);
        let mut network = network(name, Kind::Float);
        network.compute_in(Kind::BFloat16);
        let logits = network.logits(expected.images(), true);
        assert_eq!(logits.kind(), Kind::Float);
        let allowed = tolerance(name, Kind::BFloat16, training_logits);
        assert_near(name, "train_logits", &logits, &expected, allowed);
        logits.square().sum(Kind::Float).backward();
        for weight in network.weights().iter().filter(|weight| weight.trained) {
            assert_eq!(weight.tensor.grad().kind(), Kind::Float, "{name}: {}", weight.name);
            assert!(bool::try_from(weight.tensor.grad().isfinite().all()).unwrap(), "{name}: {}", weight.name);
        }
    }
}

#[test]
fn the_state_dict_has_the_files_keys_types_and_shapes() {
    for name in NAMES {
        let (file, _) = models::exported::open(&path(&format!("{name}.pt2"))).unwrap();
        let network = network(name, Kind::Float);
        let found: Vec<_> = network
            .weights()
            .iter()
            .map(|weight| (weight.name.as_str(), weight.tensor.size(), weight.tensor.kind() == Kind::Int64))
            .collect();
        let wanted: Vec<_> = file
            .tensors()
            .iter()
            .map(|stored| {
                let shape: Vec<i64> = stored.tensor.shape().iter().map(|&size| size as i64).collect();
                (stored.tensor.name(), shape, stored.tensor.name().ends_with("num_batches_tracked"))
            })
            .collect();
        assert_eq!(found, wanted, "{name}");
        assert_eq!(network.parameters(), file.description().parameters, "{name}");
    }
}
